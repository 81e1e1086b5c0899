//! The end of an edge: everybody is told, what is under way is finished.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Client, http, open};
use crate::world::{World, config, eventually, room};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_told_to_reconnect_spread_over_the_window() {
    let mut settings = config();
    settings.drain_window = Duration::from_secs(3);
    let world = World::start(settings);
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(Client::connect(world.address, &world.token(&format!("u{n}"))).await);
    }
    let begin = Instant::now();
    let address = world.address;
    let drained = tokio::spawn(world.edge.drain());
    let mut times = Vec::new();
    for client in &mut clients {
        assert_eq!(client.closed().await, (3001, "shutdown".to_owned()));
        times.push(begin.elapsed());
    }
    drained.await.unwrap();
    let last = times.iter().max().unwrap();
    assert!(*last >= Duration::from_secs(2), "{times:?}");
    let first = times.iter().min().unwrap();
    assert!(*first < Duration::from_millis(1_500), "{times:?}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn at_once_when_nobody_is_there() {
    let mut settings = config();
    settings.drain_window = Duration::from_secs(60);
    let world = World::start(settings);
    let begin = Instant::now();
    world.edge.drain().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_when_the_last_one_has_left() {
    let mut settings = config();
    settings.drain_window = Duration::from_secs(10);
    let world = World::start(settings);
    let mut told = Client::connect(world.address, &world.token("a")).await;
    let leaves = Client::connect(world.address, &world.token("b")).await;
    let begin = Instant::now();
    let drained = tokio::spawn(world.edge.drain());
    // One of them is told at once, the other would be after half of the window.
    assert_eq!(told.closed().await.0, 3001);
    drop((told, leaves));
    drained.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_under_way_is_brought_to_its_end() {
    let mut settings = config();
    settings.drain_window = Duration::ZERO;
    let world = World::start(settings);
    let mut client = Client::connect(world.address, &world.token("a")).await;
    world.owner.mute(true);
    client
        .send(&json!({"id": 2, "publish": {"channel": "room:1", "data": 1}}))
        .await;
    eventually("the owner has it", || world.owner.kept() == 1).await;
    let owner = world.owner.clone();
    let drained = tokio::spawn(world.edge.drain());
    assert_eq!(client.closed().await.0, 3001);
    // The edge stays until the owner has answered.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!drained.is_finished());
    owner.mute(false);
    tokio::time::timeout(Duration::from_secs(2), drained)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_knows_that_everybody_is_gone_when_it_is_over() {
    for _ in 0..20 {
        let world = World::start(config());
        let mut clients = Vec::new();
        for n in 0..5 {
            let mut client = Client::connect(world.address, &world.token(&format!("u{n}"))).await;
            client
                .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
                .await;
            clients.push(client);
        }
        eventually("presence", || {
            world.owner.clients(&room("room:1")).len() == 5
        })
        .await;
        let closed = tokio::spawn(async move {
            for client in &mut clients {
                assert_eq!(client.closed().await.0, 3001);
            }
        });
        let owner = world.owner.clone();
        world.edge.drain().await;
        assert_eq!(owner.clients(&room("room:1")), Vec::<String>::new());
        closed.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_drains_is_not_ready_and_sends_new_sessions_elsewhere() {
    let mut settings = config();
    settings.drain_window = Duration::from_secs(6);
    let world = World::start(settings);
    let get = |path: &str| {
        let head = "Connection: close\r\n\r\n";
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{head}", world.address);
        async move { http(world.address, &request).await }
    };
    let mut clients = Vec::new();
    for n in 0..4 {
        clients.push(Client::connect(world.address, &world.token(&format!("u{n}"))).await);
    }
    let (metrics, address) = (world.metrics.clone(), world.address);
    assert_eq!(get("/readyz").await.0, 200);
    let drained = tokio::spawn(world.edge.drain());
    assert_eq!(clients[0].closed().await.0, 3001);
    let (status, _, body) = get("/readyz").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(get("/healthz").await.0, 200, "it lives");
    // Whoever keeps a connection is to make another one for the next request.
    let kept = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let (status, head, _) = http(address, &kept).await;
    assert_eq!(status, 200);
    assert!(head.to_lowercase().contains("connection: close"), "{head}");
    let (status, head, body) = get("/connection/websocket").await;
    assert_eq!(status, 503, "{body}");
    assert!(head.to_lowercase().contains("retry-after: 1"), "{head}");
    assert!(body.contains("stopping"), "{body}");
    assert!(open(address, "", &[]).await.is_err());
    // By every transport over HTTP.
    for path in ["http_stream", "sse", "uni_sse"] {
        let request = format!(
            "POST /connection/{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(http(address, &request).await.0, 503, "{path}");
    }
    let refused = "gb6_edge_upgrades_refused_total{why=\"drain\"} 5";
    assert!(metrics.text().lines().any(|line| line == refused));
    // The others are served until they are told.
    let ping = json!({"id": 9, "ping": {}});
    assert!(clients[3].call(ping).await["error"].is_null());
    for client in &mut clients[1..] {
        assert_eq!(client.closed().await.0, 3001);
    }
    drained.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
