//! Clients of streams that do not read, flood, or send requests that can be read in two ways.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::{Body, emulate, events, post};
use crate::client::{PATIENCE, http, http_or_reset};
use crate::world::{World, config, eventually, room};

const SUBSCRIBERS: &str = "gb6_edge_subscribers{region=\"r\",shard=\"0\"}";

/// A request for an event stream whose client subscribes.
fn subscribing(world: &World) -> Vec<u8> {
    let commands = [
        json!({"id": 1, "connect": {"token": world.token("slow")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ];
    events("/connection/sse", &commands.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_disconnected_with_3008() {
    let mut settings = config();
    settings.slow_close_timeout = Duration::from_secs(5);
    let world = World::start(settings);
    let mut slow = Body::open(world.address, &subscribing(&world)).await;
    world.metric_reaches(SUBSCRIBERS, 1.0).await;
    let data = format!("\"{}\"", "x".repeat(60_000));
    let mut sent = 0;
    while world.metric("gb6_edge_slow_total") == 0.0 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        sent += 1;
        assert!(sent < 1000, "60 MB and still not slow");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    eventually("its session is gone", || world.edge.sessions() == 0).await;
    // When it reads at last, the last event is whole and says why.
    let rest = slow.rest().await;
    let told = b"data: {\"push\":{\"disconnect\":{\"code\":3008,\"reason\":\"slow\",\"reconnect\":true}}}\n\n";
    assert!(
        rest.ends_with(told),
        "{}",
        String::from_utf8_lossy(&rest[rest.len().saturating_sub(200)..])
    );
    let events = std::str::from_utf8(&rest).unwrap();
    assert!(
        events
            .split_terminator("\n\n")
            .all(|e| e.starts_with("data: {") && e.ends_with('}'))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_for_long_is_cut_with_3009() {
    let mut settings = config();
    // Time alone ends it: its queue would hold everything.
    settings.outbox_bytes = 256 << 20;
    settings.write_timeout = Duration::from_millis(300);
    let world = World::start(settings);
    let never = Body::open(world.address, &subscribing(&world)).await;
    world.metric_reaches(SUBSCRIBERS, 1.0).await;
    let data = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..400 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        tokio::task::yield_now().await;
    }
    world
        .metric_reaches("gb6_edge_closed_total{code=\"3009\"}", 1.0)
        .await;
    eventually("the connection is cut", || world.edge.connections() == 0).await;
    drop(never);
}

/// Commands that come faster than the rate end the session, as they do on a WebSocket.
#[tokio::test]
async fn commands_from_elsewhere_count_against_the_rate() {
    let mut placed = crate::world::snapshot();
    for instance in placed.instances.values_mut() {
        instance.command_rate = Some(gb6_core_model::snapshot::CommandRate {
            per_second: 10,
            burst: 20,
        });
    }
    let world = World::start_placed(config(), placed).unwrap();
    let connect = json!({"id": 1, "connect": {"token": world.token("alice")}}).to_string();
    let mut body = Body::open(world.address, &events("/connection/sse", &connect)).await;
    let session = body.event().await.unwrap()["connect"].clone();
    let flood: Vec<_> = (2..5_000)
        .map(|id| json!({"id": id, "rpc": {"method": "none"}}))
        .collect();
    assert_eq!(emulate(world.address, &session, &flood).await, 204);
    let mut refused = 0;
    let code = loop {
        let told = body.event().await.expect("a verdict before the end");
        if let Some(code) = told["push"]["disconnect"]["code"].as_u64() {
            break code;
        }
        refused += u64::from(told["error"]["code"] == 111);
    };
    assert_eq!(code, 3013);
    assert!(refused > 0);
    assert_eq!(body.event().await, None);
}

/// A session that takes nothing of its replies takes no more commands either, and what waits for it
/// is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_for_which_too_much_waits_ends() {
    let mut config = config();
    // Errors alone are not to end it.
    config.session.errors_max.burst = 10_000_000;
    let world = World::start(config);
    let connect = json!({"id": 1, "connect": {"token": world.token("alice")}}).to_string();
    let mut body = Body::open(world.address, &events("/connection/sse", &connect)).await;
    let session = body.event().await.unwrap()["connect"].clone();
    // The queue fills with the answers, the rest waits, until it is too much.
    let flood: Vec<_> = (2..15_000)
        .map(|id| json!({"id": id, "unsubscribe": {"channel": "room:1"}}))
        .collect();
    let mut sent = 0;
    while world.edge.sessions() > 0 {
        assert_eq!(emulate(world.address, &session, &flood).await, 204);
        sent += 1;
        assert!(sent < 60, "40 MB of commands, and all of them wait");
    }
    // Its connection is counted when it has ended, which is after its session.
    eventually("a session that is closed for what waits for it", || {
        world.metric("gb6_edge_closed_total{code=\"3013\"}") == 1.0
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_a_request_end_the_stream() {
    let world = World::start(config());
    let connect = json!({"id": 1, "connect": {"token": world.token("alice")}}).to_string();
    let mut body = Body::open(world.address, &events("/connection/sse", &connect)).await;
    assert!(body.event().await.unwrap()["connect"].is_object());
    // Some clients end a body with a line break.
    body.tcp.write_all(b"\r\n").await.unwrap();
    let get = "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Padding: 0123456789012345678901234567\r\n\r\n";
    body.tcp.write_all(get.as_bytes()).await.unwrap();
    let told = body.event().await.unwrap();
    assert_eq!(told["push"]["disconnect"]["code"], 3501);
    assert_eq!(
        told["push"]["disconnect"]["reason"],
        "bytes behind the request"
    );
    assert_eq!(body.event().await, None);
}

/// Requests that two programs could cut at different places: one answer, and nothing behind it is
/// read.
#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let world = World::start(config());
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for path in ["/emulation", "/connection/http_stream", "/connection/sse"] {
        for (headers, body, want) in [
            (
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                format!("0\r\n\r\n{smuggled}"),
                400,
            ),
            // The first is dropped by the HTTP layer, unseen: the body ends as its chunks say, and
            // the connection with the answer.
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                format!("0\r\n\r\n{smuggled}"),
                400,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                format!("0\r\n\r\n{smuggled}"),
                400,
            ),
            (
                "Content-Length: 2\r\nContent-Length: 30\r\n",
                format!("{{}}{smuggled}"),
                400,
            ),
            ("Content-Length: 2, 30\r\n", format!("{{}}{smuggled}"), 400),
            ("Content-Length: +2\r\n", format!("{{}}{smuggled}"), 400),
            ("Content-Length : 2\r\n", format!("{{}}{smuggled}"), 400),
            (
                "Content-Length: 2\r\n X: folded\r\n",
                format!("{{}}{smuggled}"),
                400,
            ),
            (
                "X: a\r\n\tfolded\r\nContent-Length: 2\r\n",
                format!("{{}}{smuggled}"),
                400,
            ),
            (
                "Transfer-Encoding: xchunked\r\n",
                format!("0\r\n\r\n{smuggled}"),
                400,
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                format!("zz\r\n\r\n{smuggled}"),
                400,
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                format!("ffffffffffffffffff\r\n\r\n{smuggled}"),
                400,
            ),
        ] {
            let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
            let mut tcp = TcpStream::connect(world.address).await.unwrap();
            tcp.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await;
            read.expect("the connection ends").unwrap();
            let answer = String::from_utf8_lossy(&answer);
            let status = format!("HTTP/1.1 {want} ");
            assert!(answer.starts_with(&status), "{headers}: {answer}");
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                1,
                "{headers}: {answer}"
            );
        }
    }
    // Chunks by themselves are read, and end the connection.
    let body = format!(
        "{:x}\r\n{}\r\n0\r\n\r\n",
        12 + 64,
        "{\"session\":\"\",\"node\":\"e1\",\"data\":\"".to_owned() + &"x".repeat(40) + "\"}"
    );
    let chunked = format!(
        "POST /emulation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}{smuggled}"
    );
    let (status, head, rest) = http(world.address, &chunked).await;
    assert_eq!((status, rest.as_str()), (204, ""), "{head}");
    assert!(head.contains("connection: close"));
}

#[tokio::test]
async fn floods_of_headers_and_slow_bodies_end() {
    let mut settings = config();
    settings.body_timeout = Duration::from_millis(200);
    let world = World::start(settings);
    for path in ["/emulation", "/connection/http_stream", "/connection/sse"] {
        let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{many}Content-Length: 0\r\n\r\n");
        let status = http_or_reset(world.address, &request).await;
        assert!(matches!(status, 431 | 0), "{status}");
        let large = format!(
            "POST {path}?{} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "x".repeat(64 * 1024)
        );
        let status = http_or_reset(world.address, &large).await;
        assert!(matches!(status, 431 | 414 | 0), "{status}");
        // One byte, and then nothing.
        let slow = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{");
        let (status, head, body) = http(world.address, &slow).await;
        assert_eq!(status, 408, "{head}");
        assert_eq!(body, "the body took too long: send it at once\n");
        // A body that breaks off.
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        tcp.write_all(slow.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer)).await;
        read.expect("the connection ends").unwrap();
    }
    eventually("all are gone", || world.edge.connections() == 0).await;
    assert_eq!(world.edge.sessions(), 0);
}

/// Large bodies share what they may hold; small ones do not need it.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_bodies_are_refused_and_small_ones_are_taken() {
    let mut settings = config();
    settings.body_timeout = Duration::from_secs(30);
    let world = World::start(settings);
    let head = "POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n";
    let part = vec![b'x'; 1_900_000];
    let mut held = Vec::new();
    for _ in 0..35 {
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        tcp.write_all(head.as_bytes()).await.unwrap();
        tcp.write_all(&part).await.unwrap();
        held.push(tcp);
    }
    world
        .metric_reaches("gb6_edge_body_bytes", 35.0 * (1_900_000.0 - 16_384.0))
        .await;
    // The next ones find no room, at once.
    let request = format!("{head}{}", "x".repeat(2_000_000));
    for _ in 0..4 {
        let status = http_or_reset(world.address, &request).await;
        assert!(matches!(status, 503 | 0), "{status}");
    }
    let counted = world.metric("gb6_edge_http_responses_total{status=\"503\"}");
    assert_eq!(counted, 4.0);
    let small = post(
        "/emulation",
        "Connection: close\r\n",
        b"{\"session\":\"\",\"node\":\"e1\",\"data\":\"{}\"}",
    );
    let answer = http(world.address, std::str::from_utf8(&small).unwrap()).await;
    assert_eq!(answer.0, 204);
    drop(held);
    world.metric_falls("gb6_edge_body_bytes", 0.0).await;
}
