//! Subscriptions that the server begins, subscriptions by token, and connections without a token.

use std::time::Duration;

use gb6_core_model::snapshot::{Anonymous, Namespace, Snapshot, Who};
use gb6_edge_node::{SigningKey, sign_claims};
use serde_json::{Value, json};

use crate::client::{Client, open};
use crate::world::{World, config, room, snapshot, unix_s};

/// A token of the demo instance with these claims.
fn token(world: &World, claims: &Value) -> String {
    let key = &world.snapshot.instances["demo"].keys[0];
    sign_claims(&SigningKey::shared(key).unwrap(), claims).unwrap()
}

fn placed(change: impl FnOnce(&mut Snapshot)) -> World {
    let mut snapshot = snapshot();
    change(&mut snapshot);
    World::start_placed(config(), snapshot).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_server_side_room_comes_before_the_answer_to_the_connect() {
    let world = placed(|s| {
        let demo = s.instances.get_mut("demo").unwrap();
        demo.personal_channel = true;
        demo.defaults = Some(Namespace::default());
    });
    for n in 1..=3u64 {
        world
            .owner
            .append(&room("room:1"), n.to_string().into_bytes());
    }
    let claims = json!({
        "sub": "alice", "exp": unix_s() + 60, "channels": ["room:1"],
        "subs": {"room:2": {"data": {"d": 1}, "info": {"role": "host"}}},
    });
    world.owner.withhold(Some("#alice"));
    let mut client = Client::open(world.address).await;
    let subs = json!({"room:1": {"recover": true, "offset": 1}, "room:9": {"recover": true}});
    let connect = json!({"connect": {"token": token(&world, &claims), "subs": subs}, "id": 1});
    client
        .send_text(format!("{connect}\n{}", json!({"id": 2, "ping": {}})))
        .await;
    // Two of three have begun: what is published in them is on its way and held back.
    world
        .metric_reaches("gb6_edge_rooms{region=\"r\",shard=\"0\"}", 3.0)
        .await;
    crate::world::eventually("presence", || {
        !world.owner.clients(&room("room:2")).is_empty()
    })
    .await;
    for n in 4..=6u64 {
        world
            .owner
            .append(&room("room:1"), n.to_string().into_bytes());
        world
            .owner
            .append(&room("room:2"), n.to_string().into_bytes());
    }
    world
        .metric_reaches("gb6_edge_fan_out_total{region=\"r\",shard=\"0\"}", 6.0)
        .await;
    let early = tokio::time::timeout(Duration::from_millis(100), client.event()).await;
    assert!(early.is_err(), "{early:?}");
    world.owner.withhold(None);
    let reply = client.next().await;
    assert_eq!(reply["id"], 1, "{reply}");
    let subs = reply["connect"]["subs"].as_object().unwrap();
    assert_eq!(
        subs.keys().collect::<Vec<_>>(),
        ["#alice", "room:1", "room:2"]
    );
    let first = &subs["room:1"];
    assert_eq!(
        (&first["recovered"], &first["offset"]),
        (&json!(true), &json!(1))
    );
    let offsets: Vec<&Value> = first["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["offset"])
        .collect();
    assert_eq!(offsets, [2, 3]);
    assert_eq!(subs["room:2"]["data"], json!({"d": 1}));
    let mut got = (Vec::new(), Vec::new());
    while got.0.len() + got.1.len() < 6 {
        let push = client.next().await;
        let publication = &push["push"]["pub"];
        match push["push"]["channel"].as_str() {
            Some("room:1") => got.0.push(publication["offset"].as_u64().unwrap()),
            Some("room:2") => got.1.push(publication["offset"].as_u64().unwrap()),
            _ => assert_eq!(push["id"], 2, "{push}"),
        }
    }
    assert_eq!(got, (vec![4, 5, 6], vec![1, 2, 3]));
    let taken = client
        .call(json!({"id": 3, "subscribe": {"channel": "room:1"}}))
        .await;
    assert_eq!(taken["error"]["code"], 105);
    let people = client
        .call(json!({"id": 4, "presence": {"channel": "room:2"}}))
        .await;
    let people = people["presence"]["presence"].as_object().unwrap();
    let me = people.values().next().unwrap();
    assert_eq!(me["chan_info"], json!({"role": "host"}));
}

#[tokio::test]
async fn a_server_side_room_whose_owner_does_not_answer_refuses_the_connect() {
    let mut config = config();
    config.session.connect_subscriptions_ms = 200;
    let world = World::start(config);
    world.owner.withhold(Some("room:1"));
    let claims = json!({"sub": "alice", "channels": ["room:1", "room:2"]});
    let mut client = Client::open(world.address).await;
    let connect = json!({"id": 1, "connect": {"token": token(&world, &claims)}});
    client.send(&connect).await;
    let reply = client.next().await;
    assert_eq!(
        (&reply["id"], &reply["error"]["code"]),
        (&json!(1), &json!(100))
    );
    assert_eq!(reply["error"]["temporary"], true);
    // What had begun has ended: nobody stays in the room.
    crate::world::eventually("nobody", || world.owner.clients(&room("room:2")).is_empty()).await;
    world.owner.append(&room("room:2"), b"1".to_vec());
    let more = tokio::time::timeout(Duration::from_millis(100), client.event()).await;
    assert!(more.is_err(), "{more:?}");
    // Another attempt succeeds.
    world.owner.withhold(None);
    let mut client = Client::open(world.address).await;
    client.send(&connect).await;
    let reply = client.next().await;
    assert_eq!(reply["connect"]["subs"]["room:2"]["offset"], 1);
}

#[tokio::test]
async fn subscription_tokens_open_private_rooms_to_whom_they_are_made_for() {
    let world = World::start(config());
    let subscribe = |claims: Value, id: u32| {
        let token = token(&world, &claims);
        json!({"id": id, "subscribe": {"channel": claims["wanted"], "token": token}})
    };
    let mut client = Client::connect(world.address, &world.token("alice")).await;
    let refused = client
        .call(json!({"id": 2, "subscribe": {"channel": "$room:1"}}))
        .await;
    assert_eq!(refused["error"]["code"], 103);
    let good = json!({
        "sub": "alice", "channel": "$room:1", "wanted": "$room:1", "exp": unix_s() + 60,
        "info": {"seat": 7}, "data": {"d": 1},
    });
    let reply = client.call(subscribe(good, 3)).await;
    assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    assert!((58..=60).contains(&reply["subscribe"]["ttl"].as_u64().unwrap()));
    assert_eq!(reply["subscribe"]["data"], json!({"d": 1}));
    let people = world.owner.clients(&room("$room:1"));
    assert_eq!(people.len(), 1);
    let later = json!({"sub": "alice", "channel": "$room:1", "exp": unix_s() + 600});
    let refresh = json!({"channel": "$room:1", "token": token(&world, &later)});
    let reply = client.call(json!({"id": 4, "sub_refresh": refresh})).await;
    assert!(
        reply["sub_refresh"]["ttl"].as_u64().unwrap() > 500,
        "{reply}"
    );
    let expired = json!({"sub": "alice", "channel": "room:2", "wanted": "room:2", "exp": 1});
    let reply = client.call(subscribe(expired, 5)).await;
    assert_eq!(reply["error"]["code"], 109);
    let mut forged = subscribe(
        json!({"sub": "alice", "channel": "room:2", "wanted": "room:2"}),
        6,
    );
    let token = forged["subscribe"]["token"].as_str().unwrap().to_owned() + "A";
    forged["subscribe"]["token"] = json!(token);
    let reply = client.call(forged).await;
    assert_eq!(reply["error"]["code"], 103);
    // A token for others ends the session.
    for (user, channel) in [("bob", "room:2"), ("alice", "room:3")] {
        let mut client = Client::connect(world.address, &world.token("alice")).await;
        let foreign = json!({"sub": user, "channel": channel, "wanted": "room:2"});
        client.send(&subscribe(foreign, 2)).await;
        assert_eq!(client.closed().await, (3500, "invalid token".into()));
    }
    let foreign = "gb6_edge_tokens_refused_total{reason=\"foreign\"}";
    assert_eq!(world.metric(foreign), 2.0);
    // Neither is one of another instance, whose key says who signed it.
    let key = &world.snapshot.instances["acme"].keys[0];
    let claims = json!({"sub": "alice", "channel": "room:2"});
    let acme = sign_claims(&SigningKey::shared(key).unwrap(), &claims).unwrap();
    let reply = client
        .call(json!({"id": 7, "subscribe": {"channel": "room:2", "token": acme}}))
        .await;
    assert_eq!(reply["error"]["code"], 103);
}

#[tokio::test]
async fn connections_without_a_token_belong_to_the_instance_of_the_host_and_obey_its_origins() {
    let world = placed(|s| {
        for name in ["demo", "acme"] {
            let instance = s.instances.get_mut(name).unwrap();
            instance.anonymous = Anonymous {
                allow: name == "acme",
                caps: Vec::new(),
            };
            let room = instance.namespaces.get_mut("room").unwrap();
            room.allow_subscribe = Who::Anyone;
        }
    });
    let connect = json!({"id": 1, "connect": {}});
    let mut client = Client::open(world.address).await;
    client.send(&connect).await;
    assert_eq!(client.closed().await.0, 3501);

    let acme = [("Host", "acme.example.org")];
    let mut client = Client::over(open(world.address, "", &acme).await.unwrap());
    client.send(&connect).await;
    assert!(client.next().await["connect"]["client"].is_string());
    let reply = client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    assert_eq!(reply["subscribe"]["recoverable"], true);
    let reply = client
        .call(json!({"id": 3, "publish": {"channel": "room:1", "data": 1}}))
        .await;
    assert_eq!(reply["error"]["code"], 103);
    // It is acme's room, not demo's.
    world.owner.append(&room("room:1"), b"1".to_vec());
    let none = tokio::time::timeout(Duration::from_millis(100), client.event()).await;
    assert!(none.is_err(), "{none:?}");

    // A page that only another instance lists stays out.
    let world = placed(|s| {
        s.instances.get_mut("demo").unwrap().anonymous.allow = true;
    });
    let origin = [("Origin", "https://app.acme.example")];
    let mut client = Client::over(open(world.address, "", &origin).await.unwrap());
    client.send(&connect).await;
    assert_eq!(client.closed().await.0, 3507);
}
