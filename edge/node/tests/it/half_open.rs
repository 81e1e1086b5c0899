//! Connections that say nothing: bounded in number and time, and nobody else's problem.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::Child;
use crate::client::{Client, PATIENCE, http, http_or_reset, raw};
use crate::world::{World, config, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_connections_pushes_out_only_itself() {
    let mut settings = config();
    settings.connections_max = Some(600);
    settings.half_open_max = Some(500);
    let world = World::start(settings);
    let mut before = Client::connect(world.address, &world.token("before")).await;
    before
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let mut silent = Vec::new();
    for n in 0..2000 {
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        // Every third begins a request and never ends it, every seventh a WebSocket.
        if n % 3 == 0 {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        }
        silent.push(tcp);
    }
    eventually("evictions", || {
        world.metric("gb6_edge_half_open_dropped_total{why=\"evicted\"}") >= 1400.0
    })
    .await;
    assert!(world.metric("gb6_edge_half_open") <= 500.0);
    // Somebody new gets in, and those inside go on.
    let mut after = Client::connect(world.address, &world.token("after")).await;
    after
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    after
        .call(json!({"id": 3, "publish": {"channel": "room:1", "data": 7}}))
        .await;
    assert_eq!(before.next().await["push"]["pub"]["data"], json!(7));
    // The first of the silent ones were dropped.
    let mut byte = [0];
    let end = tokio::time::timeout(PATIENCE, silent[0].read(&mut byte)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_a_token_make_room_when_all_places_are_taken() {
    let mut settings = config();
    settings.connections_max = Some(50);
    settings.half_open_max = Some(1000);
    let world = World::start(settings);
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(Client::connect(world.address, &world.token(&format!("u{n}"))).await);
    }
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(raw(world.address).await);
    }
    for n in 10..40 {
        members.push(Client::connect(world.address, &world.token(&format!("u{n}"))).await);
    }
    for (n, member) in members.iter_mut().enumerate() {
        let reply = member
            .call(json!({"id": 9, "subscribe": {"channel": format!("room:{n}")}}))
            .await;
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    // Where all places are members', a new connection is told so.
    for n in 40..50 {
        members.push(Client::connect(world.address, &world.token(&format!("u{n}"))).await);
    }
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let status = http_or_reset(world.address, request).await;
    assert!(status == 503 || status == 0, "{status}");
    assert!(world.metric("gb6_edge_refused_full_total") >= 1.0);
    members.truncate(10);
    eventually("places are free", || world.edge.connections() <= 10).await;
    assert_eq!(http(world.address, request).await.0, 200);
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_dropped_in_time() {
    let mut settings = config();
    settings.header_timeout = Duration::from_millis(300);
    let world = World::start(settings);
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let mut begun = TcpStream::connect(world.address).await.unwrap();
    begun
        .write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nX: ")
        .await
        .unwrap();
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    // One that trickles: each byte in time, the whole never.
    let mut trickling = TcpStream::connect(world.address).await.unwrap();
    let trickle = async {
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ".iter().cycle() {
            if trickling.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle).await.unwrap();
    for tcp in [&mut silent, &mut begun, &mut idle] {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut rest)).await;
        assert!(end.is_ok());
    }
    eventually("all gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_a_head_is_gone_at_once() {
    let world = World::start(config());
    for begun in ["", "G", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        tcp.write_all(begun.as_bytes()).await.unwrap();
        eventually("it is here", || world.edge.connections() == 1).await;
        tcp.shutdown().await.unwrap();
        eventually("it is gone", || world.edge.connections() == 0).await;
    }
    // Whoever has asked in full may close its half and gets its answer.
    let mut tcp = TcpStream::connect(world.address).await.unwrap();
    tcp.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_hurt_nobody() {
    // A process of its own, because both ends of so many connections are more files than one has.
    let child = Child::start(None);
    let mut member = Client::connect(child.address, &child.token).await;
    member
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let before = child.resident();
    let mut silent = Vec::new();
    for n in 0..10_000 {
        let mut tcp = TcpStream::connect(child.address).await.unwrap();
        if n % 2 == 0 {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        }
        silent.push(tcp);
        if n % 1000 == 999 {
            // Meanwhile those inside go on, and somebody new gets in.
            let asked = Instant::now();
            member
                .call(json!({"id": 3, "publish": {"channel": "room:1", "data": n}}))
                .await;
            Client::connect(child.address, &child.token).await;
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?} after {n}");
        }
    }
    let each = child.resident().saturating_sub(before) / silent.len();
    assert!(each < 4 * 1024, "{each} bytes for each silent connection");
}

#[tokio::test]
async fn who_waits_for_a_turn_makes_room_for_nobody() {
    let mut settings = config();
    settings.half_open_max = Some(4);
    settings.connects_per_second = Some(1);
    settings.connect_wait = PATIENCE;
    let world = World::start(settings);
    let (address, token) = (world.address, world.token("alice"));
    let _first = Client::connect(address, &token).await;
    // More than may be half-open, each a second behind the one before it.
    let served = Arc::<AtomicUsize>::default();
    let mut waiting = tokio::task::JoinSet::new();
    for n in 1..=6 {
        let (token, counts) = (token.clone(), served.clone());
        waiting.spawn(async move {
            let client = Client::connect(address, &token).await;
            counts.fetch_add(1, Ordering::Relaxed);
            client
        });
        let in_line = || {
            let served = served.load(Ordering::Relaxed);
            served + world.metric("gb6_edge_connects_waiting") as usize >= n
        };
        eventually("its place in the line", in_line).await;
    }
    let evicted = "gb6_edge_half_open_dropped_total{why=\"evicted\"}";
    let before = world.metric(evicted);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    eventually("evictions", || world.metric(evicted) >= before + 8.0).await;
    assert!(world.metric("gb6_edge_half_open") <= 4.0 + 6.0);
    tokio::time::timeout(2 * PATIENCE, waiting.join_all())
        .await
        .unwrap();
}
