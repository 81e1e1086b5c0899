//! Prefixes at edges: of two shards, at two edges, cut off, moved, and by the thousand.

use std::collections::BTreeMap;

use gb6_core_model::limits;
use gb6_core_model::snapshot::{Snapshot, Who};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::client::{Client, frame, raw};
use crate::world::{World, config, eventually, room, snapshot};

/// A placement with prefixes, of one shard or two.
fn placed(shards: u32) -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.revision = u64::from(shards);
    for instance in snapshot.instances.values_mut() {
        for rules in instance.namespaces.values_mut() {
            rules.allow_prefix = Who::Member;
        }
    }
    let region = snapshot.regions.get_mut("r").unwrap();
    region.shards = shards;
    region.owners = vec!["r1".into(); shards as usize];
    snapshot
}

async fn follow(client: &mut Client, id: u32, prefix: &str) -> Value {
    client
        .call(json!({"id": id, "subscribe": {"channel": prefix}}))
        .await
}

/// The value of a metric, over all shards.
fn of_shards(metric: impl Fn(&str) -> f64, name: &str) -> f64 {
    let shard = |n| metric(&format!("{name}{{region=\"r\",shard=\"{n}\"}}"));
    (0..2).map(shard).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_every_shard_come_to_another_edge_once_and_in_order() {
    let world = World::start_placed(config(), placed(2)).unwrap();
    let other = world.another_edge("e2");
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut bob = Client::connect(other.address, &world.token("bob")).await;
    let mut stranger = Client::connect(other.address, &world.token_of("acme", "bob", 60)).await;
    let reply = follow(&mut bob, 2, "room:lobby.*").await;
    assert_eq!(reply, json!({"id": 2, "subscribe": {}}));
    follow(&mut bob, 3, "room:lob*").await;
    follow(&mut stranger, 2, "room:lobby.*").await;
    follow(&mut bob, 4, "room:lobby.3").await;
    let (mut id, rooms, each) = (10, 12, 5);
    for n in 1..=each {
        for channel in (1..=rooms).map(|r| format!("room:lobby.{r}")) {
            for channel in [&channel, "room:elsewhere", "room:lobby.1#alice"] {
                let publish = json!({"channel": channel, "data": {"n": n}});
                id += 1;
                let reply = alice.call(json!({"id": id, "publish": publish})).await;
                assert!(reply["publish"].is_object(), "{reply}");
            }
        }
    }
    // By subscription, and in it by channel.
    let mut got: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for _ in 0..each * (2 * rooms + 1) {
        let push = bob.next().await;
        let (sub, publication) = (push["push"]["channel"].clone(), &push["push"]["pub"]);
        let channel = match sub.as_str() {
            Some("room:lobby.3") => sub.clone(),
            _ => {
                assert_eq!(publication["tags"]["gb6.channel"], publication["channel"]);
                publication["channel"].clone()
            }
        };
        assert_eq!(publication["data"]["n"], publication["offset"], "{push}");
        assert_eq!(publication["info"]["user"], "alice");
        let key = [sub, channel].map(|v| v.as_str().unwrap().to_owned());
        let offset = publication["offset"].as_u64().unwrap();
        got.entry(key.into()).or_default().push(offset);
    }
    assert_eq!(got.len(), 2 * rooms as usize + 1);
    assert!(
        got.values().all(|offsets| *offsets == [1, 2, 3, 4, 5]),
        "{got:?}"
    );
    // Each publication came to the edge once, whatever it was followed for.
    let delivers = || of_shards(|m| other.metric(m), "gb6_edge_delivers_total");
    eventually("they are counted", || delivers() >= f64::from(each * rooms)).await;
    assert_eq!(delivers(), f64::from(each * rooms));
    // The next thing that they hear is something else.
    follow(&mut bob, 20, "room:a-room").await;
    follow(&mut stranger, 20, "room:a-room").await;
    // An edge with nobody to tell is told nothing.
    drop(bob);
    drop(stranger);
    eventually("nobody follows", || world.owner.prefixes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_and_a_move_are_told_and_the_next_subscribe_waits_for_every_shard() {
    let world = World::start_placed(config(), placed(1)).unwrap();
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    follow(&mut bob, 2, "room:lobby.*").await;
    world.owner.append(&room("room:lobby.1"), b"1".to_vec());
    assert_eq!(bob.next().await["push"]["pub"]["data"], 1);
    world.cut();
    eventually("the link is gone", || world.owner.prefixes() == 0).await;
    // Nobody hears of this one.
    world.owner.append(&room("room:lobby.1"), b"2".to_vec());
    world.network.heal(&"e1".into(), &"r1".into());
    let ended = |push: &Value| {
        assert_eq!(push["push"]["channel"], "room:lobby.*", "{push}");
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    };
    ended(&bob.next().await);
    // As an SDK does, at once. Its offset tells who counts that one is missing.
    follow(&mut bob, 3, "room:lobby.*").await;
    world.owner.append(&room("room:lobby.1"), b"3".to_vec());
    let push = bob.next().await;
    assert_eq!(push["push"]["pub"]["data"], 3);
    assert_eq!(push["push"]["pub"]["offset"], 3);
    world.place(placed(2));
    ended(&bob.next().await);
    follow(&mut bob, 4, "room:lobby.*").await;
    for n in 3..=8 {
        world.owner.append(
            &room(&format!("room:lobby.{n}")),
            n.to_string().into_bytes(),
        );
    }
    let mut got = Vec::new();
    for _ in 3..=8 {
        got.push(bob.next().await["push"]["pub"]["data"].as_u64().unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [3, 4, 5, 6, 7, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_prefixes_cost_only_who_asks_for_them() {
    let world = World::start_placed(config(), placed(2)).unwrap();
    let mut calm = Client::connect(world.address, &world.token("calm")).await;
    follow(&mut calm, 2, "room:lobby.*").await;
    // One session has a few, whatever it asks for; what matches everything is none.
    let mut greedy = Client::connect(world.address, &world.token("greedy")).await;
    let mut lines = vec![json!({"id": 2, "subscribe": {"channel": "room:*"}}).to_string()];
    lines.extend((0..2_000).map(|n| {
        json!({"id": n + 3, "subscribe": {"channel": format!("room:greedy{n}*")}}).to_string()
    }));
    greedy.send_text(lines.join("\n")).await;
    let mut codes: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..2_001 {
        let reply = greedy.next().await;
        let code = reply["error"]["code"].as_u64().unwrap_or(0);
        *codes.entry(code).or_default() += 1;
    }
    let most = limits::PREFIXES_SESSION_MAX;
    assert_eq!(
        codes,
        BTreeMap::from([(0, most), (106, 2_000 - most), (107, 1)])
    );
    // Together they have as many as their instance may have at an edge.
    let mut crowd = Vec::new();
    let mut refused = 0;
    for client in 0..limits::PREFIXES_INSTANCE_MAX / most {
        let mut one = Client::connect(world.address, &world.token("crowd")).await;
        for n in 0..most {
            let prefix = format!("room:crowd{client}.{n}*");
            let reply = follow(&mut one, 2 + n as u32, &prefix).await;
            refused += usize::from(reply["error"]["code"] == 106);
        }
        crowd.push(one);
    }
    assert_eq!(refused, most + 1);
    assert_eq!(world.owner.prefixes(), 2 * limits::PREFIXES_INSTANCE_MAX);
    // Others are told what they follow, and other instances have their own places.
    let mut stranger = Client::connect(world.address, &world.token_of("acme", "bob", 60)).await;
    let reply = follow(&mut stranger, 2, "room:lobby.*").await;
    assert!(reply["error"].is_null(), "{reply}");
    world.owner.append(&room("room:lobby.1"), b"1".to_vec());
    assert_eq!(calm.next().await["push"]["pub"]["data"], 1);
    // They go with those who had them.
    drop(greedy);
    drop(crowd);
    eventually("they are gone", || world.owner.prefixes() == 4).await;
    let subscribers = || of_shards(|m| world.metric(m), "gb6_edge_prefix_subscribers");
    eventually("nor here", || subscribers() == 4.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_and_does_not_read_is_disconnected_with_3008() {
    let mut settings = config();
    settings.outbox_bytes = 256 * 1024;
    let world = World::start_placed(settings, placed(1)).unwrap();
    let mut slow = raw(world.address).await;
    let lines = [
        json!({"id": 1, "connect": {"token": world.token("slow")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:lobby.*"}}).to_string(),
    ];
    slow.write_all(&frame(&lines.join("\n"))).await.unwrap();
    let mut good = Client::connect(world.address, &world.token("good")).await;
    follow(&mut good, 2, "room:lobby.*").await;
    let subscribers = "gb6_edge_prefix_subscribers{region=\"r\",shard=\"0\"}";
    world.metric_reaches(subscribers, 2.0).await;
    let data = format!("\"{}\"", "x".repeat(60_000));
    for n in 1..1_000u64 {
        if world.metric("gb6_edge_slow_total") > 0.0 {
            break;
        }
        let channel = format!("room:lobby.{n}");
        world
            .owner
            .append(&room(&channel), data.clone().into_bytes());
        // Whoever reads gets everything meanwhile.
        let push = good.next().await;
        assert_eq!(push["push"]["pub"]["channel"], channel);
    }
    eventually("the slow one is gone", || world.edge.sessions() == 1).await;
    drop(slow);
}
