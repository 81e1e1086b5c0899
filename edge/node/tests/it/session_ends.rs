//! Ends of sessions and subscriptions on their way to the owner: one for each, whoever ended it, and
//! none where nobody wants to hear of them.

use std::collections::BTreeSet;

use gb6_core_model::{WebhookEvent, Webhooks};
use gb6_core_wire::mesh::SessionEnd;
use gb6_core_wire::record::SessionEvent;
use serde_json::json;

use crate::api::call;
use crate::api_users::connected;
use crate::world::{World, config, eventually, snapshot};

/// An edge whose instance `demo` wants to hear of everything, `acme` of nothing.
fn world() -> World {
    let mut snapshot = snapshot();
    let demo = snapshot.instances.get_mut("demo").unwrap();
    demo.webhooks = Some(Webhooks {
        events: WebhookEvent::ALL.iter().copied().collect(),
        ..Webhooks::default()
    });
    World::start_placed(config(), snapshot).unwrap()
}

/// Ends, once there are so many: client, event, channel, code and reason.
async fn ends(world: &World, count: usize) -> Vec<(String, SessionEvent, String, u32, String)> {
    eventually("ends", || world.owner.session_ends().len() >= count).await;
    let told = |end: SessionEnd| {
        assert_eq!((end.of.instance.as_str(), end.instance_epoch), ("demo", 1));
        let event = end.event();
        (end.of.client, event, end.channel, end.code, end.reason)
    };
    world.owner.session_ends().into_iter().map(told).collect()
}

#[tokio::test]
async fn whoever_ends_it_an_end_is_told_once() {
    let world = world();
    let token = world.token("alice");
    let mut names = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (mut client, connect) = connected(world.address, &token).await;
        for channel in ["room:1", "room:2"] {
            let subscribe = json!({"id": 2, "subscribe": {"channel": channel}});
            assert!(client.call(subscribe).await["subscribe"].is_object());
        }
        names.push(connect["client"].as_str().unwrap().to_owned());
        clients.push(client);
    }
    eventually("all are known", || world.owner.sessions().len() == 5).await;
    let known: BTreeSet<String> = world.owner.sessions().into_iter().collect();
    assert_eq!(known, names.iter().cloned().collect());
    let unsubscribe = json!({"id": 3, "unsubscribe": {"channel": "room:1"}});
    assert!(clients[0].call(unsubscribe).await["unsubscribe"].is_object());
    // What it has not is no end.
    let unsubscribe = json!({"id": 4, "unsubscribe": {"channel": "room:3"}});
    assert!(clients[0].call(unsubscribe).await["unsubscribe"].is_object());
    let one = json!({"user": "alice", "client": names[1], "channel": "room:2"});
    call(&world, "unsubscribe", one).await;
    let ended = |n: usize, channel: &str, code, reason: &str| {
        let event = match channel {
            "" => SessionEvent::Disconnect,
            _ => SessionEvent::Unsubscribe,
        };
        let (channel, reason) = (channel.to_owned(), reason.to_owned());
        (names[n].clone(), event, channel, code, reason)
    };
    let mut wanted = vec![
        ended(0, "room:1", 0, "client unsubscribed"),
        ended(1, "room:2", 2000, "server unsubscribed"),
    ];
    assert_eq!(ends(&world, 2).await, wanted);
    // The application, the client that breaks the protocol, the network, and the edge that goes.
    let one = json!({
        "user": "alice", "client": names[1],
        "disconnect": {"code": 4501, "reason": "you moved"},
    });
    call(&world, "disconnect", one).await;
    wanted.push(ended(1, "", 4501, "you moved"));
    assert_eq!(ends(&world, 3).await, wanted);
    clients[2].send(&json!({"id": 9, "send": {}})).await;
    wanted.push(ended(2, "", 3508, "not available"));
    assert_eq!(ends(&world, 4).await, wanted);
    drop(clients.remove(3));
    wanted.push(ended(3, "", 0, "connection lost"));
    assert_eq!(ends(&world, 5).await, wanted);
    let owner = world.owner.clone();
    world.edge.drain().await;
    let mut rest = owner.session_ends().split_off(5);
    rest.sort_by_key(|end| end.of.session);
    let rest: Vec<(String, u32)> = rest.into_iter().map(|e| (e.of.client, e.code)).collect();
    let left = |n: usize| (names[n].clone(), 3001);
    assert_eq!(rest, [left(0), left(4)]);
    assert!(owner.sessions().is_empty());
}

#[tokio::test]
async fn nobody_hears_of_what_nobody_wants_to_hear_of() {
    let world = world();
    let foreign = world.token_of("acme", "alice", 600);
    let (client, _) = connected(world.address, &foreign).await;
    drop(client);
    // A connect that is refused has not begun.
    let bad = world.token_of("demo", "alice", -600);
    let mut client = crate::client::Client::open(world.address).await;
    let refused = client
        .call(json!({"id": 1, "connect": {"token": bad}}))
        .await;
    assert!(refused["error"].is_object());
    drop(client);
    let (client, connect) = connected(world.address, &world.token("bob")).await;
    drop(client);
    let ends = ends(&world, 1).await;
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].0, connect["client"]);
}

#[tokio::test]
async fn ends_behind_a_cut_link_are_told_when_there_is_one_again() {
    let world = world();
    let token = world.token("alice");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connected(world.address, &token).await);
    }
    eventually("all are known", || world.owner.sessions().len() == 20).await;
    world.cut();
    let attached = "gb6_edge_shard_attached{region=\"r\",shard=\"0\"}";
    world.metric_falls(attached, 0.0).await;
    let rest = clients.split_off(10);
    let gone: BTreeSet<String> = clients
        .iter()
        .map(|(_, connect)| connect["client"].as_str().unwrap().to_owned())
        .collect();
    drop(clients);
    let waiting = "gb6_edge_session_ends_waiting{region=\"r\",shard=\"0\"}";
    world.metric_reaches(waiting, 10.0).await;
    assert!(world.owner.session_ends().is_empty());
    world.network.heal(&"e1".into(), &"r1".into());
    let told: Vec<String> = ends(&world, 10).await.into_iter().map(|e| e.0).collect();
    assert_eq!(told.len(), 10);
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), gone);
    assert_eq!(world.owner.sessions().len(), 10);
    world.metric_falls(waiting, 0.0).await;
    drop(rest);
}

#[tokio::test]
async fn sessions_of_an_instance_that_is_gone_are_taken_back_where_they_were_told_of() {
    let world = world();
    let mut gone = Vec::new();
    for user in ["alice", "bob"] {
        gone.push(connected(world.address, &world.token(user)).await);
    }
    eventually("all are known", || world.owner.sessions().len() == 2).await;
    let mut snapshot = world.snapshot.clone();
    snapshot.revision += 1;
    snapshot.instances.remove("demo");
    world.place(snapshot);
    for (client, _) in &mut gone {
        assert_eq!(client.closed().await.0, 3508);
    }
    let mut ends = ends(&world, 2).await;
    ends.sort();
    let mut wanted: Vec<_> = gone
        .iter()
        .map(|(_, c)| c["client"].as_str().unwrap())
        .collect();
    wanted.sort_unstable();
    let told: Vec<_> = ends.iter().map(|e| (e.0.as_str(), e.3)).collect();
    let wanted: Vec<_> = wanted.into_iter().map(|client| (client, 3508)).collect();
    assert_eq!(told, wanted);
    assert!(world.owner.sessions().is_empty());
}

#[tokio::test]
async fn sessions_go_along_with_their_users_channels_to_other_shards() {
    let world = world();
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(connected(world.address, &world.token(&format!("u{n}"))).await);
    }
    eventually("all are known", || world.owner.sessions().len() == 20).await;
    let before = world.owner.sessions_in(0);
    let mut snapshot = world.snapshot.clone();
    snapshot.revision += 1;
    let region = snapshot.regions.get_mut("r").unwrap();
    (region.shards, region.owners) = (2, vec!["r1".into(), "r1".into()]);
    world.place(snapshot);
    eventually("each is known once, in one of two shards", || {
        let shards = [0, 1].map(|shard| world.owner.sessions_in(shard));
        let [first, second] = &shards;
        !first.is_empty()
            && !second.is_empty()
            && first.is_disjoint(second)
            && first.union(second).count() == before.len()
    })
    .await;
    assert!(world.owner.session_ends().is_empty(), "none has ended");
    drop(clients);
    let ended: BTreeSet<String> = ends(&world, 20).await.into_iter().map(|e| e.0).collect();
    assert_eq!(ended, before);
    eventually("none is known", || world.owner.sessions().is_empty()).await;
}
