//! Tokens and users that are taken back: by the server API of one edge, at every edge.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gb6_edge_node::auth::{SigningKey, sign_claims};
use serde_json::{Value, json};

use crate::client::{Client, http};
use crate::world::{World, api_key, config, eventually, room, unix_s};

/// What is said of edges in contact is a second; a machine that stands still for a while has some more.
const SOON: Duration = Duration::from_secs(5);

async fn api_of(address: SocketAddr, instance: &str, method: &str, body: Value) -> Value {
    let body = body.to_string();
    let request = format!(
        "POST /api/{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        api_key(instance),
        body.len()
    );
    let (status, _, text) = http(address, &request).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Asks the API of `demo`, and wants it done.
async fn done(address: SocketAddr, method: &str, body: Value) {
    let answer = api_of(address, "demo", method, body).await;
    assert_eq!(answer, json!({"result": {}}), "{method}");
}

/// A token of `demo` with these claims besides its end.
fn token(world: &World, mut claims: Value) -> String {
    let key = SigningKey::shared(&world.snapshot.instances["demo"].keys[0]).unwrap();
    claims["exp"] = json!(unix_s() + 600);
    claims["caps"] = json!([{
        "channels": ["*"], "match": "wildcard", "allow": ["sub", "pub", "prs", "hst"]
    }]);
    sign_claims(&key, &claims).unwrap()
}

/// The answer to a connect, or the code of the close.
async fn connect(address: SocketAddr, token: &str) -> Result<Value, u16> {
    let mut client = Client::open(address).await;
    client
        .send(&json!({"id": 1, "connect": {"token": token}}))
        .await;
    match client.event().await {
        Ok(reply) => Ok(reply),
        Err(close) => Err(close.map_or(0, |c| c.code.into())),
    }
}

async fn is_in(address: SocketAddr, token: &str) -> bool {
    let reply = connect(address, token).await;
    reply.is_ok_and(|reply| reply["connect"].is_object())
}

async fn is_refused(address: SocketAddr, token: &str) -> bool {
    connect(address, token).await == Err(3500)
}

/// Waits for the end that a revocation is.
async fn cut_off(client: &mut Client, begin: Instant) {
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (3500, "invalid token"));
    assert!(begin.elapsed() < SOON, "after {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_user_is_cut_off_at_every_edge() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let (alice, bob) = (world.token("alice"), world.token("bob"));
    let acme = world.token_of("acme", "alice", 60);
    let mut here = Client::connect(world.address, &alice).await;
    let mut there = Client::connect(other.address, &alice).await;
    let mut bob_there = Client::connect(other.address, &bob).await;
    let mut acme_there = Client::connect(other.address, &acme).await;
    let begin = Instant::now();
    done(world.address, "block_user", json!({"user": "alice"})).await;
    cut_off(&mut here, begin).await;
    cut_off(&mut there, begin).await;
    for address in [world.address, other.address] {
        assert!(is_refused(address, &alice).await);
        // A newer token is the same user's.
        let newer = token(&world, json!({"sub": "alice", "iat": unix_s() + 5}));
        assert!(is_refused(address, &newer).await);
        assert!(is_in(address, &bob).await);
        assert!(is_in(address, &acme).await, "another instance's alice");
    }
    for client in [&mut bob_there, &mut acme_there] {
        let reply = client
            .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
            .await;
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    // An edge that starts now reads what was.
    let third = world.another_edge("e3");
    assert!(is_refused(third.address, &alice).await);
    done(other.address, "unblock_user", json!({"user": "alice"})).await;
    for address in [world.address, other.address, third.address] {
        let begin = Instant::now();
        while !is_in(address, &alice).await {
            assert!(begin.elapsed() < SOON);
        }
    }
    let name = "gb6_edge_revoked_connections_total{instance=\"demo\"}";
    assert_eq!(world.metric(name) + other.metric(name), 2.0);
    assert!(world.metric("gb6_edge_tokens_refused_total{reason=\"revoked\"}") >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_revoked_by_their_id_by_their_text_and_by_their_age() {
    let world = World::start(config());
    let by_id = token(&world, json!({"sub": "a", "jti": "t1"}));
    let by_text = token(&world, json!({"sub": "a", "iat": unix_s()}));
    let old = token(&world, json!({"sub": "b", "iat": unix_s() - 60}));
    let unsaid = token(&world, json!({"sub": "b"}));
    let new = token(&world, json!({"sub": "b", "iat": unix_s()}));
    let mut clients = Vec::new();
    for token in [&by_id, &by_text, &old, &unsaid] {
        clients.push(Client::connect(world.address, token).await);
    }
    let mut stays = Client::connect(world.address, &new).await;
    let begin = Instant::now();
    done(world.address, "revoke_token", json!({"uid": "t1"})).await;
    cut_off(&mut clients[0], begin).await;
    let begin = Instant::now();
    done(world.address, "revoke_token", json!({"uid": by_text})).await;
    cut_off(&mut clients[1], begin).await;
    let begin = Instant::now();
    let ask = json!({"user": "b", "issued_before": unix_s() - 30, "expire_at": unix_s() + 600});
    done(world.address, "invalidate_user_tokens", ask).await;
    cut_off(&mut clients[2], begin).await;
    cut_off(&mut clients[3], begin).await;
    for token in [&by_id, &by_text, &old, &unsaid] {
        assert!(is_refused(world.address, token).await);
    }
    // Whoever comes back with another token is let in, and a revoked one is none for a refresh.
    let again = token(&world, json!({"sub": "a", "jti": "t2"}));
    let mut a = Client::connect(world.address, &again).await;
    a.send(&json!({"id": 2, "refresh": {"token": by_id}})).await;
    assert_eq!(a.closed().await.0, 3500);
    // Nor one for a channel.
    let channel = token(
        &world,
        json!({"sub": "b", "channel": "$room:1", "jti": "s1"}),
    );
    done(world.address, "revoke_token", json!({"uid": "s1"})).await;
    eventually("two more", || {
        world.metric("gb6_edge_revocations{instance=\"demo\"}") >= 4.0
    })
    .await;
    let reply = stays
        .call(json!({"id": 2, "subscribe": {"channel": "$room:1", "token": channel}}))
        .await;
    assert_eq!(reply["error"]["code"], 103, "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_cut_off_applies_what_it_missed_before_it_delivers_or_accepts() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    for client in [&mut alice, &mut bob] {
        client
            .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
            .await;
    }
    world.network.cut(&"e1".into(), &"r1".into());
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    world.metric_falls(current, 0.0).await;
    done(other.address, "block_user", json!({"user": "alice"})).await;
    world
        .owner
        .append(&room("room:1"), b"{\"secret\":1}".to_vec());
    // Nothing is accepted of anybody, also not of whoever comes now.
    let publish = json!({"id": 3, "publish": {"channel": "room:1", "data": {}}});
    let begin = Instant::now();
    assert_eq!(bob.call(publish.clone()).await["error"]["code"], 1002);
    let waited = begin.elapsed();
    assert!(waited > Duration::from_secs(1), "given up after {waited:?}");
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    let mut carol = Client::connect(world.address, &world.token("carol")).await;
    assert_eq!(carol.call(subscribe.clone()).await["error"]["code"], 1002);
    // Not of whoever is revoked and can not be known to be.
    let mut again = Client::connect(world.address, &world.token("alice")).await;
    again.send(&subscribe).await;

    // What waits is done when the way is there again.
    let second = json!({"id": 4, "publish": {"channel": "room:1", "data": {"n": 2}}});
    bob.send(&second).await;
    world.network.heal(&"e1".into(), &"r1".into());
    // Not the publication: the end comes first.
    for revoked in [&mut alice, &mut again] {
        let closed = revoked.event().await.expect_err("nothing is delivered");
        assert_eq!(u16::from(closed.unwrap().code), 3500);
    }
    world.metric_reaches(current, 1.0).await;
    // The answer stands anywhere among the publications, which keep their order.
    let (mut answered, mut pushed) = (false, Vec::new());
    while !(answered && pushed.len() == 2) {
        let reply = bob.next().await;
        answered |= reply["id"] == 4 && reply["publish"].is_object();
        let data = &reply["push"]["pub"]["data"];
        pushed.extend((!data.is_null()).then(|| data.clone()));
    }
    assert_eq!(pushed, [json!({"secret": 1}), json!({"n": 2})]);
    assert!(bob.call(publish).await["publish"].is_object());
    assert!(carol.call(subscribe).await["subscribe"].is_object());
    assert!(is_refused(world.address, &world.token("alice")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_was_under_way_is_answered_while_its_instance_stands_still() {
    let world = World::start(config());
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    assert!(bob.call(subscribe).await["subscribe"].is_object());
    world.owner.mute(true);
    let publish = json!({"id": 3, "publish": {"channel": "room:1", "data": {}}});
    bob.send(&publish).await;
    eventually("it is under way", || world.owner.kept() == 1).await;
    // Who is removed meanwhile can not be known.
    world.owner.unreadable(Some("!revoked"));
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    world.metric_falls(current, 0.0).await;
    let delivered = "gb6_edge_fan_out_total{region=\"r\",shard=\"0\"}";
    let before = world.metric(delivered);
    world.owner.append(&room("room:1"), b"{\"n\":1}".to_vec());
    world.metric_reaches(delivered, before + 1.0).await;
    // It overtakes what is not delivered.
    let answer = bob.event().await.unwrap();
    assert_eq!(answer["id"], 3, "{answer}");
    assert_eq!(answer["error"]["code"], 1003, "{answer}");
    assert_eq!(world.metric(current), 0.0, "they are not known yet");
    world.owner.unreadable(None);
    let push = bob.event().await.unwrap();
    assert_eq!(push["push"]["pub"]["data"], json!({"n": 1}), "{push}");
}

#[tokio::test]
async fn nobody_touches_the_log_of_revocations() {
    let world = World::start(config());
    let mut client =
        Client::connect(world.address, &token(&world, json!({"sub": "mallory"}))).await;
    let mut id = 1;
    for channel in ["!revoked", "$!revoked"] {
        for command in [
            json!({"subscribe": {"channel": channel}}),
            json!({"publish": {"channel": channel, "data": {"kind": "unblock", "user": "x"}}}),
            json!({"history": {"channel": channel, "limit": 10}}),
            json!({"presence": {"channel": channel}}),
        ] {
            id += 1;
            let mut command = command;
            command["id"] = json!(id);
            let reply = client.call(command).await;
            assert!(reply["error"]["code"].is_number(), "{channel}: {reply}");
        }
        let publish = json!({"channel": channel, "data": {"kind": "block", "user": "x"}});
        for method in ["publish", "history", "history_remove"] {
            let answer = api_of(world.address, "demo", method, publish.clone()).await;
            assert!(answer["error"]["code"].is_number(), "{method}: {answer}");
        }
    }
    let log = room("!revoked");
    // What is no revocation there is passed over.
    world.owner.append(&log, b"{\"kind\":\"planet\"}".to_vec());
    world.owner.append(&log, b"garbage".to_vec());
    done(world.address, "block_user", json!({"user": "x"})).await;
    eventually("the block", || {
        world.metric("gb6_edge_revocations{instance=\"demo\"}") == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_given_whole_is_remembered_until_it_ends_by_itself() {
    let world = World::start(config());
    let now = unix_s();
    let grace = 25_000;
    let key = SigningKey::shared(&world.snapshot.instances["demo"].keys[0]).unwrap();
    let with = |claims: Value| sign_claims(&key, &claims).unwrap();
    // The newest record says until when, Unix ms.
    let until = || {
        let newest = world.owner.published().pop().unwrap();
        assert_eq!(newest.room.channel, "!revoked");
        let record: Value = serde_json::from_slice(&newest.data).unwrap();
        record["until"].as_i64().unwrap()
    };
    for (token, want) in [
        (json!({"sub": "a", "exp": now + 60}), now + 60),
        (json!({"sub": "a", "exp": now - 9, "jti": "t"}), now - 9),
        // What it lets into outlives it.
        (
            json!({"channel": "$room:1", "exp": now - 3600, "expire_at": now + 90}),
            now + 90,
        ),
    ] {
        done(world.address, "revoke_token", json!({"uid": with(token)})).await;
        assert_eq!(until(), want * 1000 + grace);
    }
    // Nothing is left of it.
    let written = world.owner.published().len();
    let over = json!({"uid": with(json!({"sub": "a", "exp": now - 3600}))});
    done(world.address, "revoke_token", over.clone()).await;
    assert_eq!(world.owner.published().len(), written);
    // Whoever says more is believed; where nobody does, it is long.
    let ends = with(json!({"sub": "a", "exp": now + 60}));
    let ask = json!({"uid": ends, "expire_at": now + 600});
    done(world.address, "revoke_token", ask).await;
    assert_eq!(until(), (now + 600) * 1000);
    let days_400 = (now + 400 * 24 * 3600) * 1000;
    for long in [
        json!({"uid": ends, "expire_at": 0}),
        json!({"uid": with(json!({"sub": "a"}))}),
        json!({"uid": with(json!({"channel": "a", "exp": now - 3600, "expire_at": 0}))}),
        json!({"uid": "t1"}),
    ] {
        done(world.address, "revoke_token", long).await;
        assert!((0..60_000).contains(&(until() - days_400)));
    }
}

#[tokio::test]
async fn what_can_not_be_revoked_is_refused_in_words() {
    let world = World::start(config());
    for (method, body, code) in [
        ("revoke_token", json!({"uid": ""}), 107),
        ("revoke_token", json!({"uid": "x".repeat(256)}), 107),
        ("revoke_token", json!({"uid": "x", "expire_at": 1}), 107),
        ("revoke_token", json!({}), 107),
        ("revoke_token", json!({"uid": "x", "client": "y"}), 107),
        ("revoke_token", json!({"client": "x".repeat(256)}), 107),
        ("revoke_token", json!({"client": "x", "expire_at": 1}), 107),
        ("block_user", json!({"user": ""}), 107),
        ("block_user", json!({"user": "x".repeat(256)}), 107),
        ("block_user", json!({"user": "x", "expire_at": 1}), 107),
        ("invalidate_user_tokens", json!({"user": ""}), 107),
        (
            "invalidate_user_tokens",
            json!({"user": "x", "channel": "c"}),
            108,
        ),
        ("unblock_user", json!({"user": 7}), 107),
    ] {
        let answer = api_of(world.address, "demo", method, body.clone()).await;
        assert_eq!(answer["error"]["code"], code, "{method} {body}: {answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_revocations_are_read_page_by_page() {
    let world = World::start(config());
    let log = room("!revoked");
    for n in 0..2_000 {
        let block = json!({"kind": "block", "user": format!("user-{n}"), "until": null});
        world.owner.append(&log, block.to_string().into_bytes());
    }
    assert!(is_refused(world.address, &world.token("user-1999")).await);
    assert!(is_refused(world.address, &world.token("user-0")).await);
    assert!(is_in(world.address, &world.token("user-2000")).await);
    assert_eq!(
        world.metric("gb6_edge_revocations{instance=\"demo\"}"),
        2_000.0
    );
}

/// The settings of an edge that looks after the log at once.
fn tidy() -> gb6_edge_node::EdgeConfig {
    let mut config = config();
    config.revocations.upkeep_every = Duration::from_millis(40);
    config.revocations.grace = Duration::ZERO;
    config.revocations.records_spare = 20;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_leaves_the_log_and_what_holds_it_back_is_written_anew() {
    let world = World::start(tidy());
    let log = room("!revoked");
    let write = |record: Value| world.owner.append(&log, record.to_string().into_bytes());
    let revoked =
        |n: u64, until: i64| json!({"kind": "token", "id": format!("{n:032x}"), "until": until});
    let (past, ahead) = ((unix_s() - 1) * 1000, (unix_s() + 600) * 1000);
    for n in 0..10 {
        write(revoked(n, past));
    }
    write(json!({"kind": "block", "user": "alice", "until": null}));
    write(json!({"kind": "block", "user": "bob", "until": null}));
    for n in 10..400 {
        write(revoked(n, past));
    }
    write(json!({"kind": "unblock", "user": "bob"}));
    write(revoked(400, ahead));
    let (alice, bob) = (world.token("alice"), world.token("bob"));
    assert!(is_refused(world.address, &alice).await);
    assert!(is_in(world.address, &bob).await);
    eventually("the log to be small", || {
        let (first, top) = world.owner.extent(&log);
        first > 402 && top - first < 22
    })
    .await;
    let remembered = "gb6_edge_revocations{instance=\"demo\"}";
    assert_eq!(world.metric(remembered), 2.0);
    // An edge that starts now reads what is left, and knows the same.
    let other = world.another_edge("e2");
    assert!(is_refused(other.address, &alice).await);
    assert!(is_in(other.address, &bob).await);
    eventually("as many", || other.metric(remembered) == 2.0).await;
    // The last of them goes too.
    done(world.address, "unblock_user", json!({"user": "alice"})).await;
    write(revoked(400, ahead));
    eventually("all but one to leave", || {
        let (first, top) = world.owner.extent(&log);
        first == top
    })
    .await;
    assert!(is_in(other.address, &alice).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_under_which_the_log_was_removed_forgets_what_is_not_in_it() {
    let world = World::start(config());
    let other = world.another_edge_with("e2", tidy());
    let log = room("!revoked");
    let alice = world.token("alice");
    done(world.address, "block_user", json!({"user": "alice"})).await;
    done(world.address, "block_user", json!({"user": "bob"})).await;
    for address in [world.address, other.address] {
        let begin = Instant::now();
        while !is_refused(address, &alice).await {
            assert!(begin.elapsed() < SOON);
        }
    }
    world.network.cut(&"e1".into(), &"r1".into());
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    world.metric_falls(current, 0.0).await;
    done(other.address, "unblock_user", json!({"user": "alice"})).await;
    done(other.address, "unblock_user", json!({"user": "bob"})).await;
    done(other.address, "block_user", json!({"user": "bob"})).await;
    eventually("the log to be removed", || {
        world.owner.extent(&log) == (5, 5)
    })
    .await;
    world.network.heal(&"e1".into(), &"r1".into());
    world.metric_reaches(current, 1.0).await;
    assert!(is_in(world.address, &alice).await);
    assert!(is_refused(world.address, &world.token("bob")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_bound_how_long_an_instance_stands_still() {
    let mut patient = config();
    patient.revocations.hold_max = Some(Duration::from_millis(300));
    let world = World::start(patient);
    let holds = world.another_edge("e2");
    world.owner.unreadable(Some("!revoked"));
    done(world.address, "block_user", json!({"user": "alice"})).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    let mut held = Client::connect(holds.address, &world.token("bob")).await;
    assert_eq!(held.call(subscribe.clone()).await["error"]["code"], 1002);
    let (outdated, current) = (
        "gb6_edge_revocations_outdated{instance=\"demo\"}",
        "gb6_edge_revocations_current{instance=\"demo\"}",
    );
    world.metric_reaches(outdated, 1.0).await;
    assert_eq!(world.metric(current), 0.0);
    assert_eq!(holds.metric(outdated), 0.0);
    // Also whoever was revoked and is not known to be.
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    assert!(alice.call(subscribe).await["subscribe"].is_object());
    world.owner.unreadable(None);
    assert_eq!(alice.closed().await.0, 3500);
    world.metric_reaches(current, 1.0).await;
    assert_eq!(world.metric(outdated), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_held_is_told_that_the_edge_drains_and_nothing_else() {
    let mut patient = config();
    patient.close_timeout = Duration::from_secs(30);
    let world = World::start(patient);
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    assert!(bob.call(subscribe).await["subscribe"].is_object());
    let delivered = "gb6_edge_fan_out_total{region=\"r\",shard=\"0\"}";
    let before = world.metric(delivered);
    world.owner.unreadable(Some("!revoked"));
    done(world.address, "block_user", json!({"user": "alice"})).await;
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    world.metric_falls(current, 0.0).await;
    world.owner.append(&room("room:1"), b"1".to_vec());
    world.metric_reaches(delivered, before + 1.0).await;
    let begin = Instant::now();
    let drained = tokio::spawn(world.edge.drain());
    let closed = bob.event().await.expect_err("nothing is delivered");
    assert_eq!(u16::from(closed.unwrap().code), 3001);
    drop(bob);
    drained.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_ended_wherever_it_is_and_its_token_stays_valid() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let alice = world.token("alice");
    let mut clients = Vec::new();
    for address in [world.address, other.address] {
        let mut client = Client::open(address).await;
        let reply = client
            .call(json!({"id": 1, "connect": {"token": alice}}))
            .await;
        let id = reply["connect"]["client"].as_str().unwrap().to_owned();
        clients.push((client, id));
    }
    let acme = api_of(
        world.address,
        "acme",
        "revoke_token",
        json!({"client": clients[1].1}),
    )
    .await;
    assert_eq!(acme, json!({"result": {}}));
    // The edge at which it is can not be reached when it is revoked.
    world.network.cut(&"e2".into(), &"r1".into());
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    eventually("the cut", || other.metric(current) == 0.0).await;
    done(
        world.address,
        "revoke_token",
        json!({"client": clients[1].1}),
    )
    .await;
    world.network.heal(&"e2".into(), &"r1".into());
    assert_eq!(clients[1].0.closed().await.0, 3503);
    // The other one of the same token goes on, and another begins.
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    assert!(clients[0].0.call(subscribe).await["subscribe"].is_object());
    assert!(is_in(other.address, &alice).await);
}

/// A token for a channel, with an id.
fn channel_token(world: &World, user: &str, channel: &str, id: &str) -> String {
    token(world, json!({"sub": user, "channel": channel, "jti": id}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_subscription_token_ends_the_subscription_at_every_edge_and_opens_none() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let mut alice = Client::connect(other.address, &world.token("alice")).await;
    for (id, channel) in [(2, "room:1"), (3, "room:2")] {
        let token = channel_token(&world, "alice", channel, &format!("t{id}"));
        let subscribe = json!({"channel": channel, "token": token});
        alice.call(json!({"id": id, "subscribe": subscribe})).await;
    }
    let begin = Instant::now();
    done(world.address, "revoke_token", json!({"uid": "t2"})).await;
    let push = alice.next().await;
    assert_eq!(push["push"]["channel"], "room:1", "{push}");
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    assert!(begin.elapsed() < SOON, "after {:?}", begin.elapsed());
    // Neither again, and nothing else has changed.
    for (id, token, code) in [(4, "t2", json!(103)), (5, "t5", Value::Null)] {
        let token = channel_token(&world, "alice", "room:1", token);
        let subscribe = json!({"channel": "room:1", "token": token});
        let reply = alice.call(json!({"id": id, "subscribe": subscribe})).await;
        assert_eq!(reply["error"]["code"], code, "{reply}");
    }
    world.owner.append(&room("room:2"), b"2".to_vec());
    assert_eq!(alice.next().await["push"]["channel"], "room:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subscription_tokens_of_a_user_are_revoked_with_the_others_by_their_age() {
    let world = World::start(config());
    let of = |user, channel, age| {
        let claims = json!({"sub": user, "channel": channel, "iat": unix_s() - age});
        let token = token(&world, claims);
        json!({"channel": channel, "token": token})
    };
    // Their connections are by tokens that stay valid.
    let fresh = |user| token(&world, json!({"sub": user, "iat": unix_s()}));
    let mut alice = Client::connect(world.address, &fresh("alice")).await;
    let mut bob = Client::connect(world.address, &fresh("bob")).await;
    let kept = of("alice", "room:2", 5);
    for (id, subscribe) in [(2, of("alice", "room:1", 60)), (3, kept)] {
        let reply = alice.call(json!({"id": id, "subscribe": subscribe})).await;
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    let ask = json!({"user": "alice", "issued_before": unix_s() - 30});
    done(world.address, "invalidate_user_tokens", ask).await;
    let push = alice.next().await;
    assert_eq!(push["push"]["channel"], "room:1", "{push}");
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    // None of them opens a channel either, nor one that does not say how old it is.
    let unsaid = channel_token(&world, "alice", "room:1", "t1");
    let unsaid = json!({"channel": "room:1", "token": unsaid});
    for (id, subscribe, code) in [
        (4, of("alice", "room:1", 60), json!(103)),
        (5, unsaid, json!(103)),
        (6, of("alice", "room:1", 5), Value::Null),
    ] {
        let reply = alice.call(json!({"id": id, "subscribe": subscribe})).await;
        assert_eq!(reply["error"]["code"], code, "{reply}");
    }
    let subscribe = of("bob", "room:1", 60);
    let reply = bob.call(json!({"id": 2, "subscribe": subscribe})).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    world.owner.append(&room("room:2"), b"2".to_vec());
    assert_eq!(alice.next().await["push"]["channel"], "room:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_of_subscriptions_while_an_edge_was_cut_off_counts_before_it_delivers() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut bob = Client::connect(world.address, &world.token("bob")).await;
    for (client, user) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        let token = channel_token(&world, user, "room:1", user);
        let subscribe = json!({"channel": "room:1", "token": token});
        client.call(json!({"id": 2, "subscribe": subscribe})).await;
    }
    world.network.cut(&"e1".into(), &"r1".into());
    let current = "gb6_edge_revocations_current{instance=\"demo\"}";
    world.metric_falls(current, 0.0).await;
    done(other.address, "revoke_token", json!({"uid": "alice"})).await;
    world.owner.append(&room("room:1"), b"1".to_vec());
    world.network.heal(&"e1".into(), &"r1".into());
    let closed = alice.event().await.expect_err("nothing is delivered");
    assert_eq!(u16::from(closed.unwrap().code), 3010);
    assert_eq!(bob.next().await["push"]["pub"]["data"], 1);
}
