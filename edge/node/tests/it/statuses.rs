//! Statuses of users: by the server API, and what a user's own connection says.

use serde_json::{Value, json};

use crate::api::{call, call_as};
use crate::api_users::connected;
use crate::client::Client;
use crate::world::{World, config, snapshot};

/// `demo` keeps statuses, `acme` keeps its own, where it does.
fn world(acme_too: bool) -> World {
    let mut snapshot = snapshot();
    for (id, instance) in &mut snapshot.instances {
        if id.as_str() == "demo" || acme_too {
            instance.user_status_ttl_ms = 60_000;
        }
    }
    World::start_placed(config(), snapshot).expect("it starts")
}

fn users(users: &[&str]) -> Value {
    json!({"users": users})
}

async fn statuses(world: &World, of: &[&str]) -> Value {
    let answer = call(world, "get_user_status", users(of)).await;
    answer["result"]["statuses"].clone()
}

#[tokio::test]
async fn the_api_says_gets_and_forgets_what_users_are() {
    let world = world(true);
    let nothing = json!([{"user": "alice"}, {"user": "bob"}]);
    assert_eq!(statuses(&world, &["alice", "bob"]).await, nothing);
    let update = json!({"users": ["alice", "carol"], "state": "busy"});
    let done = json!({"result": {}});
    assert_eq!(call(&world, "update_user_status", update).await, done);
    assert_eq!(
        call(&world, "update_user_status", users(&["alice"])).await,
        done
    );
    let known = json!([
        {"user": "bob"},
        {"user": "carol", "active": 5, "state": "busy"},
        {"user": "alice", "active": 5, "state": "busy"},
        {"user": "bob"},
    ]);
    assert_eq!(
        statuses(&world, &["bob", "carol", "alice", "bob"]).await,
        known
    );
    // Another instance has an alice of its own.
    let other = call_as(world.address, "acme", "get_user_status", &users(&["alice"])).await;
    assert_eq!(other["result"]["statuses"], json!([{"user": "alice"}]));
    assert_eq!(
        call(&world, "delete_user_status", users(&["alice"])).await,
        done
    );
    assert_eq!(
        statuses(&world, &["alice"]).await,
        json!([{"user": "alice"}])
    );
}

#[tokio::test]
async fn many_are_answered_in_the_order_in_which_they_are_named() {
    let world = world(false);
    let named: Vec<String> = (0..1_000).map(|n| format!("u{n}")).collect();
    for name in named.iter().step_by(100) {
        let update = json!({"users": [name], "state": format!("{name} is busy")});
        call(&world, "update_user_status", update).await;
    }
    let answer = call(&world, "get_user_status", json!({"users": named})).await;
    let statuses = answer["result"]["statuses"].as_array().expect("a list");
    assert_eq!(statuses.len(), named.len());
    for (n, (status, name)) in statuses.iter().zip(&named).enumerate() {
        let mut wanted = json!({"user": name});
        if n % 100 == 0 {
            wanted["active"] = json!(5);
            wanted["state"] = json!(format!("{name} is busy"));
        }
        assert_eq!(*status, wanted);
    }
}

#[tokio::test]
async fn what_can_not_be_is_said_with_its_bound() {
    let world = world(false);
    for (instance, body, code, words) in [
        ("demo", users(&[]), 107, "1 to 1000"),
        (
            "demo",
            json!({"users": vec!["a"; 1_001]}),
            107,
            "there are 1001 users",
        ),
        ("demo", json!({}), 107, "missing field `users`"),
        ("demo", users(&[""]), 107, "1 to 254 bytes"),
        ("demo", users(&["a,b"]), 107, "`a,b`"),
        ("demo", users(&["a#b"]), 107, "without `,` and `#`"),
        ("demo", users(&[&"x".repeat(255)]), 107, "1 to 254 bytes"),
        ("acme", users(&["alice"]), 108, "user_status_ttl"),
    ] {
        for method in [
            "update_user_status",
            "get_user_status",
            "delete_user_status",
        ] {
            let answer = call_as(world.address, instance, method, &body).await;
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            assert_eq!(answer["error"]["code"], code, "{method} {answer}");
            assert!(
                message.contains(words) && message.len() < 200,
                "{method} {answer}"
            );
        }
    }
    let long = json!({"users": ["alice"], "state": "x".repeat(257)});
    let answer = call(&world, "update_user_status", long).await;
    assert_eq!(answer["error"]["code"], 107, "{answer}");
    let longest = json!({"users": ["x".repeat(254)], "state": "x".repeat(256)});
    let answer = call(&world, "update_user_status", longest).await;
    assert_eq!(answer, json!({"result": {}}));
}

#[tokio::test]
async fn a_lost_store_of_statuses_is_an_error_and_nothing_else_fails() {
    let world = world(false);
    world.owner.fail_statuses(100);
    for method in [
        "update_user_status",
        "get_user_status",
        "delete_user_status",
    ] {
        let answer = call(&world, method, users(&["alice"])).await;
        assert_eq!(answer["error"]["code"], 100, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("try again"), "{answer}");
    }
    let (mut alice, _) = connected(world.address, &world.token("alice")).await;
    let update = json!({"id": 2, "rpc": {"method": "update_user_status", "data": {}}});
    let reply = alice.call(update).await;
    assert_eq!(reply["error"]["code"], 100, "{reply}");
    let publish = json!({"id": 3, "publish": {"channel": "room:1", "data": 1}});
    assert!(alice.call(publish).await["publish"].is_object());
    world.owner.fail_statuses(0);
    assert_eq!(
        statuses(&world, &["alice"]).await,
        json!([{"user": "alice"}])
    );
}

async fn says(client: &mut Client, id: u32, data: Option<Value>) -> Value {
    let mut rpc = json!({"method": "update_user_status"});
    if let Some(data) = data {
        rpc["data"] = data;
    }
    client.call(json!({"id": id, "rpc": rpc})).await
}

#[tokio::test]
async fn a_client_says_it_of_its_own_user() {
    let world = world(false);
    let (mut alice, _) = connected(world.address, &world.token("alice")).await;
    let done = json!({"id": 2, "rpc": {"data": {}}});
    assert_eq!(says(&mut alice, 2, Some(json!({}))).await, done);
    let only_active = json!([{"user": "alice", "active": 5}]);
    assert_eq!(statuses(&world, &["alice"]).await, only_active);
    for (id, data) in [
        (3, Some(json!({"state": "busy", "users": ["bob"]}))),
        (4, Some(Value::Null)),
        (5, Some(json!({"state": null}))),
        (6, None),
    ] {
        let reply = says(&mut alice, id, data).await;
        assert_eq!(reply["rpc"]["data"], json!({}), "{reply}");
    }
    let known = json!([{"user": "alice", "active": 5, "state": "busy"}, {"user": "bob"}]);
    assert_eq!(statuses(&world, &["alice", "bob"]).await, known);
    for (id, data) in [
        (7, json!({"state": 5})),
        (8, json!({"state": "x".repeat(257)})),
        (9, json!(5)),
    ] {
        let reply = says(&mut alice, id, Some(data)).await;
        assert_eq!(reply["error"]["code"], 107, "{reply}");
    }
    // An instance that keeps none, and a user that has no channel.
    let (mut other, _) = connected(world.address, &world.token_of("acme", "alice", 600)).await;
    assert_eq!(says(&mut other, 2, None).await["error"]["code"], 108);
    let (mut unfit, _) = connected(world.address, &world.token("a,b")).await;
    assert_eq!(says(&mut unfit, 2, None).await["error"]["code"], 108);
}
