//! Messages from one client to another, in both encodings.

use futures_util::{SinkExt, StreamExt};
use gb6_core_wire::client::{Command, ConnectRequest, Dialect, PublishRequest, decode_replies};
use prost::Message as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, PATIENCE, open};
use crate::world::{World, config, eventually};

#[tokio::test]
async fn a_publication_reaches_every_subscriber_once_and_in_order() {
    let world = World::start(config());
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    let mut others = Vec::new();
    for n in 0..20 {
        let mut c = Client::connect(world.address, &world.token(&format!("u{n}"))).await;
        let reply = c
            .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
            .await;
        assert_eq!(reply["subscribe"]["recoverable"], true, "{reply}");
        others.push(c);
    }
    for n in 1..=50 {
        let reply = alice
            .call(json!({"id": n + 1, "rpc": {"method": "room.publish",
                "data": {"room": "1", "id": format!("m{n}"), "data": {"n": n}}}}))
            .await;
        assert_eq!(reply["rpc"]["data"]["offset"], n, "{reply}");
    }
    for client in &mut others {
        for n in 1..=50 {
            let push = client.next().await;
            let publication = &push["push"]["pub"];
            assert_eq!(publication["offset"], n, "{push}");
            assert_eq!(publication["data"], json!({"n": n}));
            assert_eq!(push["push"]["channel"], "room:1");
        }
    }
}

#[tokio::test]
async fn connect_and_subscribes_in_one_frame() {
    let world = World::start(config());
    let mut client = Client::open(world.address).await;
    let mut lines = vec![json!({"connect": {"token": world.token("a")}, "id": 1}).to_string()];
    for n in 0..300 {
        lines.push(json!({"subscribe": {"channel": format!("room:{n}")}, "id": n + 2}).to_string());
    }
    client
        .ws
        .send(Message::text(lines.join("\n")))
        .await
        .unwrap();
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..301 {
        let reply = client.next().await;
        assert!(reply["error"].is_null(), "{reply}");
        answered.insert(reply["id"].as_u64().unwrap());
    }
    assert_eq!(answered.len(), 301);
}

#[tokio::test]
async fn protobuf_and_json_share_a_room() {
    let world = World::start(config());
    let mut json_client = Client::connect(world.address, &world.token("json")).await;
    json_client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let mut ws = open(
        world.address,
        "",
        &[("Sec-WebSocket-Protocol", "centrifuge-protobuf")],
    )
    .await
    .unwrap();
    // connect{token} id 1, and publish{channel room:1, data {"id":"m1"}} id 4 from the golden
    // frames, as two frames.
    let token = world.token("proto");
    let mut connect = vec![
        0x0a,
        0x80 | (token.len() & 0x7f) as u8,
        (token.len() >> 7) as u8,
    ];
    connect.extend_from_slice(token.as_bytes());
    let mut command = vec![
        0x08,
        0x01,
        0x22,
        0x80 | (connect.len() & 0x7f) as u8,
        (connect.len() >> 7) as u8,
    ];
    command.extend_from_slice(&connect);
    let mut frame = vec![
        0x80 | (command.len() & 0x7f) as u8,
        (command.len() >> 7) as u8,
    ];
    frame.extend_from_slice(&command);
    ws.send(Message::binary(frame)).await.unwrap();
    let publish = b"\x19\x08\x04\x3a\x15\x0a\x06room:1\x12\x0b{\"id\":\"m1\"}";
    ws.send(Message::binary(&publish[..])).await.unwrap();
    let push = json_client.next().await;
    assert_eq!(push["push"]["pub"]["data"], json!({"id": "m1"}), "{push}");
    assert_eq!(push["push"]["pub"]["info"]["user"], "proto");
    // The reply to the publish is an empty result: `04 08 04 42 00`.
    let mut replies = Vec::new();
    while !replies.ends_with(b"\x04\x08\x04\x42\x00") {
        let message = tokio::time::timeout(PATIENCE, ws.next()).await.unwrap();
        if let Message::Binary(bytes) = message.unwrap().unwrap() {
            replies.extend_from_slice(&bytes);
        }
    }
}

#[tokio::test]
async fn protobuf_by_query_is_spoken_both_ways() {
    let world = World::start(config());
    for query in ["?format=protobuf", "?cf_protocol=protobuf"] {
        let mut ws = open(world.address, query, &[]).await.unwrap();
        let connect = Command {
            id: 1,
            connect: Some(Box::new(ConnectRequest {
                token: world.token("proto"),
                ..ConnectRequest::default()
            })),
            ..Command::default()
        };
        let publish = Command {
            id: 2,
            publish: Some(PublishRequest {
                channel: "room:1".to_owned(),
                data: bytes::Bytes::from_static(b"\xff not JSON"),
                ..PublishRequest::default()
            }),
            ..Command::default()
        };
        let mut frame = connect.encode_length_delimited_to_vec();
        frame.extend(publish.encode_length_delimited_to_vec());
        ws.send(Message::binary(frame)).await.unwrap();
        let mut replies = Vec::new();
        while replies.len() < 2 {
            let message = tokio::time::timeout(PATIENCE, ws.next()).await.unwrap();
            match message.unwrap().unwrap() {
                Message::Binary(bytes) => {
                    replies.extend(decode_replies(Dialect::Protobuf, bytes).unwrap());
                }
                other => panic!("{query}: {other:?}"),
            }
        }
        assert!(replies[0].connect.as_ref().unwrap().client.len() == 36);
        assert!(replies[1].publish.is_some(), "{:?}", replies[1]);
    }
}

#[tokio::test]
async fn pings_of_both_layers_are_sent_and_answered() {
    let mut settings = config();
    settings.session.ping_interval_ms = 1000;
    settings.session.pong_timeout_ms = 500;
    let world = World::start(settings);
    // Pings of the protocol: an empty object, to be answered with one.
    let mut client = Client::connect(world.address, &world.token("a")).await;
    for _ in 0..2 {
        loop {
            let message = tokio::time::timeout(PATIENCE, client.ws.next())
                .await
                .unwrap();
            if message.unwrap().unwrap() == Message::text("{}") {
                break;
            }
        }
        client.ws.send(Message::text("{}")).await.unwrap();
    }
    // Without an answer the session ends.
    assert_eq!(client.closed().await, (3012, "no pong".to_owned()));

    // Pings of the WebSocket layer, which tungstenite answers by itself as long as it is read.
    let mut quiet = Client::open(world.address).await;
    quiet.ws = open(world.address, "?cf_ws_frame_ping_pong=true", &[])
        .await
        .unwrap();
    quiet
        .send(&json!({"id": 1, "connect": {"token": world.token("b")}}))
        .await;
    let reply = quiet.next().await;
    assert!(reply["connect"]["ping"].is_null(), "{reply}");
    let mut pings = 0;
    while pings < 2 {
        let message = tokio::time::timeout(PATIENCE, quiet.ws.next())
            .await
            .unwrap();
        pings += usize::from(matches!(message.unwrap().unwrap(), Message::Ping(_)));
    }
    // From now on nothing is read, so nothing is answered.
    world
        .metric_reaches("gb6_edge_closed_total{code=\"3012\"}", 2.0)
        .await;
}

#[tokio::test]
async fn a_clients_own_pings_are_answered() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("a")).await;
    client.ws.send(Message::Ping("hello".into())).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, client.ws.next())
        .await
        .unwrap();
    assert_eq!(message.unwrap().unwrap(), Message::Pong("hello".into()));
    // A close frame is answered with the same code.
    client
        .ws
        .close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: 1001.into(),
            reason: "bye".into(),
        }))
        .await
        .unwrap();
    match client.event().await {
        Err(Some(close)) => assert_eq!(u16::from(close.code), 1001),
        other => panic!("{other:?}"),
    }
    eventually("session gone", || world.edge.sessions() == 0).await;
}

#[tokio::test]
async fn a_broken_link_is_mended_and_nothing_is_lost() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("a")).await;
    client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let room = crate::world::room("room:1");
    let (edge, region) = ("e1".into(), "r1".into());
    for round in 0..3u64 {
        world
            .owner
            .append(&room, format!("{}", 3 * round + 1).into());
        world.network.cut(&edge, &region);
        // Nobody is told of these: the edge finds them in the log.
        world
            .owner
            .append(&room, format!("{}", 3 * round + 2).into());
        world
            .owner
            .append(&room, format!("{}", 3 * round + 3).into());
        world.network.heal(&edge, &region);
        for n in 3 * round + 1..=3 * round + 3 {
            let push = client.next().await;
            assert_eq!(push["push"]["pub"]["data"], json!(n), "{push}");
            assert_eq!(push["push"]["pub"]["offset"], n);
        }
    }
}

#[tokio::test]
async fn two_thousand_small_messages_are_recovered_at_once() {
    let world = World::start(config());
    let room = crate::world::room("room:1");
    let message = format!("{{\"text\":\"{}\"}}", "x".repeat(60));
    for _ in 0..2_000 {
        world.owner.append(&room, message.clone().into_bytes());
    }
    let mut client = Client::connect(world.address, &world.token("a")).await;
    let reply = client
        .call(json!({"id": 2, "subscribe":
            {"channel": "room:1", "recover": true, "offset": 0, "epoch": ""}}))
        .await;
    let result = &reply["subscribe"];
    assert_eq!(result["recovered"], true, "{}", result["offset"]);
    assert_eq!(result["publications"].as_array().unwrap().len(), 2_000);
    assert!(reply.to_string().len() > 200_000);
}
