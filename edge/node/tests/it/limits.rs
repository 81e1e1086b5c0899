//! Who takes too much: connections of one address and of one instance. Each is refused for itself
//! alone, and what it gives back is free.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{Client, close_code, open, raw};
use crate::world::{World, config, snapshot};

const ADDRESS: &str = "gb6_edge_over_limit_total{of=\"address\"}";
const INSTANCE: &str = "gb6_edge_over_limit_total{of=\"instance\"}";

#[tokio::test]
async fn an_address_has_so_many_connections_and_is_told_of_the_next() {
    let mut settings = config();
    settings.connections_per_address = Some(2);
    let world = World::start(settings);
    let token = world.token("alice");
    let first = Client::connect(world.address, &token).await;
    let mut second = Client::connect(world.address, &token).await;

    // The next ones are upgraded to be told, whatever they send, and verify no token.
    let mut third = raw(world.address).await;
    assert_eq!(close_code(&mut third).await, Some(3504));
    let mut fourth = Client::over(open(world.address, "", &[]).await.unwrap());
    assert_eq!(fourth.closed().await, (3504, "connection limit".to_owned()));
    let opened = world.metric("gb6_edge_session_events_total{event=\"connected\"}");
    assert_eq!((world.metric(ADDRESS), opened), (2.0, 2.0));
    second.call(json!({"id": 2, "ping": {}})).await;
    drop(fourth);
    world.metric_reaches("gb6_edge_connections", 3.0).await;

    // Far too many are dropped before anything is read of them.
    let silent = TcpStream::connect(world.address).await.unwrap();
    let mut dropped = TcpStream::connect(world.address).await.unwrap();
    let mut answer = String::new();
    dropped.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

    drop((first, third, silent));
    crate::world::eventually("free places", || world.edge.connections() == 1).await;
    Client::connect(world.address, &token).await;
}

#[tokio::test]
async fn an_instance_has_so_many_sessions_and_costs_the_others_nothing() {
    let mut placed = snapshot();
    let acme = placed.instances.get_mut("acme").unwrap();
    acme.connections_max = Some(1);
    let world = World::start_placed(config(), placed.clone()).unwrap();
    let acme = world.token_of("acme", "alice", 60);
    let first = Client::connect(world.address, &acme).await;
    let refused = || async {
        let mut client = Client::open(world.address).await;
        let connect = json!({"id": 1, "connect": {"token": acme}});
        client.send(&connect).await;
        client.closed().await.0
    };
    assert_eq!(refused().await, 3504);
    assert_eq!(world.metric(INSTANCE), 1.0);
    Client::connect(world.address, &world.token("alice")).await;

    // A refresh is no second session, and a token that is refused takes no place.
    let mut first = first;
    let refresh = json!({"id": 2, "refresh": {"token": acme}});
    assert!(first.call(refresh).await["refresh"].is_object());
    let mut bad = Client::open(world.address).await;
    bad.send(&json!({"id": 1, "connect": {"token": "x"}})).await;
    assert_eq!(bad.closed().await.0, 3500);

    drop(first);
    crate::world::eventually("the place", || world.edge.sessions() == 0).await;
    let second = Client::connect(world.address, &acme).await;

    // A bound that is raised while the edge runs.
    placed.revision = 2;
    placed.instances.get_mut("acme").unwrap().connections_max = None;
    world.place(placed);
    let mut codes = Vec::new();
    while codes.len() < 500 {
        let mut client = Client::open(world.address).await;
        client
            .send(&json!({"id": 1, "connect": {"token": acme}}))
            .await;
        match client.event().await {
            Ok(reply) => {
                assert!(reply["connect"].is_object(), "{reply}");
                break;
            }
            Err(close) => codes.push(close.map(|c| u16::from(c.code))),
        }
    }
    assert!(codes.iter().all(|c| *c == Some(3504)), "{codes:?}");
    drop(second);
}
