//! The server API over real sockets: keys, shapes of answers, bounds, and what other instances see.

use std::net::SocketAddr;

use bytes::Bytes;
use gb6_core_model::{InstanceId, hash};
use gb6_core_wire::mesh::{Person, RoomRef};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Client, PATIENCE, http, http_or_reset};
use crate::world::{World, api_key, config, room};

fn request(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn keyed(instance: &str) -> String {
    format!("X-API-Key: {}\r\n", api_key(instance))
}

/// The answer of a method to `instance`'s key, which must be a 200.
pub(crate) async fn call_as(
    address: SocketAddr,
    instance: &str,
    method: &str,
    body: &Value,
) -> Value {
    let path = format!("/api/{method}");
    let request = request(&path, &keyed(instance), &body.to_string());
    let (status, head, body) = http(address, &request).await;
    assert_eq!(status, 200, "{method}: {head} {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

pub(crate) async fn call(world: &World, method: &str, body: Value) -> Value {
    call_as(world.address, "demo", method, &body).await
}

fn epoch(instance: &str, channel: &str) -> String {
    hash::stream_epoch(&InstanceId::from(instance), channel, 0)
}

#[tokio::test]
async fn a_key_opens_its_own_instance_by_each_of_three_ways() {
    let world = World::start(config());
    let (demo, acme) = (api_key("demo"), api_key("acme"));
    let body = json!({"channel": "room:1", "data": 1}).to_string();
    for (path, headers) in [
        ("/api/publish".to_owned(), format!("X-API-Key: {demo}\r\n")),
        (
            "/api/publish".to_owned(),
            format!("Authorization: ApiKey {demo}\r\n"),
        ),
        (format!("/api/publish?api_key={demo}"), String::new()),
    ] {
        let (status, _, answer) = http(world.address, &request(&path, &headers, &body)).await;
        assert_eq!(status, 200, "{path} {headers} {answer}");
    }
    let other = call_as(
        world.address,
        "acme",
        "history",
        &json!({"channel": "room:1", "limit": 10}),
    )
    .await;
    assert_eq!(other["result"]["publications"], json!([]), "{other}");
    for (path, headers) in [
        ("/api/publish", String::new()),
        ("/api/publish", format!("X-API-Key: {demo}x\r\n")),
        ("/api/publish", format!("Authorization: Bearer {demo}\r\n")),
        ("/api/publish", "X-API-Key: demo secret\r\n".to_owned()),
        (
            "/api/publish",
            format!("X-API-Key: {demo}\r\nX-API-Key: {acme}\r\n"),
        ),
        ("/api/nothing", "X-API-Key: gb6_nobody_x\r\n".to_owned()),
    ] {
        let (status, head, answer) = http(world.address, &request(path, &headers, &body)).await;
        assert_eq!((status, answer.as_str()), (401, ""), "{headers}");
        assert!(!head.contains(&demo), "{head}");
    }
    assert_eq!(world.metric("gb6_edge_api_unauthorized_total"), 6.0);
    let rooms = world.owner.published().into_iter().map(|p| p.room);
    let rooms: Vec<RoomRef> = rooms.collect();
    assert_eq!(rooms, vec![room("room:1"); 3]);
}

#[tokio::test]
async fn publishes_reach_clients_as_nobodys_with_tags_and_bytes() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("alice")).await;
    client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let publish = json!({
        "channel": "room:1", "data": {"text": "hällo\n"}, "tags": {"k": "v"},
        "idempotency_key": "order-17", "version": 3, "version_epoch": "e", "delta": true,
        "skip_history": false, "unknown_field": [1], "b64data": null,
    });
    let answer = call(&world, "publish", publish).await;
    let epoch = epoch("demo", "room:1");
    assert_eq!(answer, json!({"result": {"offset": 1, "epoch": epoch}}));
    let push = client.next().await;
    let publication = &push["push"]["pub"];
    assert_eq!(publication["data"], json!({"text": "hällo\n"}));
    assert_eq!(publication["tags"], json!({"k": "v"}));
    assert_eq!(publication["info"], Value::Null, "{push}");
    let written = &world.owner.published()[0];
    assert_eq!(written.from, Person::default());
    assert_eq!(written.id, Bytes::from("order-17"));
    assert_eq!((written.version, written.version_epoch.as_str()), (3, "e"));

    let bytes = json!({"channel": "room:1", "data": {}, "b64data": "AP8="});
    call(&world, "publish", bytes).await;
    let push = client.next().await;
    assert_eq!(push["push"]["pub"]["data"], json!({"b64": "AP8="}));

    let history = json!({"channel": "room:1", "limit": -1, "reverse": true});
    let history = call(&world, "history", history).await;
    let result = &history["result"];
    assert_eq!(
        (&result["offset"], &result["epoch"]),
        (&json!(2), &json!(epoch))
    );
    assert_eq!(result["publications"][0]["data"], json!({"b64": "AP8="}));
    assert_eq!(result["publications"][1]["tags"], json!({"k": "v"}));
    assert_eq!(result["publications"][1]["offset"], 1);
}

#[tokio::test]
async fn what_skips_history_is_a_signal_past_the_stream() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("alice")).await;
    client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let publish = json!({"channel": "room:1", "data": 1});
    let first = call(&world, "publish", publish).await;
    assert_eq!(client.next().await["push"]["pub"]["offset"], 1, "{first}");
    let body = json!({"channel": "room:1", "data": {"typing": true}, "skip_history": true});
    let nowhere = json!({"offset": 0, "epoch": ""});
    let answer = call(&world, "publish", body).await;
    assert_eq!(answer, json!({"result": nowhere}));
    let body = json!({
        "channels": ["room:1", "none:1"], "data": {"typing": true}, "tags": null,
        "skip_history": true, "version": 0, "version_epoch": "", "idempotency_key": "",
    });
    let answer = call(&world, "broadcast", body).await;
    let responses = &answer["result"]["responses"];
    assert_eq!(responses[0], json!({"result": nowhere}));
    assert_eq!(responses[1]["error"]["code"], 102);
    for _ in 0..2 {
        let push = client.next().await;
        let publication = &push["push"]["pub"];
        assert_eq!(publication["data"], json!({"typing": true}));
        assert_eq!(publication["offset"], Value::Null, "{push}");
        assert_eq!(publication["info"], Value::Null, "{push}");
    }
    assert_eq!(world.owner.published().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_a_code_and_words() {
    let world = World::start(config());
    let long = "x".repeat(65 * 1024);
    for (method, body, code, words) in [
        (
            "publish",
            json!({"channel": "", "data": 1}),
            107,
            "channel name is empty",
        ),
        (
            "publish",
            json!({"channel": "a b", "data": 1}),
            107,
            "printable ASCII",
        ),
        (
            "publish",
            json!({"data": 1}),
            107,
            "missing field `channel`",
        ),
        (
            "publish",
            json!({"channel": 5, "data": 1}),
            107,
            "invalid type",
        ),
        (
            "publish",
            json!({"channel": "room:1"}),
            107,
            "data or b64data",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": null}),
            107,
            "data or b64data",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": long}),
            107,
            "at most 65536",
        ),
        (
            "publish",
            json!({"channel": "room:1", "b64data": "?"}),
            107,
            "no base 64",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": 1, "idempotency_key": "x".repeat(129)}),
            107,
            "at most 128",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": 1, "tags": {"k": "x".repeat(5000)}}),
            107,
            "at most 32 tags",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": 1, "skip_history": true, "idempotency_key": "k"}),
            108,
            "leave idempotency_key",
        ),
        (
            "publish",
            json!({"channel": "room:1", "data": 1, "skip_history": true, "version": 1}),
            108,
            "skip_history",
        ),
        (
            "publish",
            json!({"channel": "!revoked", "data": 1}),
            107,
            "server's own",
        ),
        (
            "publish",
            json!({"channel": "plain", "data": 1}),
            102,
            "no namespace",
        ),
        (
            "publish",
            json!({"channel": "other:1", "data": 1}),
            102,
            "no namespace other",
        ),
        (
            "broadcast",
            json!({"channels": [], "data": 1}),
            107,
            "channels is empty",
        ),
        (
            "history",
            json!({"channel": "room:1", "reverse": true, "since": {"offset": 0}}),
            107,
            "before offset 0",
        ),
        (
            "history",
            json!({"channel": "room:1", "since": {"offset": 0, "epoch": "_"}, "limit": 1}),
            112,
            "stream epoch",
        ),
        (
            "presence",
            json!({"channel": "none:1"}),
            102,
            "no namespace none",
        ),
        (
            "rpc",
            json!({"method": "nothing", "params": {}}),
            104,
            "no rpc nothing",
        ),
        ("rpc", json!({"method": "room.publish"}), 107, "params"),
        (
            "rpc",
            json!({"method": "room.trace", "params": {"room": "1", "offset": 0}}),
            107,
            "begin at 1",
        ),
        (
            "get_user_status",
            json!({"users": ["alice"]}),
            108,
            "keeps no statuses",
        ),
        ("send_push_notification", json!({}), 108, "not available"),
    ] {
        let answer = call(&world, method, body).await;
        let error = &answer["error"];
        assert_eq!(error["code"], code, "{method} {answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{method} {answer}");
    }
    assert_eq!(world.owner.published(), []);
}

#[tokio::test]
async fn http_says_what_is_no_request_and_errors_where_it_is_asked_to() {
    let mut config = config();
    config.body_timeout = std::time::Duration::from_millis(300);
    let world = World::start(config);
    let key = keyed("demo");
    let transport = format!("{key}X-Centrifugo-Error-Mode: transport\r\n");
    let big = format!("\"{}\"", "x".repeat(2 * 1024 * 1024));
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let deep = nested(200);
    let deep_data = format!("{{\"channel\":\"room:1\",\"data\":{}}}", nested(129));
    for (path, headers, body, status, words) in [
        (
            "/api/publish",
            &key,
            "{\"channel\"",
            400,
            "the body is no JSON",
        ),
        ("/api/publish", &key, "", 400, "the body is no JSON"),
        ("/api/publish", &key, &deep, 400, "nests deeper"),
        (
            "/api/publish",
            &key,
            &deep_data,
            200,
            "{\"error\":{\"code\":107,\"message\":\"bad request: the data nests deeper",
        ),
        ("/api/nothing", &key, "{}", 404, "method not found"),
        ("/api/", &key, "{}", 404, "method not found"),
        (
            "/api/publish",
            &transport,
            "{\"channel\":\"\",\"data\":1}",
            400,
            "{\"code\":107",
        ),
        (
            "/api/publish",
            &transport,
            "{\"channel\":\"x:1\",\"data\":1}",
            404,
            "{\"code\":102",
        ),
        (
            "/api/history",
            &transport,
            "{\"channel\":\"room:1\",\"limit\":1,\"since\":{\"epoch\":\"_\"}}",
            416,
            "{\"code\":112",
        ),
        (
            "/api/rpc",
            &transport,
            "{\"method\":\"x\"}",
            404,
            "{\"code\":104",
        ),
        ("/api/cancel_push", &transport, "{}", 400, "{\"code\":108"),
        (
            "/api/history",
            &transport,
            "{\"channel\":\"room:1\"}",
            200,
            "{\"result\":{",
        ),
    ] {
        let (got, head, answer) = http(world.address, &request(path, headers, body)).await;
        assert_eq!(got, status, "{path} {head} {answer}");
        assert!(answer.contains(words), "{path} {answer}");
    }
    // It is refused before all of it is there, so the answer may be lost.
    let too_large = request("/api/publish", &key, &big);
    let status = http_or_reset(world.address, &too_large).await;
    assert!(status == 413 || status == 0, "{status}");
    let get = format!("GET /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n");
    let (status, head, _) = http(world.address, &get).await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: post"), "{head}");
    // A body that never ends holds nothing for long.
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    let head =
        format!("POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 100\r\n\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn broadcasts_answer_for_each_channel_in_order() {
    let world = World::start(config());
    let mut channels: Vec<String> = (0..600).map(|n| format!("room:{n}")).collect();
    channels[7] = "none:7".to_owned();
    let body = json!({"channels": channels, "data": {"a": 1}, "idempotency_key": "b1"});
    let answer = call(&world, "broadcast", body).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(responses.len(), 600);
    for (n, response) in responses.iter().enumerate() {
        match n {
            7 => assert_eq!(response["error"]["code"], 102, "{response}"),
            n => {
                let want = epoch("demo", &format!("room:{n}"));
                assert_eq!(*response, json!({"result": {"offset": 1, "epoch": want}}));
            }
        }
    }
    let published = world.owner.published();
    assert_eq!(published.len(), 599);
    assert!(
        published
            .iter()
            .all(|p| p.id == "b1" && p.data == "{\"a\":1}")
    );
    let too_many = json!({"channels": vec!["room:1"; 10_001], "data": 1});
    let answer = call(&world, "broadcast", too_many).await;
    assert_eq!(answer["error"]["code"], 107, "{answer}");
}

#[tokio::test]
async fn a_batch_has_no_result_and_keeps_the_order_of_its_commands() {
    let world = World::start(config());
    for parallel in [false, true] {
        let commands: Vec<Value> = (0..50)
            .map(|n| json!({"publish": {"channel": format!("room:p{parallel}"), "data": n}}))
            .chain([
                json!({"presence_stats": {"channel": "room:1"}}),
                json!({"history": {"channel": "none:1"}}),
                json!({"nothing": {}}),
                json!({"publish": {"channel": "room:1"}}),
                json!({"batch": {"commands": []}}),
                json!({"cancel_push": {}}),
                json!({"publish": {}, "history": {}}),
                json!({}),
            ])
            .collect();
        let body = json!({"commands": commands, "parallel": parallel});
        let answer = call(&world, "batch", body).await;
        let replies = answer["replies"].as_array().unwrap();
        assert_eq!(replies.len(), commands.len());
        assert!(answer.get("result").is_none());
        for (n, reply) in replies[..50].iter().enumerate() {
            let offset = &reply["publish"]["offset"];
            match parallel {
                false => assert_eq!(*offset, n + 1, "{reply}"),
                true => assert!(offset.is_u64(), "{reply}"),
            }
        }
        let stats = json!({"presence_stats": {"num_clients": 0, "num_users": 0}});
        assert_eq!(replies[50], stats);
        let codes: Vec<&Value> = replies[51..].iter().map(|r| &r["error"]["code"]).collect();
        assert_eq!(codes, [102, 104, 107, 107, 108, 107, 107]);
    }
    let too_many = json!({"commands": vec![json!({"rpc": {"method": "x"}}); 1_001]});
    let answer = call(&world, "batch", too_many).await;
    assert_eq!(answer["error"]["code"], 107, "{answer}");
}

#[tokio::test]
async fn presence_history_removal_and_rpc() {
    let world = World::start(config());
    let people = (1..=3).map(|n| Person {
        user: format!("u{}", n % 2),
        client: format!("c{n}"),
        conn_info: Bytes::from_static(b"{\"n\":1}"),
        chan_info: Bytes::new(),
    });
    world.owner.present(&room("room:1"), people);
    let channel = json!({"channel": "room:1"});
    let answer = call(&world, "presence", channel.clone()).await;
    let presence = &answer["result"]["presence"];
    assert_eq!(presence.as_object().unwrap().len(), 3);
    let first = json!({"user": "u1", "client": "c1", "conn_info": {"n": 1}});
    assert_eq!(presence["c1"], first);
    let empty = call(&world, "presence", json!({"channel": "room:2"})).await;
    assert_eq!(empty, json!({"result": {"presence": {}}}));

    let rpc = json!({"method": "room.publish", "params": {"room": "1", "id": "m1", "data": [1]}});
    let answer = call(&world, "rpc", rpc).await;
    let data = &answer["result"]["data"];
    assert_eq!(
        (&data["offset"], &data["duplicate"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(data["epoch"], epoch("demo", "room:1"));
    let trace = json!({"method": "room.trace", "params": {"room": "room:1", "offset": 1}});
    let answer = call(&world, "rpc", trace).await;
    assert_eq!(answer["result"]["data"]["edge"], "e1", "{answer}");

    let removed = call(&world, "history_remove", channel.clone()).await;
    assert_eq!(removed, json!({"result": {}}));
    let all = json!({"channel": "room:1", "limit": 10});
    let history = call(&world, "history", all).await;
    assert_eq!(history["result"]["publications"], json!([]));
    assert_eq!(history["result"]["offset"], 1);
    let below = json!({"channel": "room:1", "limit": 10, "since": {"offset": 0}});
    let history = call(&world, "history", below).await;
    assert_eq!(history["error"]["code"], 112, "{history}");
    let words = history["error"]["message"].as_str().unwrap();
    assert!(words.contains("has offset 2"), "{words}");
}

#[tokio::test]
async fn an_owner_that_does_not_answer_is_an_unknown_outcome_of_a_publish_alone() {
    let mut config = config();
    config.hub.answer_ms = 300;
    let world = World::start(config);
    call(&world, "publish", json!({"channel": "room:1", "data": 1})).await;
    world.owner.mute(true);
    let answer = call(&world, "publish", json!({"channel": "room:1", "data": 2})).await;
    assert_eq!(answer["error"]["code"], 1003, "{answer}");
    world.owner.deafen(true);
    let answer = call(&world, "presence", json!({"channel": "room:1"})).await;
    assert_eq!(answer["error"]["code"], 100, "{answer}");
}

#[tokio::test]
async fn a_flood_of_one_instance_is_refused_and_leaves_the_others_alone() {
    let mut config = config();
    config.hub.answer_ms = 2_000;
    let world = World::start(config);
    call(&world, "publish", json!({"channel": "room:1", "data": 1})).await;
    world.owner.mute(true);
    let body = json!({"channel": "room:1", "data": 1}).to_string();
    let flood: Vec<_> = (0..70)
        .map(|_| {
            let (address, request) = (
                world.address,
                request("/api/publish", &keyed("demo"), &body),
            );
            tokio::spawn(async move { http(address, &request).await })
        })
        .collect();
    world
        .metric_reaches("gb6_edge_api_errors_total{code=\"111\"}", 6.0)
        .await;
    let other = json!({"channel": "room:1", "limit": 0});
    let other = call_as(world.address, "acme", "history", &other).await;
    assert_eq!(other["result"]["offset"], 0, "{other}");
    world.owner.mute(false);
    let mut codes = Vec::new();
    for one in flood {
        let (_, _, body) = one.await.unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        codes.push(answer["error"]["code"].as_u64());
    }
    assert_eq!(codes.iter().filter(|c| **c == Some(111)).count(), 6);
    assert_eq!(codes.iter().filter(|c| c.is_none()).count(), 64);
}

#[tokio::test]
async fn a_draining_edge_ends_what_it_has_in_hand() {
    let world = World::start(config());
    call(&world, "publish", json!({"channel": "room:1", "data": 1})).await;
    world.owner.mute(true);
    let body = json!({"channel": "room:1", "data": 2}).to_string();
    let (address, last) = (
        world.address,
        request("/api/publish", &keyed("demo"), &body),
    );
    let last = tokio::spawn(async move { http(address, &last).await });
    let owner = world.owner.clone();
    crate::world::eventually("the publish", || owner.kept() == 1).await;
    let drain = tokio::spawn(world.edge.drain());
    // It begins nothing any more, and waits for what it has.
    let next = request("/api/info", &keyed("demo"), "{}");
    let begin = std::time::Instant::now();
    while http(address, &next).await.0 != 503 {
        assert!(begin.elapsed() < PATIENCE);
    }
    owner.mute(false);
    let (status, _, body) = last.await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"offset\":2"), "{body}");
    drain.await.unwrap();
    assert_eq!(
        owner.ended().len(),
        0,
        "the session lives as long as the edge"
    );
}

#[tokio::test]
async fn it_is_described_for_machines_without_a_key() {
    let world = World::start(config());
    let get = "GET /api/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (status, head, body) = http(world.address, get).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/publish"]["post"].is_object());
}

#[tokio::test]
async fn an_admin_address_has_it_and_metrics_and_then_nobody_else() {
    let mut config = config();
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    let world = World::start(config);
    let admin = world.edge.admin_addr().unwrap();
    let publish = json!({"channel": "room:1", "data": 1});
    let answer = call_as(admin, "demo", "publish", &publish).await;
    assert_eq!(answer["result"]["offset"], 1, "{answer}");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    for (path, on_admin, in_public) in [
        ("/metrics", 200, 404),
        ("/api/openapi.json", 200, 404),
        ("/readyz", 200, 200),
        ("/healthz", 200, 200),
        ("/", 404, 200),
        ("/connection/websocket", 404, 426),
    ] {
        assert_eq!(http(admin, &get(path)).await.0, on_admin, "{path}");
        assert_eq!(http(world.address, &get(path)).await.0, in_public, "{path}");
    }
    let outside = request("/api/publish", &keyed("demo"), &publish.to_string());
    let (status, _, body) = http(world.address, &outside).await;
    assert_eq!((status, body.as_str()), (404, "nothing here\n"));
    // One connection serves several requests.
    let mut tcp = TcpStream::connect(admin).await.unwrap();
    let body = publish.to_string();
    for offset in 2..4 {
        let (key, length) = (keyed("demo"), body.len());
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {length}\r\n\r\n{body}"
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = tcp.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        let want = format!("\"offset\":{offset}");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(&want),
            "{answer}"
        );
    }
    assert_eq!(world.owner.published().len(), 3);
}
