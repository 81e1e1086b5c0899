//! What breaks the protocol ends its own connection, with words, and costs nobody else.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, close_code, frame, raw};
use crate::world::{World, config, eventually};

#[tokio::test]
async fn frames_that_are_none() {
    let world = World::start(config());
    let token = world.token("a");
    let connect = json!({"id": 1, "connect": {"token": token}}).to_string();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x81, 2, b'{', b'}'], 1002),
        ("reserved bits", vec![0xf1, 0x80, 0, 0, 0, 0], 1002),
        ("unknown opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        ("random", vec![0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed], 1002),
        (
            "continuation of nothing",
            vec![0x80, 0x80, 0, 0, 0, 0],
            1002,
        ),
        (
            "more than 1 MiB",
            [&[0x81, 0xff][..], &(1u64 << 20 | 1).to_be_bytes(), &[0; 4]].concat(),
            1009,
        ),
        (
            "no text",
            [&[0x81, 0x82, 0, 0, 0, 0][..], &[0xff, 0xfe]].concat(),
            1007,
        ),
        ("no JSON", frame("{\"id\":"), 3501),
        ("nothing", frame(""), 3501),
        (
            "before connect",
            frame(r#"{"id":1,"subscribe":{"channel":"room:1"}}"#),
            3501,
        ),
        (
            "publish before connect",
            frame(r#"{"id":1,"publish":{"channel":"room:1","data":1}}"#),
            3501,
        ),
        (
            "id 0",
            frame(&connect.replace("\"id\":1", "\"id\":0")),
            3501,
        ),
        ("binary to JSON", vec![0x82, 0x82, 0, 0, 0, 0, 8, 1], 3506),
        (
            "deep",
            frame(&format!(
                "{{\"id\":1,\"connect\":{{\"data\":{}1{}}}}}",
                "[".repeat(5000),
                "]".repeat(5000)
            )),
            3501,
        ),
    ];
    for (what, bytes, want) in cases {
        let mut tcp = raw(world.address).await;
        tcp.write_all(&bytes).await.unwrap();
        assert_eq!(close_code(&mut tcp).await, Some(want), "{what}");
    }
    // Twice connected, and a command without a known method.
    for (second, want) in [(connect.as_str(), 3501), (r#"{"id":2}"#, 3501)] {
        let mut tcp = raw(world.address).await;
        tcp.write_all(&frame(&connect)).await.unwrap();
        tcp.write_all(&frame(second)).await.unwrap();
        assert_eq!(close_code(&mut tcp).await, Some(want), "{second}");
    }
    eventually("all gone", || world.edge.sessions() == 0).await;
    // Somebody else notices nothing of it.
    let mut client = Client::connect(world.address, &token).await;
    let reply = client
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    assert!(reply["subscribe"].is_object(), "{reply}");
}

#[tokio::test]
async fn commands_that_can_not_be() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("a")).await;
    for (id, command, want) in [
        (2, json!({"subscribe": {"channel": "nowhere:1"}}), 102),
        (3, json!({"subscribe": {"channel": "room:a b"}}), 107),
        (4, json!({"subscribe": {"channel": ""}}), 107),
        (5, json!({"rpc": {"method": "no.such"}}), 104),
        (
            6,
            json!({"publish": {"channel": "room:1", "data": "x".repeat(65 * 1024)}}),
            107,
        ),
        (
            7,
            json!({"rpc": {"method": "room.publish", "data": {"room": "1", "id": "", "data": 1}}}),
            107,
        ),
    ] {
        let mut command = command;
        command["id"] = json!(id);
        let reply = client.call(command).await;
        assert_eq!(reply["error"]["code"], want, "{reply}");
        assert!(!reply["error"]["message"].as_str().unwrap().is_empty());
    }
    for (code, count) in [(102, 1.0), (103, 0.0), (104, 1.0), (107, 4.0)] {
        let name = format!("gb6_edge_errors_total{{code=\"{code}\"}}");
        assert_eq!(world.metric(&name), count, "{name}");
    }
}

#[tokio::test]
async fn a_frame_that_trickles_is_cut_short_by_the_missing_pong() {
    let mut settings = config();
    settings.session.ping_interval_ms = 1000;
    settings.session.pong_timeout_ms = 300;
    let world = World::start(settings);
    let mut tcp = raw(world.address).await;
    let connect = json!({"id": 1, "connect": {"token": world.token("a")}}).to_string();
    tcp.write_all(&frame(&connect)).await.unwrap();
    let slow = frame(&"x".repeat(100_000));
    let (mut read, mut write) = tcp.into_split();
    let trickle = tokio::spawn(async move {
        for byte in slow {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    world
        .metric_reaches("gb6_edge_closed_total{code=\"3012\"}", 1.0)
        .await;
    eventually("gone", || world.edge.connections() == 0).await;
    trickle.abort();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut rest).await;
    assert!(rest.windows(4).any(|w| w == b"\x0b\xc4no"), "{rest:?}");
}

#[tokio::test]
async fn no_connect_in_time() {
    let mut settings = config();
    settings.session.connect_timeout_ms = 200;
    let world = World::start(settings);
    let mut client = Client::open(world.address).await;
    assert_eq!(client.closed().await.0, 3502);
}
