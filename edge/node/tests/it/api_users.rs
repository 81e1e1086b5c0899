//! The server API about people: sessions at this edge and at another one, by user, client and session.

use serde_json::{Value, json};

use crate::api::{call, call_as};
use crate::client::Client;
use crate::world::{Other, World, config, eventually, room, unix_s};

/// Two edges that reach each other.
pub(crate) async fn edges() -> (World, Other) {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let reaches = |metrics: &gb6_core_obs::Metrics| {
        let text = metrics.text();
        text.lines().any(|line| line == "gb6_edge_relay_edges 2")
    };
    eventually("both are reached", || {
        reaches(&world.metrics) && reaches(&other.metrics)
    })
    .await;
    (world, other)
}

/// A connected client with what its connect was answered.
pub(crate) async fn connected(address: std::net::SocketAddr, token: &str) -> (Client, Value) {
    let mut client = Client::open(address).await;
    let connect = json!({"id": 1, "connect": {"token": token}});
    let reply = client.call(connect).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    (client, reply["connect"].clone())
}

/// The next push, whose kind must be this.
async fn pushed(client: &mut Client, kind: &str) -> Value {
    let push = client.next().await;
    assert!(push["push"][kind].is_object(), "no {kind}: {push}");
    push["push"].clone()
}

fn done() -> Value {
    json!({"result": {}})
}

#[tokio::test]
async fn a_user_is_subscribed_and_unsubscribed_wherever_it_is() {
    let (world, other) = edges().await;
    let token = world.token("alice");
    let (mut here, _) = connected(world.address, &token).await;
    let (mut there, _) = connected(other.address, &token).await;
    let (mut bob, _) = connected(other.address, &world.token("bob")).await;
    world.owner.append(&room("room:1"), b"{\"n\":1}".to_vec());
    let subscribe = json!({
        "user": "alice", "channel": "room:1", "info": {"role": "admin"}, "data": {"hello": 1},
        "recover_since": {"offset": 0, "epoch": ""}, "override": {"presence": {"value": true}},
        "expire_at": unix_s() + 600,
    });
    assert_eq!(call(&world, "subscribe", subscribe).await, done());
    for client in [&mut here, &mut there] {
        let push = pushed(client, "subscribe").await;
        assert_eq!(push["channel"], "room:1");
        assert_eq!(push["subscribe"]["data"], json!({"hello": 1}), "{push}");
        let push = pushed(client, "pub").await;
        assert_eq!(push["pub"]["data"], json!({"n": 1}));
    }
    let presence = call(&world, "presence", json!({"channel": "room:1"})).await;
    let people = presence["result"]["presence"].as_object().unwrap();
    assert_eq!(people.len(), 2, "{presence}");
    for person in people.values() {
        assert_eq!(person["chan_info"], json!({"role": "admin"}), "{presence}");
    }
    call(&world, "publish", json!({"channel": "room:1", "data": 2})).await;
    for client in [&mut here, &mut there] {
        assert_eq!(pushed(client, "pub").await["pub"]["data"], 2);
    }
    let unsubscribe = json!({"user": "alice", "channel": "room:1"});
    assert_eq!(
        call(&world, "unsubscribe", unsubscribe.clone()).await,
        done()
    );
    for client in [&mut here, &mut there] {
        let push = pushed(client, "unsubscribe").await;
        assert_eq!(push["unsubscribe"]["code"], 2000, "{push}");
    }
    // Nobody else noticed, and who is not there is no error.
    assert_eq!(call(&world, "unsubscribe", unsubscribe).await, done());
    let nobody = json!({"user": "nobody", "channel": "room:1"});
    assert_eq!(call(&world, "subscribe", nobody).await, done());
    let history = bob
        .call(json!({"id": 9, "history": {"channel": "room:1", "limit": 0}}))
        .await;
    assert_eq!(history["history"]["offset"], 2, "{history}");
}

#[tokio::test]
async fn a_user_is_disconnected_but_for_those_that_are_kept() {
    let (world, other) = edges().await;
    let token = world.token("alice");
    let (mut kept, connect) = connected(world.address, &token).await;
    let (mut one, _) = connected(world.address, &token).await;
    let (mut two, _) = connected(other.address, &token).await;
    let foreign = world.token_of("acme", "alice", 600);
    let (mut foreign, _) = connected(other.address, &foreign).await;
    let disconnect = json!({
        "user": "alice", "whitelist": [connect["client"]],
        "disconnect": {"code": 4501, "reason": "you moved"},
    });
    assert_eq!(call(&world, "disconnect", disconnect).await, done());
    for client in [&mut one, &mut two] {
        assert_eq!(client.closed().await, (4501, "you moved".to_owned()));
    }
    let rpc = json!({"id": 2, "history": {"channel": "room:1", "limit": 0}});
    for client in [&mut kept, &mut foreign] {
        assert!(client.call(rpc.clone()).await["history"].is_object());
    }
    // With a code of the protocol at which it comes back, in the application's words.
    let (mut one, connect) = connected(other.address, &token).await;
    let reconnect = json!({
        "user": "alice", "client": connect["client"],
        "disconnect": {"code": 3011, "reason": "to another edge"},
    });
    assert_eq!(call(&world, "disconnect", reconnect).await, done());
    assert_eq!(one.closed().await, (3011, "to another edge".to_owned()));
    // By client id and by session id, at the other edge.
    for name in ["client", "session"] {
        let (mut one, connect) = connected(other.address, &token).await;
        let (mut two, _) = connected(other.address, &token).await;
        let mut disconnect = json!({"user": "alice"});
        disconnect[name] = connect[name].clone();
        assert!(connect[name].is_string(), "{connect}");
        assert_eq!(call(&world, "disconnect", disconnect.clone()).await, done());
        assert_eq!(one.closed().await, (3503, "force disconnect".to_owned()));
        assert!(two.call(rpc.clone()).await["history"].is_object());
        // Another instance's key does nothing, and says the same.
        let (mut one, connect) = connected(other.address, &token).await;
        disconnect[name] = connect[name].clone();
        assert_eq!(
            call_as(world.address, "acme", "disconnect", &disconnect).await,
            done()
        );
        assert!(one.call(rpc.clone()).await["history"].is_object());
    }
}

#[tokio::test]
async fn a_users_time_is_changed() {
    let (world, other) = edges().await;
    let (mut alice, _) = connected(other.address, &world.token("alice")).await;
    let later = json!({"user": "alice", "expire_at": unix_s() + 3600, "info": {"n": 2}});
    assert_eq!(call(&world, "refresh", later).await, done());
    let push = pushed(&mut alice, "refresh").await;
    assert_eq!(push["refresh"]["expires"], true, "{push}");
    assert!(
        push["refresh"]["ttl"]
            .as_u64()
            .is_some_and(|ttl| ttl > 3500),
        "{push}"
    );
    let expired = json!({"user": "alice", "expired": true});
    assert_eq!(call(&world, "refresh", expired).await, done());
    assert_eq!(alice.closed().await.0, 3005);
    assert_eq!(
        other.metric("gb6_edge_api_commands_total{outcome=\"done\"}"),
        2.0
    );
}

#[tokio::test]
async fn channels_info_and_connections_are_gathered_from_all_edges() {
    let (world, other) = edges().await;
    let token = world.token("alice");
    let (mut here, first) = connected(world.address, &token).await;
    let (mut there, second) = connected(other.address, &token).await;
    let (mut bob, _) = connected(other.address, &world.token("bob")).await;
    let foreign = world.token_of("acme", "alice", 600);
    let (mut foreign, _) = connected(other.address, &foreign).await;
    for (client, channels) in [
        (&mut here, &["room:1", "room:2"][..]),
        (&mut there, &["room:1", "room:x"][..]),
        (&mut bob, &["room:1"][..]),
        (&mut foreign, &["room:1", "room:9"][..]),
    ] {
        for channel in channels {
            let reply = client
                .call(json!({"id": 5, "subscribe": {"channel": channel}}))
                .await;
            assert!(reply["subscribe"].is_object(), "{reply}");
        }
    }
    let counted = |n: u32| json!({ "num_clients": n });
    let all = json!({"room:1": counted(3), "room:2": counted(1), "room:x": counted(1)});
    for pattern in ["", "*", "room:*", "room:{1,2,x}"] {
        let answer = call(&world, "channels", json!({"pattern": pattern})).await;
        assert_eq!(answer, json!({"result": {"channels": all}}));
    }
    let answer = call(&world, "channels", json!({"pattern": "room:[0-9]"})).await;
    let want = json!({"room:1": counted(3), "room:2": counted(1)});
    assert_eq!(answer["result"]["channels"], want);
    let wrong = call(&world, "channels", json!({"pattern": "["})).await;
    assert_eq!(wrong["error"]["code"], 107, "{wrong}");

    let answer = call(&world, "info", json!({})).await;
    let nodes = answer["result"]["nodes"].as_array().unwrap();
    let of = |node: &Value, key: &str| node[key].as_u64().unwrap();
    assert_eq!(nodes.len(), 2, "{answer}");
    assert_eq!(
        (&nodes[0]["uid"], &nodes[1]["name"]),
        (&json!("e1"), &json!("e2"))
    );
    let sums = |n: usize| {
        ["num_clients", "num_users", "num_subs", "num_channels"].map(|key| of(&nodes[n], key))
    };
    assert_eq!(sums(0), [1, 1, 2, 2]);
    assert_eq!(sums(1), [2, 2, 3, 2]);
    assert!(nodes[0]["version"].is_string());

    let wanted = json!({"user": "alice", "expression": ""});
    let answer = call(&world, "connections", wanted).await;
    let one = json!({"transport": "websocket", "protocol": "json", "user": "alice"});
    let mut want = json!({});
    for connect in [first, second] {
        want[connect["client"].as_str().unwrap()] = one.clone();
    }
    assert_eq!(answer, json!({"result": {"connections": want}}));
    for body in [
        json!({"user": ""}),
        json!({"user": "a", "expression": "1 == 1"}),
    ] {
        let answer = call(&world, "connections", body).await;
        assert_eq!(answer["error"]["code"], 107, "{answer}");
    }

    // An edge that does not answer is named, and a command says that it may not have been heard.
    world.relay.mute(true);
    let answer = call(&world, "channels", json!({})).await;
    assert_eq!(answer["result"]["unanswered"], json!(["e2"]), "{answer}");
    let answer = call(&world, "disconnect", json!({"user": "bob"})).await;
    assert_eq!(answer["error"]["code"], 100, "{answer}");
    let words = answer["error"]["message"].as_str().unwrap();
    assert!(words.contains("edge e2"), "{words}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let world = World::start(config());
    let long = "x".repeat(1_100);
    let data = "x".repeat(70_000);
    let kept = vec!["c"; 1_001];
    for (method, body, code, words) in [
        ("disconnect", json!({}), 107, "anonymous people"),
        ("disconnect", json!({"user": ""}), 107, "anonymous people"),
        ("disconnect", json!({"user": long}), 107, "1024 bytes"),
        (
            "disconnect",
            json!({"user": "a", "whitelist": kept}),
            107,
            "whitelist",
        ),
        (
            "disconnect",
            json!({"user": "a", "disconnect": {"code": 5000, "reason": "x"}}),
            107,
            "4000 to 4999",
        ),
        (
            "disconnect",
            json!({"user": "a", "disconnect": {"code": 4000}}),
            107,
            "4000 to 4999",
        ),
        (
            "disconnect",
            json!({"user": "a", "disconnect": {"code": 4000, "reason": "{\"a\":1}"}}),
            107,
            "no JSON",
        ),
        (
            "subscribe",
            json!({"user": "a"}),
            107,
            "missing field `channel`",
        ),
        (
            "subscribe",
            json!({"user": "a", "channel": "none:1"}),
            102,
            "no namespace",
        ),
        (
            "subscribe",
            json!({"user": "a", "channel": "!x"}),
            107,
            "server's own",
        ),
        (
            "subscribe",
            json!({"user": "a", "channel": "room:1", "b64data": "!"}),
            107,
            "no base 64",
        ),
        (
            "subscribe",
            json!({"user": "a", "channel": "room:1", "b64info": "AP8="}),
            107,
            "info is no JSON",
        ),
        (
            "subscribe",
            json!({"user": "a", "channel": "room:1", "data": data}),
            107,
            "more than 65536",
        ),
        (
            "refresh",
            json!({"user": "a", "expire_at": -5}),
            107,
            "Unix seconds",
        ),
        (
            "unsubscribe",
            json!({"channel": "room:1"}),
            107,
            "anonymous people",
        ),
    ] {
        let answer = call(&world, method, body).await;
        let error = &answer["error"];
        assert_eq!(error["code"], code, "{method} {answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{method} {answer}");
    }
}

#[tokio::test]
async fn connections_say_which_program_they_are_of() {
    let (world, _other) = edges().await;
    let token = world.token("alice");
    // The second one cut in front of a letter that does not fit whole.
    let long = "x".repeat(31) + "é";
    let programs = [("shop", "1.2"), (&long, ""), ("", "")];
    let mut clients = Vec::new();
    for (name, version) in programs {
        let mut client = Client::open(world.address).await;
        let connect = json!({"token": token, "name": name, "version": version});
        let reply = client.call(json!({"id": 1, "connect": connect})).await;
        let id = reply["connect"]["client"].as_str().unwrap().to_owned();
        clients.push((client, id));
    }
    let answer = call(&world, "connections", json!({"user": "alice"})).await;
    let said = |n: usize| &answer["result"]["connections"][&clients[n].1];
    assert_eq!(
        (&said(0)["app_name"], &said(0)["app_version"]),
        (&json!("shop"), &json!("1.2"))
    );
    assert_eq!(said(1)["app_name"], json!("x".repeat(31)));
    assert!(said(1)["app_version"].is_null() && said(2)["app_name"].is_null());
}
