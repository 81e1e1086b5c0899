//! Health, metrics and the console's files.

use crate::client::{http, http_or_reset};
use crate::world::{World, config};

fn get(method: &str, path: &str, extra: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n")
}

#[tokio::test]
async fn what_is_served() {
    let world = World::start(config());
    let address = world.address;
    for (method, path, extra, want, header, body) in [
        (
            "GET",
            "/healthz",
            "",
            200,
            "content-type: application/json",
            "{\"live\":true}",
        ),
        ("GET", "/readyz", "", 200, "", "{\"ready\":true}"),
        ("GET", "/metrics", "", 200, "text/plain", ""),
        ("GET", "/", "", 200, "etag: \"v1\"", "<!doctype html>"),
        ("HEAD", "/", "", 200, "content-length: 15", ""),
        (
            "GET",
            "/",
            "If-None-Match: \"v0\", \"v1\"\r\n",
            304,
            "etag: \"v1\"",
            "",
        ),
        ("GET", "/../etc/passwd", "", 404, "", "nothing here\n"),
        (
            "POST",
            "/",
            "Content-Length: 0\r\n",
            405,
            "allow: get, head",
            "use GET, HEAD\n",
        ),
        ("GET", "/dev/token", "", 405, "allow: post", "use POST\n"),
        (
            "DELETE",
            "/metrics",
            "",
            405,
            "allow: get, head",
            "use GET, HEAD\n",
        ),
    ] {
        let (status, head, got) = http(address, &get(method, path, extra)).await;
        assert_eq!(status, want, "{method} {path}");
        assert!(head.contains(header), "{method} {path}: {head}");
        if !body.is_empty() {
            assert_eq!(got, body, "{method} {path}");
        }
        for always in [
            "content-security-policy: default-src 'self'; connect-src 'self' ws: wss:",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(always), "{method} {path}: {head}");
        }
    }
    let (_, _, metrics) = http(address, &get("GET", "/metrics", "")).await;
    for line in [
        "gb6_edge_connections 1",
        "gb6_edge_http_responses_total{status=\"405\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn heads_that_are_none() {
    let world = World::start(config());
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    for (request, want) in [
        ("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        ("GET / HTTP/9.9\r\n\r\n", 400),
        (long.as_str(), 431),
    ] {
        let status = http_or_reset(world.address, request).await;
        assert!(status == want || status == 0, "{status}");
    }
}
