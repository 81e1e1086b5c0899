//! Pages at every way in: whom an instance lists is said by the instance alone that a host name names
//! or a token is of, so that nobody learns what the others list.

use serde_json::{Value, json};

use crate::body::{Body, events};
use crate::client::{Client, answered, http, open};
use crate::world::{World, config};

/// A page that `acme` lists, and one that nobody does.
const LISTED: &str = "https://app.acme.example";
const UNLISTED: &str = "https://evil.example";

const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// Requests that every way in answers without a token: by name, method and path, more headers, and
/// the status for a page that may come in.
const WAYS_IN: [(&str, &str, &str, u16); 8] = [
    ("websocket", "GET /connection/websocket", UPGRADE, 101),
    (
        "uni_websocket",
        "GET /connection/uni_websocket",
        UPGRADE,
        101,
    ),
    ("http_stream", "POST /connection/http_stream", "", 400),
    (
        "uni_http_stream",
        "OPTIONS /connection/uni_http_stream",
        "",
        204,
    ),
    ("sse", "GET /connection/sse", "", 400),
    ("uni_sse", "OPTIONS /connection/uni_sse", "", 204),
    ("emulation", "POST /emulation", "", 400),
    ("preflight", "OPTIONS /emulation", "", 204),
];

/// The answer of a way in to a page, without the origin that it may repeat.
async fn ask(world: &World, way: usize, host: &str, origin: &str) -> (u16, String, String) {
    let (_, line, headers, _) = WAYS_IN[way];
    let connection = match headers.is_empty() {
        true => "close",
        false => "close, Upgrade",
    };
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n{headers}\
         Origin: {origin}\r\nContent-Length: 0\r\n\r\n"
    );
    // A body ends with the connection, which stays open behind an upgrade.
    let (status, head) = answered(world.address, &request).await;
    let body = match status {
        101 => String::new(),
        _ => http(world.address, &request).await.2,
    };
    let head: Vec<&str> = head.lines().filter(|l| !l.starts_with("date:")).collect();
    let head = head.join("\n");
    (status, head.replace(origin, "…"), body)
}

#[tokio::test]
async fn the_instance_that_the_host_names_judges_every_page() {
    let world = World::start(config());
    for (way, (name, _, _, may)) in WAYS_IN.into_iter().enumerate() {
        for (host, origin, status) in [
            ("acme.example.org", LISTED, may),
            ("acme.example.org", UNLISTED, 403),
            ("demo.example.org", LISTED, 403),
            ("demo.example.org", UNLISTED, 403),
            // No instance is named: the token will say which it is.
            ("example.org", LISTED, may),
            ("example.org", UNLISTED, may),
            // Nobody can list these.
            ("example.org", "null", 403),
            ("acme.example.org", "null", 403),
        ] {
            let answer = ask(&world, way, host, origin).await;
            assert_eq!(
                answer.0, status,
                "{name} at {host} from {origin}: {answer:?}"
            );
            let readable = answer.1.contains("access-control-allow-origin: …");
            let by_page = !name.ends_with("websocket");
            assert_eq!(readable, by_page && status == may, "{name}: {answer:?}");
        }
    }
}

/// Where a stranger asks, a page of another instance and one of nobody get the same, byte for byte.
#[tokio::test]
async fn whom_another_instance_lists_is_not_told() {
    let world = World::start(config());
    for (way, (name, ..)) in WAYS_IN.into_iter().enumerate() {
        for host in ["demo.example.org", "example.org", "127.0.0.1"] {
            let listed = ask(&world, way, host, LISTED).await;
            let unlisted = ask(&world, way, host, UNLISTED).await;
            assert_eq!(listed, unlisted, "{name} at {host}");
        }
    }
    // Nor behind the upgrade, without a token, with one that is made up, and with one of another
    // instance.
    let end = async |origin: &str, connect: Value| {
        let ws = open(world.address, "", &[("Origin", origin)])
            .await
            .unwrap();
        let mut client = Client::over(ws);
        client.send(&json!({"id": 1, "connect": connect})).await;
        client.closed().await
    };
    for (connect, code) in [
        (json!({}), 3501),
        (json!({"token": "made.up.token"}), 3500),
        (json!({"token": world.token("alice")}), 3507),
    ] {
        let listed = end(LISTED, connect.clone()).await;
        assert_eq!(listed.0, code);
        assert_eq!(listed, end(UNLISTED, connect).await);
    }
}

#[tokio::test]
async fn pages_of_the_listener_and_in_development_of_this_machine() {
    let mut settings = config();
    settings.loopback_origins = true;
    let world = World::start(settings);
    let own = format!("http://{}", world.address);
    for (origin, code) in [
        (own.as_str(), None),
        ("http://localhost:5173", None),
        (LISTED, Some(3507)),
        (UNLISTED, Some(3507)),
    ] {
        let connect = json!({"id": 1, "connect": {"token": world.token("alice")}});
        let ws = open(world.address, "", &[("Origin", origin)]).await;
        let mut client = Client::over(ws.unwrap());
        client.send(&connect).await;
        match code {
            None => assert!(client.next().await["connect"].is_object(), "{origin}"),
            Some(code) => assert_eq!(client.closed().await.0, code, "{origin}"),
        }
        // The same over an event stream.
        let request = String::from_utf8(events("/connection/sse", &connect.to_string())).unwrap();
        let request = request.replacen("\r\n", &format!("\r\nOrigin: {origin}\r\n"), 1);
        let mut body = Body::open(world.address, request.as_bytes()).await;
        let told = body.event().await.unwrap();
        assert_eq!(
            told["push"]["disconnect"]["code"].as_u64(),
            code.map(u64::from),
            "{told}"
        );
    }
}
