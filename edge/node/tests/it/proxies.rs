//! Connections and publications about which the application's backend is asked, over real HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use gb6_core_model::snapshot::{OnFailure, Proxy, Snapshot};
use gb6_core_outbound::{BreakerConfig, Reach};
use gb6_edge_node::auth::{SigningKey, sign_claims};
use gb6_edge_node::{EdgeConfig, ProxyBounds};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::backend::{Asked, Backend, Does, user};
use crate::body::{Body, emulate, post};
use crate::client::{Client, http, open};
use crate::world::{World, api_key, config, eventually, room, snapshot, unix_s};

pub(crate) fn asks(backend: &Backend) -> Proxy {
    Proxy {
        url: backend.url(),
        timeout_ms: 5_000,
        headers: Vec::new(),
        static_headers: BTreeMap::new(),
        binary_encoding: false,
        include_meta: false,
        on_failure: OnFailure::Refuse,
    }
}

/// Of a backend that hangs.
fn hasty(backend: &Backend) -> Proxy {
    Proxy {
        timeout_ms: 400,
        ..asks(backend)
    }
}

fn demo(snapshot: &mut Snapshot) -> &mut gb6_core_model::snapshot::Instance {
    snapshot.instances.get_mut("demo").unwrap()
}

pub(crate) fn connecting(proxy: Proxy) -> Snapshot {
    let mut snapshot = snapshot();
    demo(&mut snapshot).proxies.connect = Some(proxy);
    snapshot
}

fn publishing(proxy: Proxy) -> Snapshot {
    let mut snapshot = snapshot();
    let demo = demo(&mut snapshot);
    demo.proxies.publish = Some(proxy);
    demo.namespaces.get_mut("room").unwrap().publish_proxy = true;
    snapshot
}

fn reaching() -> EdgeConfig {
    let mut config = config();
    config.outbound.reach = Reach::with_loopback();
    // No test's failures open it unless it wants that.
    config.proxies.breaker.failures = 1_000;
    config
}

fn start(snapshot: Snapshot) -> World {
    World::start_placed(reaching(), snapshot).unwrap()
}

/// Connects without a token; the reply, or the code of the close.
async fn connect_with(address: SocketAddr, connect: Value) -> (Client, Result<Value, u16>) {
    let mut client = Client::open(address).await;
    client.send(&json!({"id": 1, "connect": connect})).await;
    let reply = client.event().await;
    let reply = reply.map_err(|close| close.map_or(0, |c| c.code.into()));
    (client, reply)
}

async fn connect(address: SocketAddr) -> Result<Value, u16> {
    connect_with(address, json!({})).await.1
}

/// What came of one publication: 0, or the code of the error.
async fn publish(client: &mut Client, channel: &str, data: Value) -> u64 {
    let reply = client
        .call(json!({"id": 7, "publish": {"channel": channel, "data": data}}))
        .await;
    reply["error"]["code"].as_u64().unwrap_or(0)
}

fn written(world: &World) -> Vec<Value> {
    let published = world.owner.published();
    let data = published.iter().map(|p| serde_json::from_slice(&p.data));
    data.map(Result::unwrap).collect()
}

fn results(world: &World, proxy: &str, result: &str) -> f64 {
    world.metric(&format!(
        "gb6_edge_proxy_requests_total{{proxy=\"{proxy}\",result=\"{result}\"}}"
    ))
}

#[tokio::test]
async fn the_backend_names_the_user_of_a_connection_without_a_token() {
    let answer = json!({
        "info": {"name": "Alice"}, "data": {"motd": "hi"}, "channels": ["room:1"],
        "subs": {"room:2": {"data": {"n": 2}}}, "expire_at": unix_s() + 600, "meta": {"plan": 1}
    });
    let backend = Backend::start(user("alice", answer)).await;
    let mut proxy = asks(&backend);
    proxy.headers = vec!["cookie".into(), "x-trace".into()];
    proxy
        .static_headers
        .insert("authorization".into(), "Bearer hunter2".into());
    let world = start(connecting(proxy));
    let cookie = [("Cookie", "sid=1"), ("X-Not-Listed", "no")];
    let mut client = Client::over(open(world.address, "", &cookie).await.unwrap());
    let connect = json!({
        "data": {"ticket": 7}, "name": "js", "version": "1.2", "subs": {"room:1": {}},
        "headers": {"X-Trace": "t1", "cookie": "forged"}
    });
    client.send(&json!({"id": 1, "connect": connect})).await;
    let reply = client.next().await["connect"].clone();
    assert_eq!(reply["data"], json!({"motd": "hi"}));
    assert_eq!(reply["subs"]["room:2"]["data"], json!({"n": 2}));
    assert!(reply["subs"]["room:1"]["recoverable"] == true, "{reply}");
    assert!(
        reply["expires"].is_null() && reply["ttl"].is_null(),
        "{reply}"
    );
    let asked = backend.asked().remove(0);
    assert_eq!(asked.line, "POST /gb6?key=hunter2 HTTP/1.1");
    assert_eq!(
        asked.body,
        json!({"client": reply["client"], "transport": "websocket", "protocol": "json",
               "encoding": "json", "data": {"ticket": 7}, "name": "js", "version": "1.2",
               "channels": ["room:1"]})
    );
    assert_eq!(asked.header("cookie"), ["sid=1"]);
    assert_eq!(asked.header("x-trace"), ["t1"]);
    assert_eq!(asked.header("authorization"), ["Bearer hunter2"]);
    assert_eq!(asked.header("content-type"), ["application/json"]);
    assert!(asked.header("x-not-listed").is_empty());

    // It is alice for everybody else too.
    let presence = client
        .call(json!({"id": 2, "presence": {"channel": "room:1"}}))
        .await;
    let people = presence["presence"]["presence"].as_object().unwrap();
    let ours = &people[reply["client"].as_str().unwrap()];
    assert_eq!(
        (&ours["user"], &ours["conn_info"]),
        (&json!("alice"), &json!({"name": "Alice"}))
    );
    assert_eq!(results(&world, "connect", "allowed"), 1.0);
    assert_eq!(
        world.metric("gb6_edge_proxy_seconds_count{proxy=\"connect\"}"),
        1.0
    );

    // Who brings a token is asked about by nobody.
    Client::connect(world.address, &world.token("bob")).await;
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn refusals_reach_the_client_in_the_backends_words() {
    let backend = Backend::start(Does::says(&json!({
        "error": {"code": 1000, "message": "come back tomorrow"}
    })))
    .await;
    let world = start(connecting(asks(&backend)));
    let reply = connect(world.address).await.unwrap();
    assert_eq!(
        reply["error"],
        json!({"code": 1000, "message": "come back tomorrow"})
    );
    backend.does(Does::says(
        &json!({"disconnect": {"code": 4501, "reason": "banned"}}),
    ));
    let mut client = Client::open(world.address).await;
    client.send(&json!({"id": 1, "connect": {}})).await;
    assert_eq!(client.closed().await, (4501, "banned".to_owned()));
    // Who has no opinion leaves it to the instance, which lets nobody in.
    backend.does(Does::Says("{}".into()));
    assert_eq!(connect(world.address).await, Err(3501));
    let mut open = world.snapshot.clone();
    demo(&mut open).anonymous.allow = true;
    open.revision += 1;
    world.place(open);
    let begin = Instant::now();
    while connect(world.address).await == Err(3501) {
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    assert!(connect(world.address).await.unwrap()["connect"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_is_not_let_in_by_a_backend() {
    let backend = Backend::start(user("alice", json!({}))).await;
    let world = start(connecting(asks(&backend)));
    let (mut client, reply) = connect_with(world.address, json!({})).await;
    assert!(reply.unwrap()["connect"].is_object());
    let body = json!({"user": "alice"}).to_string();
    let request = format!(
        "POST /api/block_user HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        api_key("demo"),
        body.len()
    );
    assert_eq!(http(world.address, &request).await.0, 200);
    assert_eq!(client.closed().await.0, 3500);
    assert_eq!(connect(world.address).await, Err(3500));
    backend.does(user("bob", json!({})));
    assert!(connect(world.address).await.unwrap()["connect"].is_object());
}

#[tokio::test]
async fn a_connection_ends_when_its_backend_said_and_is_asked_about_anew() {
    let backend = Backend::start(user("alice", json!({"expire_at": unix_s() + 3}))).await;
    let mut config = reaching();
    config.session.expiry_grace_ms = 100;
    let world = World::start_placed(config, connecting(asks(&backend))).unwrap();
    let (mut client, reply) = connect_with(world.address, json!({})).await;
    assert!(reply.unwrap()["connect"]["expires"].is_null());
    assert_eq!(client.closed().await.0, 3005, "SDKs connect again after it");
    backend.does(user("alice", json!({"expire_at": 5})));
    let reply = connect(world.address).await.unwrap();
    assert_eq!(reply["error"]["code"], 110, "it was over before it began");
}

#[tokio::test]
async fn every_transport_is_asked_about() {
    let backend = Backend::start(user("alice", json!({"channels": ["room:1"]}))).await;
    let mut snapshot = publishing(asks(&backend));
    demo(&mut snapshot).proxies.connect = Some(asks(&backend));
    let world = start(snapshot);
    let command = json!({"id": 1, "connect": {"data": {"t": 1}}}).to_string();
    let mut stream = Body::open(
        world.address,
        &post("/connection/http_stream", "", command.as_bytes()),
    )
    .await;
    let session = stream.line().await.unwrap()["connect"].clone();
    assert!(session["client"].is_string(), "{session}");
    backend.does(Does::Says("{}".into()));
    let publication = [json!({"id": 2, "publish": {"channel": "room:1", "data": {"n": 1}}})];
    assert_eq!(emulate(world.address, &session, &publication).await, 204);
    eventually("the publication", || written(&world) == [json!({"n": 1})]).await;
    backend.does(user("alice", json!({})));
    let open = |path: &str| post(path, "", b"{\"data\":{\"t\":1}}");
    let sse = Body::open(
        world.address,
        &post("/connection/sse", "", command.as_bytes()),
    )
    .await;
    let uni = Body::open(world.address, &open("/connection/uni_http_stream")).await;
    let uni_sse = Body::open(world.address, &open("/connection/uni_sse")).await;
    let mut uni_ws = {
        let url = format!("ws://{}/connection/uni_websocket", world.address);
        let tcp = tokio::net::TcpStream::connect(world.address).await.unwrap();
        tokio_tungstenite::client_async(url, tcp).await.unwrap().0
    };
    uni_ws
        .send(Message::text("{\"data\":{\"t\":1}}"))
        .await
        .unwrap();
    eventually("six questions", || backend.count() == 6).await;
    let asked = backend.asked();
    let mut transports: Vec<&str> = asked
        .iter()
        .map(|asked| asked.body["transport"].as_str().unwrap())
        .collect();
    transports.sort_unstable();
    assert_eq!(
        transports,
        [
            "http_stream",
            "http_stream",
            "sse",
            "uni_http_stream",
            "uni_sse",
            "uni_websocket"
        ]
    );
    let connects: Vec<&Asked> = asked.iter().filter(|a| a.body["user"].is_null()).collect();
    assert!(connects.iter().all(|a| a.body["data"] == json!({"t": 1})));
    drop((sse, uni, uni_sse, uni_ws));
}

#[tokio::test]
async fn a_publication_is_what_its_backend_makes_of_it() {
    let backend = Backend::start(Does::Says("{}".into())).await;
    let mut proxy = asks(&backend);
    (proxy.include_meta, proxy.headers) = (true, vec!["cookie".into()]);
    let world = start(publishing(proxy));
    let key = SigningKey::shared(&world.snapshot.instances["demo"].keys[0]).unwrap();
    let claims = json!({"sub": "alice", "exp": unix_s() + 60, "meta": {"plan": "free"}});
    let token = sign_claims(&key, &claims).unwrap();
    let ws = open(world.address, "", &[("Cookie", "sid=1")])
        .await
        .unwrap();
    let mut alice = Client::over(ws);
    alice.authenticate(&token).await;
    assert_eq!(publish(&mut alice, "room:1", json!({"n": 1})).await, 0);
    let asked = backend.asked().remove(0);
    let client = asked.body["client"].clone();
    assert!(client.is_string());
    assert_eq!(
        asked.body,
        json!({"client": client, "transport": "websocket", "protocol": "json", "encoding": "json",
               "user": "alice", "channel": "room:1", "data": {"n": 1}, "meta": {"plan": "free"}})
    );
    assert_eq!(asked.header("cookie"), ["sid=1"]);
    // A fresh token that says nothing of it takes nothing away.
    let claims = json!({"sub": "alice", "exp": unix_s() + 120});
    let fresh = sign_claims(&key, &claims).unwrap();
    let reply = alice
        .call(json!({"id": 2, "refresh": {"token": fresh}}))
        .await;
    assert!(reply["refresh"].is_object(), "{reply}");
    backend.does_next([
        Does::says(&json!({"result": {"data": {"clean": 1}}})),
        Does::says(&json!({"result": {"b64data": "eyJiIjoxfQ=="}})),
        Does::says(&json!({"error": {"code": 1001, "message": "no bad words"}})),
        Does::says(&json!({"result": {"data": "x".repeat(66_000)}})),
    ]);
    for want in [0, 0, 1001, 100] {
        assert_eq!(publish(&mut alice, "room:1", json!({"n": 2})).await, want);
    }
    assert_eq!(
        written(&world),
        [json!({"n": 1}), json!({"clean": 1}), json!({"b": 1})]
    );
    // The durable publish is asked about too, and rooms without the rule are not.
    let rpc = json!({"method": "room.publish", "data": {"room": "1", "id": "m", "data": 3}});
    backend.asked();
    let reply = alice.call(json!({"id": 3, "rpc": rpc})).await;
    assert_eq!(reply["rpc"]["data"]["offset"], 4, "{reply}");
    let asked = backend.asked().remove(0);
    assert_eq!(
        (&asked.body["data"], &asked.body["meta"]),
        (&json!(3), &json!({"plan": "free"}))
    );
    backend.does(Does::says(
        &json!({"disconnect": {"code": 4500, "reason": "spam"}}),
    ));
    alice
        .send(&json!({"id": 4, "publish": {"channel": "room:1", "data": 1}}))
        .await;
    assert_eq!(alice.closed().await, (4500, "spam".to_owned()));
    assert_eq!(written(&world).len(), 4);
}

#[tokio::test]
async fn commands_of_a_channel_wait_for_its_backend_and_others_do_not() {
    let backend = Backend::start(Does::Says("{}".into())).await;
    let world = start(publishing(asks(&backend)));
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut watcher = Client::connect(world.address, &world.token("bob")).await;
    watcher
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    backend.does_next([Does::SaysBehind(1, "{}".into())]);
    alice
        .send(&json!({"id": 10, "publish": {"channel": "room:1", "data": 10}}))
        .await;
    eventually("the first question", || backend.count() == 1).await;
    for id in 11..20 {
        alice
            .send(&json!({"id": id, "publish": {"channel": "room:1", "data": id}}))
            .await;
    }
    alice
        .send(&json!({"id": 20, "history": {"channel": "room:1", "limit": 100}}))
        .await;
    // What is of another room goes on, as do pings.
    let reply = alice
        .call(json!({"id": 30, "publish": {"channel": "room:2", "data": 30}}))
        .await;
    assert!(reply["error"].is_null(), "{reply}");
    assert_eq!(backend.count(), 2);
    assert!(alice.call(json!({"id": 31, "ping": {}})).await["error"].is_null());
    assert_eq!(written(&world), [json!(30)]);
    backend.open(1);
    // Publications are acknowledged in order; what is read comes by another way.
    let (mut acknowledged, mut history) = (Vec::new(), Value::Null);
    for _ in 10..=20 {
        let reply = alice.next().await;
        assert_eq!(reply["error"], Value::Null, "{reply}");
        match reply["id"].as_u64() {
            Some(20) => history = reply,
            id => acknowledged.extend(id),
        }
    }
    assert_eq!(acknowledged, Vec::from_iter(10..20));
    let publications = history["history"]["publications"].as_array().unwrap();
    assert_eq!(
        publications.len(),
        10,
        "it sees what was published before it"
    );
    for id in 10..20 {
        assert_eq!(watcher.next().await["push"]["pub"]["data"], id);
    }
}

/// Everything that a backend can do wrong, with the name that metrics have for it.
fn wrongs() -> Vec<(Does, &'static str)> {
    let head =
        |status, headers: &str, body: &str| Does::Head(status, headers.to_owned(), body.to_owned());
    vec![
        (Does::Hangs, "timeout"),
        (Does::Drips, "timeout"),
        (Does::Closes, "broken"),
        (Does::Says("<html>it works</html>".into()), "garbage"),
        (Does::Says("[]".into()), "garbage"),
        (Does::Says("{\"result\":[1,2]}".into()), "garbage"),
        (
            Does::Says(format!("\"{}\"", "x".repeat(200_000))),
            "too_large",
        ),
        (head("500 Oops", "", "{\"result\":{}}"), "server_error"),
        (head("404 Not Found", "", "{\"result\":{}}"), "status"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_lets_in_nobody_unless_its_instance_says_so() {
    let backend = Backend::start(Does::Hangs).await;
    let elsewhere = Backend::start(user("mallory", json!({}))).await;
    let world = start(connecting(hasty(&backend)));
    let location = format!("Location: {}\r\n", elsewhere.url());
    let redirect = Does::Head("307 Temporary Redirect", location, String::new());
    let lies = Does::Says("{\"result\":{\"user\":7}}".into());
    let further = [(redirect, "status"), (lies, "garbage")];
    for (does, result) in wrongs().into_iter().chain(further) {
        backend.does(does.clone());
        let before = results(&world, "connect", result);
        let reply = connect(world.address).await.unwrap();
        assert_eq!(reply["error"]["code"], 100, "{does:?}");
        assert_eq!(reply["error"]["temporary"], true);
        assert_eq!(results(&world, "connect", result), before + 1.0, "{does:?}");
    }
    assert_eq!(elsewhere.count(), 0, "nobody follows");
    // An anonymous connection, no more, is what is allowed instead.
    let mut snapshot = connecting(Proxy {
        on_failure: OnFailure::Allow,
        ..asks(&backend)
    });
    demo(&mut snapshot).anonymous.allow = true;
    let world = start(snapshot);
    backend.does(Does::Closes);
    let (mut client, reply) = connect_with(world.address, json!({})).await;
    assert!(reply.unwrap()["connect"].is_object());
    assert_eq!(
        publish(&mut client, "room:1", json!(1)).await,
        103,
        "it is nobody"
    );
    // A refusal that can not be read is a refusal.
    backend.does(Does::says(&json!({"error": "no"})));
    let reply = connect(world.address).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_keeps_publications_back_or_lets_them_through() {
    let backend = Backend::start(Does::Hangs).await;
    let refusing = start(publishing(hasty(&backend)));
    let allowing = start(publishing(Proxy {
        on_failure: OnFailure::Allow,
        ..hasty(&backend)
    }));
    let mut refused = Client::connect(refusing.address, &refusing.token("alice")).await;
    let mut allowed = Client::connect(allowing.address, &allowing.token("alice")).await;
    let mut count = 0;
    for (does, result) in wrongs() {
        backend.does(does.clone());
        count += 1;
        assert_eq!(
            publish(&mut refused, "room:1", json!(count)).await,
            100,
            "{does:?}"
        );
        assert_eq!(
            publish(&mut allowed, "room:1", json!(count)).await,
            0,
            "{does:?}"
        );
        assert!(results(&refusing, "publish", result) >= 1.0, "{does:?}");
    }
    assert!(written(&refusing).is_empty());
    assert_eq!(
        written(&allowing),
        (1..=count).map(|n| json!(n)).collect::<Vec<_>>()
    );
    assert_eq!(
        refusing.metric("gb6_edge_proxy_under_way{proxy=\"publish\"}"),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_again_and_again_is_left_alone_for_a_while() {
    let backend = Backend::start(Does::Head("503 Busy", String::new(), String::new())).await;
    let mut config = reaching();
    let breaker = |open_ms| BreakerConfig {
        failures: 3,
        open_ms,
    };
    config.proxies.breaker = breaker(60_000);
    let world = World::start_placed(config.clone(), publishing(asks(&backend))).unwrap();
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let open = "gb6_edge_proxy_breaker_open{instance=\"demo\",proxy=\"publish\"}";
    for _ in 0..3 {
        assert_eq!(world.metric(open), 0.0);
        assert_eq!(publish(&mut alice, "room:1", json!(1)).await, 100);
    }
    assert_eq!((world.metric(open), backend.asked().len()), (1.0, 3));
    backend.does(Does::Says("{}".into()));
    assert_eq!(publish(&mut alice, "room:1", json!(1)).await, 100);
    assert_eq!(backend.count(), 0, "nobody asks");
    assert_eq!(results(&world, "publish", "open"), 1.0);
    // After the while it is asked again.
    config.proxies.breaker = breaker(200);
    let world = World::start_placed(config, publishing(asks(&backend))).unwrap();
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    backend.does(Does::Head("503 Busy", String::new(), String::new()));
    for _ in 0..3 {
        assert_eq!(publish(&mut alice, "room:1", json!(1)).await, 100);
    }
    backend.does(Does::Says("{}".into()));
    let begin = Instant::now();
    while publish(&mut alice, "room:1", json!(2)).await != 0 {
        assert!(begin.elapsed() < Duration::from_secs(5), "it never closed");
    }
    assert_eq!(world.metric(open), 0.0);
    // Answers that make no sense cost nobody time, so that one client's data shut nobody out.
    for senseless in ["oops".to_owned(), "x".repeat(200_000)] {
        backend.does(Does::Says(senseless));
        for _ in 0..5 {
            assert_eq!(publish(&mut alice, "room:1", json!(1)).await, 100);
        }
        assert_eq!(world.metric(open), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_to_a_backend_that_hangs_costs_its_instance_alone() {
    let backend = Backend::start(Does::Hangs).await;
    let mut config = reaching();
    config.proxies = ProxyBounds {
        under_way_max: 4,
        ..config.proxies
    };
    config.outbound.per_host_max = 5;
    let mut snapshot = publishing(Proxy {
        timeout_ms: 3_000,
        on_failure: OnFailure::Allow,
        ..asks(&backend)
    });
    // The other instance asks at the same address.
    let acme = snapshot.instances.get_mut("acme").unwrap();
    acme.proxies.publish = Some(asks(&backend));
    acme.namespaces.get_mut("room").unwrap().publish_proxy = true;
    let world = World::start_placed(config, snapshot).unwrap();
    let mut flood = Client::connect(world.address, &world.token("alice")).await;
    for id in 2..10 {
        flood
            .send(&json!({"id": id, "publish": {"channel": format!("room:{id}"), "data": 1}}))
            .await;
    }
    for _ in 0..4 {
        let reply = flood.next().await;
        assert_eq!(
            reply["error"]["code"], 111,
            "no door is opened by a flood: {reply}"
        );
    }
    assert_eq!(results(&world, "publish", "busy"), 4.0);
    eventually("four questions", || backend.count() == 4).await;
    assert_eq!(
        world.metric("gb6_edge_proxy_under_way{proxy=\"publish\"}"),
        4.0
    );
    backend.does(Does::Says("{}".into()));
    let token = world.token_of("acme", "bob", 60);
    let mut bob = Client::connect(world.address, &token).await;
    for _ in 0..8 {
        assert_eq!(publish(&mut bob, "room:1", json!(1)).await, 0);
    }
    assert_eq!(written(&world).len(), 8);
}

#[tokio::test]
async fn addresses_within_are_not_asked() {
    let backend = Backend::start(user("root", json!({}))).await;
    let mut closed = reaching();
    closed.outbound.reach = Reach::default();
    let world = World::start_placed(closed, connecting(asks(&backend))).unwrap();
    let reply = connect(world.address).await.unwrap();
    assert_eq!(reply["error"]["code"], 100);
    assert_eq!(
        reply["error"]["message"], "internal server error",
        "it says nothing of within"
    );
    assert_eq!(results(&world, "connect", "forbidden"), 1.0);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn instances_have_their_own_backends_and_secrets() {
    let ours = Backend::start(Does::Says("{}".into())).await;
    let theirs = Backend::start(Does::Says("{}".into())).await;
    let listed = |backend: &Backend| Proxy {
        headers: vec!["cookie".into()],
        include_meta: true,
        ..asks(backend)
    };
    let mut snapshot = publishing(listed(&ours));
    let acme = snapshot.instances.get_mut("acme").unwrap();
    acme.proxies.publish = Some(listed(&theirs));
    acme.namespaces.get_mut("room").unwrap().publish_proxy = true;
    let world = start(snapshot);
    // A token of acme at demo's host name: the cookie was for demo.
    let token = world.token_of("acme", "bob", 60);
    let ws = open(world.address, "", &[("Cookie", "demo=secret")])
        .await
        .unwrap();
    let mut bob = Client::over(ws);
    bob.authenticate(&token).await;
    assert_eq!(publish(&mut bob, "room:1", json!(1)).await, 0);
    assert_eq!(ours.count(), 0);
    let asked = theirs.asked().remove(0);
    assert!(asked.header("cookie").is_empty(), "{asked:?}");
    // And a connection without a token at demo's host name is nothing to acme's backend.
    assert_eq!(connect(world.address).await, Err(3501));
    assert_eq!((ours.count(), theirs.count()), (0, 0));
    assert!(
        world
            .owner
            .published()
            .iter()
            .all(|p| p.room != room("room:1"))
    );
}

#[tokio::test]
async fn pages_from_elsewhere_ask_nothing_in_a_visitors_name() {
    let backend = Backend::start(user("victim", json!({}))).await;
    let mut proxy = asks(&backend);
    proxy.headers = vec!["cookie".into()];
    let mut snapshot = connecting(proxy);
    let world = start(snapshot.clone());
    // A page that only another instance lets in, with the cookies of whoever looks at it.
    let page = [("Origin", "https://app.acme.example"), ("Cookie", "sid=1")];
    let mut client = Client::over(open(world.address, "", &page).await.unwrap());
    client.send(&json!({"id": 1, "connect": {}})).await;
    assert_eq!(client.closed().await.0, 3507);
    assert_eq!(backend.count(), 0);
    let listed = vec!["https://app.acme.example".to_owned()];
    demo(&mut snapshot).allowed_origins = listed;
    let world = start(snapshot);
    let mut client = Client::over(open(world.address, "", &page).await.unwrap());
    client.send(&json!({"id": 1, "connect": {}})).await;
    assert!(client.next().await["connect"].is_object());
    assert_eq!(backend.asked()[0].header("cookie"), ["sid=1"]);
}

#[tokio::test]
async fn another_backend_is_asked_once_it_is_placed() {
    let first = Backend::start(user("alice", json!({}))).await;
    let second = Backend::start(user("bob", json!({}))).await;
    let world = start(connecting(asks(&first)));
    assert!(connect(world.address).await.unwrap()["connect"].is_object());
    let mut snapshot = connecting(asks(&second));
    snapshot.revision += 1;
    world.place(snapshot);
    let begin = Instant::now();
    while second.count() == 0 {
        connect(world.address).await.unwrap();
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "the second is never asked"
        );
    }
    let mut snapshot = crate::world::snapshot();
    snapshot.revision += 2;
    world.place(snapshot);
    while connect(world.address).await != Err(3501) {
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "it is asked for ever"
        );
    }
}
