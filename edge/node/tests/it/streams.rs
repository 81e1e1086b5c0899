//! HTTP streaming, event streams and unidirectional transports, from the request to the end.

use futures_util::{SinkExt, StreamExt};
use gb6_core_wire::client::{
    Command, ConnectRequest, Dialect, Push, SubscribeRequest, connect_command,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::body::{Body, emulate, events, post};
use crate::client::{Client, PATIENCE, http};
use crate::world::{World, config, eventually, room};

fn connect(token: &str) -> String {
    json!({"connect": {"token": token, "name": "js"}, "id": 1}).to_string()
}

const SUBSCRIBERS: &str = "gb6_edge_subscribers{region=\"r\",shard=\"0\"}";

#[tokio::test]
async fn http_streaming_in_json() {
    let world = World::start(config());
    let request = post(
        "/connection/http_stream",
        "",
        connect(&world.token("alice")).as_bytes(),
    );
    let mut body = Body::open(world.address, &request).await;
    for header in [
        "content-type: application/x-ndjson",
        "x-accel-buffering: no",
        "cache-control: private, no-cache, no-store, must-revalidate, max-age=0",
        "connection: close",
        "x-content-type-options: nosniff",
    ] {
        assert!(body.head.contains(header), "{header}: {}", body.head);
    }
    let reply = body.line().await.unwrap();
    let session = reply["connect"].clone();
    assert_eq!((&reply["id"], &session["node"]), (&json!(1), &json!("e1")));
    assert_eq!(session["session"].as_str().unwrap().len(), 32);
    let name = "gb6_edge_sessions{dialect=\"json\",transport=\"http_stream\"}";
    assert_eq!(world.metric(name), 1.0);

    let subscribe = [json!({"id": 2, "subscribe": {"channel": "room:1"}})];
    assert_eq!(emulate(world.address, &session, &subscribe).await, 204);
    assert_eq!(body.line().await.unwrap()["id"], 2);
    let publishes: Vec<Value> = (0..5)
        .map(|n| json!({"id": 3 + n, "publish": {"channel": "room:1", "data": {"n": n}}}))
        .collect();
    assert_eq!(emulate(world.address, &session, &publishes).await, 204);
    let (mut answered, mut seen) = (0, 0);
    while answered < 5 || seen < 5 {
        let line = body.line().await.unwrap();
        match line["push"]["pub"]["data"]["n"].as_u64() {
            Some(n) => {
                assert_eq!(n, seen, "in order");
                seen += 1;
            }
            None => {
                assert!(line["publish"].is_object(), "{line}");
                answered += 1;
            }
        }
    }
    // The client goes: so does its session.
    drop(body);
    world.metric_falls(SUBSCRIBERS, 0.0).await;
    world.metric_falls(name, 0.0).await;
    // What it still says is for nobody.
    assert_eq!(emulate(world.address, &session, &subscribe).await, 204);
}

#[tokio::test]
async fn http_streaming_in_protobuf() {
    let world = World::start(config());
    let octets = "Content-Type: application/octet-stream\r\n";
    let mut commands = Vec::new();
    Command {
        id: 1,
        connect: Some(Box::new(ConnectRequest {
            token: world.token("alice"),
            ..ConnectRequest::default()
        })),
        ..Command::default()
    }
    .encode_length_delimited(&mut commands)
    .unwrap();
    let mut subscribe = Vec::new();
    Command {
        id: 2,
        subscribe: Some(Box::new(SubscribeRequest {
            channel: "room:1".into(),
            ..SubscribeRequest::default()
        })),
        ..Command::default()
    }
    .encode_length_delimited(&mut subscribe)
    .unwrap();
    // Commands behind the connect stand in the same body.
    commands.extend_from_slice(&subscribe);
    let request = post("/connection/http_stream", octets, &commands);
    let mut body = Body::open(world.address, &request).await;
    assert!(body.head.contains("content-type: application/octet-stream"));
    let connect = body.reply().await.connect.unwrap();
    assert!(body.reply().await.subscribe.is_some());
    let mut history = Vec::new();
    Command {
        id: 3,
        presence_stats: Some(Default::default()),
        ..Command::default()
    }
    .encode_length_delimited(&mut history)
    .unwrap();
    let request = gb6_core_wire::client::EmulationRequest {
        node: connect.node,
        session: connect.session,
        data: history.into(),
    };
    let headers = format!("{octets}Connection: close\r\n");
    let request = post("/emulation", &headers, &request.encode_to_vec());
    let answer = http(world.address, std::str::from_utf8(&request).unwrap());
    assert_eq!(answer.await.0, 204);
    assert_eq!(body.reply().await.id, 3);
}

#[tokio::test]
async fn event_streams_by_get_and_by_post() {
    let world = World::start(config());
    let commands = [
        connect(&world.token("a+b c&d")),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ]
    .join("\n");
    for request in [
        events("/connection/sse", &commands),
        post("/connection/sse", "", commands.as_bytes()),
    ] {
        let mut body = Body::open(world.address, &request).await;
        for header in [
            "content-type: text/event-stream; charset=utf-8",
            "x-accel-buffering: no",
        ] {
            assert!(body.head.contains(header), "{header}: {}", body.head);
        }
        let session = body.event().await.unwrap()["connect"].clone();
        assert_eq!(body.event().await.unwrap()["id"], 2);
        // Two replies of one turn are two events.
        let two = [
            json!({"id": 3, "rpc": {"method": "none"}}),
            json!({"id": 4, "rpc": {"method": "none"}}),
        ];
        assert_eq!(emulate(world.address, &session, &two).await, 204);
        assert_eq!(body.event().await.unwrap()["id"], 3);
        assert_eq!(body.event().await.unwrap()["id"], 4);
        // Data with line breaks is one event.
        world
            .owner
            .append(&room("room:1"), b"{\n\"a\":\r\n1}".to_vec());
        let push = body.event().await.unwrap();
        assert_eq!(push["push"]["pub"]["data"], json!({"a": 1}));
    }
}

#[tokio::test]
async fn the_session_of_another_edge_is_reached() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    eventually("both are reached", || {
        other.metric("gb6_edge_relay_edges") == 2.0 && world.metric("gb6_edge_relay_edges") == 2.0
    })
    .await;
    let request = post(
        "/connection/http_stream",
        "",
        connect(&world.token("alice")).as_bytes(),
    );
    let mut body = Body::open(other.address, &request).await;
    let session = body.line().await.unwrap()["connect"].clone();
    assert_eq!(session["node"], "e2");
    for id in 2..50 {
        let command = [json!({"id": id, "rpc": {"method": "none"}})];
        assert_eq!(emulate(world.address, &session, &command).await, 204);
    }
    for id in 2..50 {
        let reply = body.line().await.unwrap();
        assert_eq!(
            (&reply["id"], &reply["error"]["code"]),
            (&json!(id), &json!(104))
        );
    }
    // The right session at the wrong node, and the other way round.
    let mut wrong = session.clone();
    wrong["node"] = json!("e1");
    let command = [json!({"id": 60, "rpc": {"method": "none"}})];
    assert_eq!(emulate(other.address, &wrong, &command).await, 204);
    assert_eq!(emulate(other.address, &session, &command).await, 204);
    assert_eq!(body.line().await.unwrap()["id"], 60);
    assert_eq!(
        world.metric("gb6_edge_emulated_total{outcome=\"nobody\"}"),
        1.0
    );
}

/// Commands from elsewhere reach only who is meant to get them.
#[tokio::test]
async fn sessions_that_take_no_requests_are_not_reached() {
    let world = World::start(config());
    let mut socket = Client::open(world.address).await;
    let reply = socket
        .call(json!({"id": 1, "connect": {"token": world.token("alice")}}))
        .await;
    let session = reply["connect"].clone();
    let command = [json!({"id": 2, "rpc": {"method": "none"}})];
    assert_eq!(emulate(world.address, &session, &command).await, 204);
    let listen = post("/connection/uni_http_stream", "", b"{\"token\":\"x\"}");
    let mut listening = Body::open(world.address, &listen).await;
    assert_eq!(listening.line().await.unwrap()["disconnect"]["code"], 3500);
    assert_eq!(
        world.metric("gb6_edge_emulated_total{outcome=\"nobody\"}"),
        1.0
    );
    // The WebSocket's next reply is to its own next command.
    let reply = socket
        .call(json!({"id": 9, "rpc": {"method": "none"}}))
        .await;
    assert_eq!(reply["id"], 9);
}

#[tokio::test]
async fn a_connect_that_is_refused_is_answered_and_a_bad_one_ends_the_stream() {
    let world = World::start(config());
    let expired = world.token_of("demo", "alice", -100);
    let mut body = Body::open(
        world.address,
        &events("/connection/sse", &connect(&expired)),
    )
    .await;
    assert_eq!(body.event().await.unwrap()["error"]["code"], 109);
    for (commands, code) in [
        (connect("no token"), 3500),
        ("{\"id\":1}".to_owned(), 3501),
        ("not json".to_owned(), 3501),
        ("{\"id\":1,\"publish\":{}}".to_owned(), 3501),
    ] {
        let mut body = Body::open(world.address, &events("/connection/sse", &commands)).await;
        let told = body.event().await.unwrap();
        let disconnect = &told["push"]["disconnect"];
        assert_eq!(disconnect["code"], code, "{commands}: {told}");
        assert!(!disconnect["reason"].as_str().unwrap().is_empty());
        assert!(disconnect.get("reconnect").is_none());
        assert_eq!(body.event().await, None);
    }
}

#[tokio::test]
async fn a_drain_tells_streams_to_come_back() {
    let world = World::start(config());
    let mut sse = Body::open(
        world.address,
        &events("/connection/sse", &connect(&world.token("alice"))),
    )
    .await;
    let mut uni = Body::open(
        world.address,
        &events(
            "/connection/uni_sse",
            &json!({"token": world.token("bob")}).to_string(),
        ),
    )
    .await;
    assert!(sse.event().await.is_some() && uni.event().await.is_some());
    world.edge.drain().await;
    let told = sse.event().await.unwrap();
    let want = json!({"code": 3001, "reason": "shutdown", "reconnect": true});
    assert_eq!(told, json!({"push": {"disconnect": want}}));
    assert_eq!(sse.event().await, None);
    assert_eq!(uni.event().await.unwrap(), json!({"disconnect": want}));
    assert_eq!(uni.event().await, None);
}

#[tokio::test]
async fn unidirectional_streams_say_connect_and_pings() {
    let mut settings = config();
    settings.session.ping_interval_ms = 1000;
    // Nobody answers them.
    settings.session.pong_timeout_ms = 100;
    let world = World::start(settings);
    let request = json!({"token": world.token("alice")}).to_string();
    let pretty = format!("{{\n\"token\": \"{}\"\n}}\n", world.token("alice"));
    let mut get = Body::open(world.address, &events("/connection/uni_sse", &request)).await;
    let mut posted = Body::open(
        world.address,
        &post("/connection/uni_sse", "", pretty.as_bytes()),
    )
    .await;
    let mut lines = Body::open(
        world.address,
        &post("/connection/uni_http_stream", "", request.as_bytes()),
    )
    .await;
    for first in [
        get.event().await.unwrap(),
        posted.event().await.unwrap(),
        lines.line().await.unwrap(),
    ] {
        assert_eq!(first["connect"]["ping"], 1, "{first}");
        assert!(first["connect"].get("pong").is_none(), "{first}");
        assert!(first.get("id").is_none(), "{first}");
    }
    for _ in 0..3 {
        assert_eq!(get.event().await.unwrap(), json!({}));
        assert_eq!(lines.line().await.unwrap(), json!({}));
    }
    let octets = "Content-Type: application/octet-stream\r\n";
    let request = ConnectRequest {
        token: world.token("alice"),
        ..ConnectRequest::default()
    };
    let request = post(
        "/connection/uni_http_stream",
        octets,
        &request.encode_to_vec(),
    );
    let mut binary = Body::open(world.address, &request).await;
    let first = binary.message().await.unwrap();
    let first = Push::decode_length_delimited(&*first).unwrap();
    assert!(!first.connect.unwrap().client.is_empty());
    assert_eq!(binary.message().await.unwrap(), [0]);
}

/// What a unidirectional client would subscribe to stands in its connect, with what it has already.
#[tokio::test]
async fn rooms_of_a_unidirectional_connect_are_followed_and_recovered() {
    let world = World::start(config());
    let append = |n: u32| {
        let data = json!({ "n": n }).to_string().into_bytes();
        world.owner.append(&room("room:1"), data);
    };
    (1..=3).for_each(append);
    let following = |subs: Value| {
        let request = json!({"token": world.token("alice"), "subs": subs}).to_string();
        events("/connection/uni_sse", &request)
    };
    let subs = json!({"room:1": {}, "other:1": {}});
    let mut body = Body::open(world.address, &following(subs)).await;
    let first = body.event().await.unwrap();
    let given = first["connect"]["subs"].as_object().unwrap();
    assert_eq!(given.keys().collect::<Vec<_>>(), ["room:1"]);
    assert_eq!(given["room:1"]["offset"], 3);
    let epoch = given["room:1"]["epoch"].clone();
    append(4);
    let push = body.event().await.unwrap();
    assert_eq!(
        (&push["channel"], &push["pub"]["offset"]),
        (&json!("room:1"), &json!(4))
    );
    drop(body);
    append(5);

    let position = json!({"room:1": {"recover": true, "offset": 3, "epoch": epoch}});
    let mut body = Body::open(world.address, &following(position)).await;
    let first = body.event().await.unwrap();
    let recovered = &first["connect"]["subs"]["room:1"];
    assert_eq!(recovered["recovered"], true, "{first}");
    let offsets = recovered["publications"].as_array().unwrap().iter();
    let offsets: Vec<u64> = offsets.filter_map(|p| p["offset"].as_u64()).collect();
    assert_eq!(offsets, [4, 5]);
}

#[tokio::test]
async fn errors_of_a_unidirectional_connect_are_disconnects() {
    let world = World::start(config());
    let expired = world.token_of("demo", "alice", -100);
    for (request, code, reconnect) in [
        (json!({"token": expired}), 3005, true),
        (json!({"token": "no token"}), 3500, false),
        // Nobody, where nobody may connect.
        (json!({}), 3501, false),
    ] {
        let request = events("/connection/uni_sse", &request.to_string());
        let mut body = Body::open(world.address, &request).await;
        let told = body.event().await.unwrap();
        assert_eq!(told["disconnect"]["code"], code, "{told}");
        assert_eq!(told["disconnect"]["reconnect"] == true, reconnect);
        assert_eq!(body.event().await, None);
    }
    let none = b"GET /connection/uni_sse HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut body = Body::open(world.address, none).await;
    assert_eq!(body.event().await.unwrap()["disconnect"]["code"], 3501);
}

async fn listen(world: &World, query: &str) -> WebSocketStream<TcpStream> {
    let url = format!("ws://{}/connection/uni_websocket{query}", world.address);
    let tcp = TcpStream::connect(world.address).await.unwrap();
    tokio_tungstenite::client_async(url, tcp).await.unwrap().0
}

#[tokio::test]
async fn a_unidirectional_websocket_hears_one_message() {
    let mut settings = config();
    settings.session.ping_interval_ms = 1000;
    settings.session.pong_timeout_ms = 100;
    let world = World::start(settings);
    let mut socket = listen(&world, "").await;
    let request = json!({"token": world.token("alice")}).to_string();
    socket.send(Message::text(request)).await.unwrap();
    let mut next = async || {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        let message = message.unwrap().unwrap();
        if message.is_text() {
            // Nothing that it says behind that is heard.
            let _ = socket
                .send(Message::text("{\"id\":2,\"publish\":{}}"))
                .await;
        }
        message
    };
    let first: Value = serde_json::from_str(next().await.to_text().unwrap()).unwrap();
    assert!(first["connect"]["client"].is_string(), "{first}");
    for _ in 0..2 {
        assert_eq!(next().await.to_text().unwrap(), "{}");
    }
    world.edge.drain().await;
    let told: Value = serde_json::from_str(next().await.to_text().unwrap()).unwrap();
    assert_eq!(told["disconnect"]["code"], 3001);
    let Message::Close(Some(close)) = next().await else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(close.code), 3001);

    let world = World::start(config());
    let mut socket = listen(&world, "?cf_protocol=protobuf").await;
    let request = ConnectRequest {
        token: world.token("alice"),
        ..ConnectRequest::default()
    };
    socket
        .send(Message::binary(request.encode_to_vec()))
        .await
        .unwrap();
    let first = socket.next().await.unwrap().unwrap().into_data();
    let first = Push::decode_length_delimited(first).unwrap();
    assert!(!first.connect.unwrap().client.is_empty());
}

/// What is refused before a stream begins.
#[tokio::test]
async fn what_begins_no_stream() {
    let world = World::start(config());
    for (request, want, words) in [
        (
            "GET /connection/http_stream HTTP/1.1\r\n",
            405,
            "use POST, OPTIONS\n",
        ),
        ("HEAD /connection/sse HTTP/1.1\r\n", 405, ""),
        (
            "PUT /connection/sse HTTP/1.1\r\nContent-Length: 0\r\n",
            405,
            "use GET, POST, OPTIONS\n",
        ),
        (
            "GET /connection/sse HTTP/1.1\r\n",
            400,
            "send a connect command as cf_connect in the query, or in the body of a POST\n",
        ),
        (
            "POST /connection/http_stream HTTP/1.1\r\nContent-Length: 0\r\n",
            400,
            "send a connect command in the body\n",
        ),
        (
            "GET /connection/uni_sse?cf_connect=null HTTP/1.1\r\n",
            400,
            "",
        ),
        (
            "GET /connection/uni_sse?cf_connect=%7B HTTP/1.1\r\n",
            400,
            "",
        ),
        (
            "GET /connection/sse?cf_connect=%7B%7D HTTP/1.1\r\nOrigin: null\r\n",
            403,
            "",
        ),
        (
            "POST /connection/http_stream HTTP/1.1\r\nContent-Length: 1048577\r\n",
            413,
            "the body is too large: send fewer commands at once\n",
        ),
    ] {
        let request = format!("{request}Host: x\r\nConnection: close\r\n\r\n");
        let (status, head, body) = http(world.address, &request).await;
        assert_eq!(status, want, "{request}{head}");
        assert!(words.is_empty() || body == words, "{body}");
    }
    let ask = "OPTIONS /connection/http_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
               Origin: https://app.acme.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let (status, head, _) = http(world.address, ask).await;
    assert_eq!(status, 204);
    assert!(head.contains("access-control-allow-origin: https://app.acme.example"));
    assert_eq!(world.edge.sessions(), 0);
}

/// A page may be let in by one instance: its token must be of that one.
#[tokio::test]
async fn a_page_of_one_instance_does_not_get_into_another() {
    let world = World::start(config());
    for (instance, want) in [("acme", None), ("demo", Some(3507))] {
        let token = world.token_of(instance, "alice", 600);
        let request = post(
            "/connection/http_stream",
            "Origin: https://app.acme.example\r\n",
            connect(&token).as_bytes(),
        );
        let mut body = Body::open(world.address, &request).await;
        assert!(
            body.head
                .contains("access-control-allow-origin: https://app.acme.example")
        );
        let told = body.line().await.unwrap();
        assert_eq!(told["push"]["disconnect"]["code"].as_u64(), want, "{told}");
    }
}

/// Nothing of a query with a token is counted or shown anywhere.
#[tokio::test]
async fn tokens_of_queries_are_not_in_metrics() {
    let world = World::start(config());
    let token = world.token("alice");
    let mut body = Body::open(world.address, &events("/connection/sse", &connect(&token))).await;
    body.event().await.unwrap();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!world.metrics.text().contains(signature));
    let command = connect_command(Dialect::Json, token.as_bytes()).unwrap_err();
    assert!(!format!("{command} {command:?}").contains(signature));
}
