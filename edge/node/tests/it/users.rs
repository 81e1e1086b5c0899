//! A user is asked for at the edges that have it: which edges that are, and that nobody who has seen
//! the answer to a connect is missed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::call;
use crate::api_users::{connected, edges};
use crate::client::Client;
use crate::world::{World, config, eventually, value_of};

const SOME: &str = "gb6_edge_api_user_questions_total{edges=\"some\"}";
const ALL: &str = "gb6_edge_api_user_questions_total{edges=\"all\"}";
const ASKED: &str = "gb6_edge_relay_questions_total{outcome=\"answered\"}";

async fn disconnect(world: &World, user: &str) {
    let done = call(world, "disconnect", json!({"user": user})).await;
    assert_eq!(done, json!({"result": {}}));
}

/// What a command about a user added to questions to some edges, to all, and to edges at all.
async fn cost(world: &World, user: &str) -> [f64; 3] {
    let values = || [SOME, ALL, ASKED].map(|name| world.metric(name));
    let before = values();
    disconnect(world, user).await;
    let after = values();
    [0, 1, 2].map(|n| after[n] - before[n])
}

/// Waits until commands about a user whom nobody has ask no edge.
async fn until_all_have_reported(world: &World) {
    let began = Instant::now();
    while cost(world, "nobody").await != [1.0, 0.0, 0.0] {
        assert!(began.elapsed() < Duration::from_secs(10), "never");
    }
}

#[tokio::test]
async fn a_command_goes_to_the_edges_that_have_the_user() {
    let (world, other) = edges().await;
    let (mut bob, _) = connected(world.address, &world.token("bob")).await;
    // The other edge has nobody and has said nothing: it is asked, and says so from now on.
    assert_eq!(cost(&world, "alice").await, [0.0, 1.0, 2.0]);
    until_all_have_reported(&world).await;
    let (mut alice, _) = connected(other.address, &world.token("alice")).await;
    let (mut both, _) = connected(other.address, &world.token("both")).await;
    let (mut both_here, _) = connected(world.address, &world.token("both")).await;
    let connections = call(&world, "connections", json!({"user": "alice"})).await;
    let found = connections["result"]["connections"].as_object().unwrap();
    assert_eq!(found.len(), 1, "{connections}");
    assert_eq!(cost(&world, "alice").await, [1.0, 0.0, 1.0]);
    assert_eq!(alice.closed().await.0, 3503);
    assert_eq!(cost(&world, "both").await, [1.0, 0.0, 2.0]);
    assert_eq!(both.closed().await.0, 3503);
    assert_eq!(both_here.closed().await.0, 3503);
    assert_eq!(cost(&world, "bob").await, [1.0, 0.0, 1.0]);
    assert_eq!(bob.closed().await.0, 3503);
    // Of anonymous people nobody knows where they are; nor of names that fit into no channel.
    let client = json!({"user": "", "client": "c", "channel": "room:1"});
    call(&world, "unsubscribe", client).await;
    assert_eq!(cost(&world, "a,b").await, [0.0, 1.0, 2.0]);
    // Whoever has left is forgotten after a while.
    eventually("alice is forgotten", || {
        world.owner.edges_of("demo", "alice").0.is_empty()
    })
    .await;
    assert_eq!(cost(&world, "alice").await, [1.0, 0.0, 0.0]);
}

#[tokio::test]
async fn nobody_who_has_seen_the_answer_to_a_connect_is_missed() {
    let (world, other) = edges().await;
    let _here = connected(world.address, &world.token("bob")).await;
    let _there = connected(other.address, &world.token("carol")).await;
    until_all_have_reported(&world).await;
    for n in 0..50 {
        let user = format!("u{n}");
        let (mut client, _) = connected(other.address, &world.token(&user)).await;
        assert_eq!(cost(&world, &user).await, [1.0, 0.0, 1.0]);
        assert_eq!(client.closed().await.0, 3503);
    }
    let unheard = "gb6_edge_arrivals_unheard_total{region=\"r\",shard=\"0\"}";
    assert_eq!(value_of(&other.metrics, unheard), 0.0);
}

#[tokio::test]
async fn a_user_who_comes_and_goes_is_reported_once_and_further_sessions_are_not() {
    let world = World::start(config());
    let token = world.token("alice");
    let (_first, _) = connected(world.address, &token).await;
    let (edges, reports) = world.owner.edges_of("demo", "alice");
    assert_eq!(edges, ["e1"]);
    for _ in 0..10 {
        let (client, _) = connected(world.address, &token).await;
        drop(client);
    }
    let (mut bob, _) = connected(world.address, &world.token("bob")).await;
    for _ in 0..5 {
        bob.send(&json!({"id": 9, "send": {}})).await;
        bob.closed().await;
        bob = connected(world.address, &world.token("bob")).await.0;
    }
    assert_eq!(world.owner.edges_of("demo", "alice").1, reports + 1);
}

#[tokio::test]
async fn a_connect_waits_for_an_owner_that_listens_late_and_not_for_one_that_is_away() {
    let (world, other) = edges().await;
    let _here = connected(world.address, &world.token("bob")).await;
    let _there = connected(other.address, &world.token("carol")).await;
    until_all_have_reported(&world).await;
    world.owner.deafen(true);
    let mut alice = Client::open(other.address).await;
    let connect = |user: &str| json!({"id": 1, "connect": {"token": world.token(user)}});
    alice.send(&connect("alice")).await;
    let early = tokio::time::timeout(Duration::from_millis(300), alice.next()).await;
    assert!(early.is_err(), "{early:?}");
    world.owner.deafen(false);
    let reply = alice.next().await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(cost(&world, "alice").await, [1.0, 0.0, 1.0]);
    assert_eq!(alice.closed().await.0, 3503);
    // Behind a cut link the owner knows nothing of this edge: nobody waits for it for long.
    world.cut();
    let unheard = "gb6_edge_arrivals_unheard_total{region=\"r\",shard=\"0\"}";
    assert_eq!(world.metric(unheard), 0.0);
    let mut dave = Client::open(world.address).await;
    dave.send(&connect("dave")).await;
    world.metric_reaches(unheard, 1.0).await;
}

#[tokio::test]
async fn users_go_along_with_their_channels_to_other_shards() {
    let (world, other) = edges().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        let address = if n % 2 == 0 {
            world.address
        } else {
            other.address
        };
        let user = format!("u{n}");
        let (client, _) = connected(address, &world.token(&user)).await;
        clients.push((user, client));
    }
    until_all_have_reported(&world).await;
    let mut snapshot = world.snapshot.clone();
    snapshot.revision = 2;
    snapshot.regions.get_mut("r").unwrap().shards = 2;
    snapshot.regions.get_mut("r").unwrap().owners = vec!["r1".into(), "r1".into()];
    world.place(snapshot);
    let attached = |metrics: &gb6_core_obs::Metrics| {
        let users = |shard| format!("gb6_edge_shard_users{{region=\"r\",shard=\"{shard}\"}}");
        let users = [0, 1].map(|shard| value_of(metrics, &users(shard)));
        users.iter().all(|users| *users > 0.0) && users.iter().sum::<f64>() == 10.0
    };
    eventually("users are in two shards", || {
        attached(&world.metrics) && attached(&other.metrics)
    })
    .await;
    for (user, mut client) in clients {
        let began = Instant::now();
        // Nobody is missed meanwhile; in the end nobody is asked in vain.
        let [some, all, asked] = cost(&world, &user).await;
        assert!(some + all == 1.0 && asked >= 1.0);
        assert_eq!(client.closed().await.0, 3503);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    until_all_have_reported(&world).await;
}
