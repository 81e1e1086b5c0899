//! Who takes too much: connections of one address and of one instance, commands of one user and of
//! one instance. Each is refused for itself alone, and what it gives back is free.

use gb6_core_model::snapshot::CommandRate;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{Client, PATIENCE, close_code, open, raw};
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

/// How many of ten pings in one frame are answered without an error, of codes 111 only.
async fn accepted(client: &mut Client) -> usize {
    let pings: Vec<String> = (11..21)
        .map(|id| json!({"id": id, "ping": {}}).to_string())
        .collect();
    client.send_text(pings.join("\n")).await;
    let mut accepted = 0;
    for _ in 0..10 {
        let reply = client.next().await;
        match reply.get("error") {
            None => accepted += 1,
            Some(error) => assert_eq!(error["code"], 111, "{reply}"),
        }
    }
    accepted
}

#[tokio::test]
async fn connections_of_a_user_share_a_rate_of_which_the_edge_has_a_share() {
    let mut placed = snapshot();
    let demo = placed.instances.get_mut("demo").unwrap();
    demo.user_command_rate = Some(CommandRate {
        per_second: 1,
        burst: 8,
    });
    let world = World::start_placed(config(), placed).unwrap();
    let alice = world.token("alice");
    let mut first = Client::connect(world.address, &alice).await;
    let mut second = Client::connect(world.address, &alice).await;
    // Without an owner that answers the whole limit, from the first command on.
    assert_eq!(accepted(&mut first).await, 8);
    assert_eq!(accepted(&mut second).await, 0, "the limit is the user's");
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    assert_eq!(accepted(&mut bob).await, 8);
    let mut elsewhere = Client::connect(world.address, &world.token_of("acme", "alice", 60)).await;
    assert_eq!(
        accepted(&mut elsewhere).await,
        10,
        "another instance has no limit"
    );
    let refused = "gb6_edge_session_events_total{event=\"shared_rate_refused\"}";
    assert_eq!(world.metric(refused), 14.0);
    assert_eq!(world.metric("gb6_edge_shared_limits"), 2.0);

    // The owner is asked for a share of what is used, and is told how much that is.
    world.owner.share(250_000);
    let asked_for = |user: &str| {
        let wanted = world.owner.limits_wanted();
        wanted.iter().any(|w| w.user == user && w.demand > 0)
    };
    crate::world::eventually("questions", || asked_for("alice") && asked_for("bob")).await;
    let wanted = world.owner.limits_wanted();
    assert!(wanted.iter().all(|w| w.instance == "demo"), "{wanted:?}");
    let mut carol = Client::connect(world.address, &world.token("carol")).await;
    carol.call(json!({"id": 2, "ping": {}})).await;
    crate::world::eventually("her share", || asked_for("carol")).await;
    // Of what is left of the burst, a quarter of the whole burst stays.
    crate::world::eventually("its end", || {
        world.metric("gb6_edge_shared_limits_alone") == 0.0
    })
    .await;
    assert_eq!(accepted(&mut carol).await, 2);

    // Who is over a shared limit stays connected: it may be others who are.
    for _ in 0..20 {
        accepted(&mut carol).await;
    }
    // What is used no more is given back.
    drop((first, second, bob, carol));
    let given_back = || world.owner.limits_wanted().iter().any(|w| w.demand == 0);
    crate::world::eventually("given back", given_back).await;
    crate::world::eventually("forgotten", || {
        world.metric("gb6_edge_shared_limits") == 0.0
    })
    .await;
}

#[tokio::test]
async fn an_instance_has_a_rate_that_a_new_placement_changes() {
    let mut placed = snapshot();
    let world = World::start_placed(config(), placed.clone()).unwrap();
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    assert_eq!(accepted(&mut alice).await, 10);
    let demo = placed.instances.get_mut("demo").unwrap();
    demo.instance_command_rate = Some(CommandRate {
        per_second: 1,
        burst: 5,
    });
    placed.revision = 2;
    world.place(placed);
    // For connections that are open, all of them together.
    let mut left = 10;
    for _ in 0..500 {
        left = accepted(&mut alice).await;
        if left < 10 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(left, 5);
    assert_eq!(accepted(&mut bob).await, 0);
    let room = json!({"id": 30, "unsubscribe": {"channel": "room:1"}});
    assert!(
        bob.call(room).await["error"].is_null(),
        "who makes room may"
    );
}

#[tokio::test]
async fn more_than_may_begin_at_once_wait_or_come_back_later() {
    let mut settings = config();
    settings.connects_per_second = Some(10);
    settings.connect_wait = std::time::Duration::from_millis(350);
    let world = World::start(settings);
    let (address, token) = (world.address, world.token("alice"));
    let tries = (0..40).map(|_| async {
        match open(address, "", &[]).await {
            Ok(ws) => {
                let mut client = Client::over(ws);
                let connect = json!({"id": 1, "connect": {"token": token}});
                client.send(&connect).await;
                assert!(client.next().await["connect"].is_object());
                Some(client)
            }
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 503);
                let after = answer.headers()["retry-after"].to_str().unwrap();
                assert!((1..=4).contains(&after.parse::<u32>().unwrap()), "{after}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    let begin = std::time::Instant::now();
    let clients: Vec<_> = futures_util::future::join_all(tries).await;
    let served = clients.iter().flatten().count();
    // Ten at once, and those whose turn comes soon enough; a slow machine has time for a few more.
    let most = 10 + 4 + (begin.elapsed().as_millis() / 100) as usize;
    assert!((13..=most).contains(&served), "{served} of {most}");
    let refused = world.metric("gb6_edge_upgrades_refused_total{why=\"storm\"}");
    assert_eq!(refused as usize, 40 - served);
    assert_eq!(world.metric("gb6_edge_connects_waiting"), 0.0);
    // Nobody else pays: health, pages, and a session when it is calm again.
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    assert_eq!(crate::client::http(address, &request).await.0, 200);
    let begin = std::time::Instant::now();
    let calm = loop {
        assert!(begin.elapsed() < PATIENCE);
        if let Ok(ws) = open(address, "", &[]).await {
            break ws;
        }
    };
    Client::over(calm).authenticate(&token).await;
}
