//! `/emulation`: what it takes, what it answers, and how it reaches another edge.

use std::net::SocketAddr;

use crate::client::http;
use crate::world::{World, config};

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// A request for `session` at `node`.
fn commands(node: &str, session: &str, data: &str) -> String {
    let body = serde_json::json!({ "session": session, "node": node, "data": data });
    post("/emulation", "", &body.to_string())
}

const GUESS: &str = "0123456789abcdef0123456789abcdef";

async fn status(address: SocketAddr, request: &str) -> u16 {
    http(address, request).await.0
}

#[tokio::test]
async fn what_is_for_nobody_is_answered_like_anything_else() {
    let world = World::start(config());
    for session in [GUESS, "", "1", "+123456789abcdef0123456789abcdef", "ö"] {
        let (status, head, body) = http(world.address, &commands("e1", session, "{}")).await;
        assert_eq!((status, body.as_str()), (204, ""), "{session}: {head}");
    }
    assert_eq!(
        world.metric("gb6_edge_emulated_total{outcome=\"nobody\"}"),
        5.0
    );
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let world = World::start(config());
    let address = world.address;
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "{\"session\":1,\"node\":\"e1\",\"data\":\"\"}",
        "{\"session\":\"a\",\"node\":\"e1\",\"data\":{}}",
        "{\"session\":\"a\",\"node\":\"e1\"}",
        "{\"session\":\"a\",\"node\":\"e1\",\"data\":\"\"",
    ] {
        let (status, _, text) = http(address, &post("/emulation", "", body)).await;
        assert_eq!(status, 400, "{body}");
        assert!(text.starts_with("send {\"session\""), "{text}");
    }
    let octets = "Content-Type: application/octet-stream\r\n";
    let (status, _, _) = http(address, &post("/emulation", octets, "\x0a\x7f")).await;
    assert_eq!(status, 400);
    // A frame may be 1 MiB; in JSON every byte of it may take two.
    for (headers, bytes) in [("", 2 * 1024 * 1024 + 2048), (octets, 1024 * 1024 + 2048)] {
        let head = format!(
            "POST /emulation HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {bytes}\r\n\r\n"
        );
        let (status, head, _) = http(address, &head).await;
        assert_eq!(status, 413);
        assert!(head.contains("connection: close"), "{head}");
    }
    let large = commands("e1", GUESS, &"x".repeat(1024 * 1024 + 1));
    assert_eq!(http(address, &large).await.0, 413);
    let fits = commands("e1", GUESS, &"\"".repeat(1024 * 1024));
    assert_eq!(http(address, &fits).await.0, 204);
    let get = "GET /emulation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (status, head, _) = http(address, get).await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: post, options"), "{head}");
}

#[tokio::test]
async fn pages_may_send_from_where_they_may_connect() {
    let world = World::start(config());
    let ask = |origin: &str| {
        format!(
            "OPTIONS /emulation HTTP/1.1\r\nHost: acme.x\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type\r\n\r\n"
        )
    };
    let (status, head, _) = http(world.address, &ask("https://app.acme.example")).await;
    assert_eq!(status, 204);
    for line in [
        "access-control-allow-origin: https://app.acme.example",
        "access-control-allow-methods: post",
        "access-control-allow-headers: content-type",
        "vary: origin",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let (status, head, _) = http(world.address, &ask("https://evil.example")).await;
    assert_eq!(status, 403);
    assert!(!head.contains("access-control"), "{head}");
    let body = format!("{{\"session\":\"{GUESS}\",\"node\":\"e1\",\"data\":\"{{}}\"}}");
    for (origin, want) in [
        ("https://app.acme.example", 204),
        ("http://x", 204),
        // No instance is named, so that no list is looked at.
        ("https://evil.example", 204),
        ("null", 403),
    ] {
        let headers = format!("Origin: {origin}\r\n");
        let (status, head, _) = http(world.address, &post("/emulation", &headers, &body)).await;
        assert_eq!(status, want);
        let allowed = format!("access-control-allow-origin: {origin}\r\n");
        assert_eq!(head.contains(&allowed), want == 204, "{head}");
    }
}

#[tokio::test]
async fn another_edge_is_reached_through_a_region() {
    let world = World::start(config());
    let other = world.another_edge("e2");
    let reaches = |metrics: &gb6_core_obs::Metrics| {
        let text = metrics.text();
        text.lines().any(|line| line == "gb6_edge_relay_edges 2")
    };
    crate::world::eventually("both are reached", || {
        reaches(&world.metrics) && reaches(&other.metrics)
    })
    .await;
    assert_eq!(
        status(world.address, &commands("e2", GUESS, "{}")).await,
        204
    );
    let there = "gb6_edge_emulated_total{outcome=\"nobody\"}";
    assert_eq!(other.metric(there), 1.0);
    assert_eq!(world.metric(there), 0.0);
    assert_eq!(
        other.metric("gb6_edge_relay_answers_total{outcome=\"sent\"}"),
        1.0
    );

    // No such node: at once, whoever is asked.
    for node in ["", "e3", "r1", "E2"] {
        let (status, _, text) = http(world.address, &commands(node, GUESS, "{}")).await;
        assert_eq!((status, text.as_str()), (404, "there is no such node\n"));
    }
    // One that does not answer in time.
    world.relay.mute(true);
    assert_eq!(
        status(world.address, &commands("e2", GUESS, "{}")).await,
        504
    );
    // One whose way is lost while the answer is waited for.
    let asked = world.relay.asked();
    let request = commands("e2", GUESS, "{}");
    let lost = status(world.address, &request);
    let cut = async {
        crate::world::eventually("the question comes", || world.relay.asked() > asked).await;
        world.relay.mute(false);
        world.relay.drop_streams();
    };
    assert_eq!(tokio::join!(lost, cut).0, 502);
    assert_eq!(world.metric("gb6_edge_relay_unanswered"), 0.0);
    // Both come back by themselves.
    crate::world::eventually("both are reached", || {
        world.relay.edges() == 2 && reaches(&world.metrics) && reaches(&other.metrics)
    })
    .await;
    assert_eq!(
        status(world.address, &commands("e2", GUESS, "{}")).await,
        204
    );
}

#[tokio::test]
async fn without_a_relay_only_this_edge_is_reached() {
    let world = World::start(config());
    world.cut();
    world.metric_falls("gb6_edge_relays", 0.0).await;
    assert_eq!(
        status(world.address, &commands("e2", GUESS, "{}")).await,
        503
    );
    assert_eq!(
        status(world.address, &commands("e1", GUESS, "{}")).await,
        204
    );
}
