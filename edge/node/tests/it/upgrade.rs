//! What becomes a WebSocket and what does not.

use gb6_core_model::snapshot::Snapshot;
use serde_json::json;

use crate::client::{Client, close_code, frame, http, open};
use crate::world::{World, config, snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEAD: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
const KEY: &str = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
const V13: &str = "Sec-WebSocket-Version: 13\r\n";

#[tokio::test]
async fn subprotocols_are_echoed_and_nothing_else() {
    let world = World::start(config());
    for (query, offered, want) in [
        ("", None, None),
        ("?cf_protocol=protobuf", None, None),
        ("", Some("centrifuge-protobuf"), Some("centrifuge-protobuf")),
        ("", Some("centrifuge-json"), Some("centrifuge-json")),
        ("", Some("other, centrifuge-json"), Some("centrifuge-json")),
    ] {
        let tcp = tokio::net::TcpStream::connect(world.address).await.unwrap();
        let mut request = format!(
            "GET /connection/websocket{query} HTTP/1.1\r\nHost: {}\r\n{HEAD}{KEY}{V13}\
             Sec-WebSocket-Extensions: permessage-deflate\r\n",
            world.address
        );
        if let Some(offered) = offered {
            request.push_str(&format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        }
        request.push_str("\r\n");
        let head = head_of(tcp, &request).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(
            head.contains("sec-websocket-accept: icx+yqv66kxgm0fcwalwlflwtai=\r\n"),
            "{head}"
        );
        assert!(!head.contains("extensions"), "{head}");
        let line = want.map(|w| format!("sec-websocket-protocol: {w}\r\n"));
        match line {
            Some(line) => assert!(head.contains(&line), "{head}"),
            None => assert!(!head.contains("sec-websocket-protocol"), "{head}"),
        }
    }
}

async fn head_of(mut tcp: tokio::net::TcpStream, request: &str) -> String {
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn what_is_no_upgrade_is_told_why() {
    let world = World::start(config());
    let address = world.address;
    for (what, want, header) in [
        (String::new(), 426, "upgrade: websocket"),
        (format!("{HEAD}{KEY}"), 426, "sec-websocket-version: 13"),
        (
            format!("{HEAD}{KEY}Sec-WebSocket-Version: 8\r\n"),
            426,
            "sec-websocket-version: 13",
        ),
        (format!("{HEAD}{V13}"), 400, ""),
        (format!("{HEAD}{V13}Sec-WebSocket-Key: short\r\n"), 400, ""),
        (format!("{HEAD}{V13}{KEY}{KEY}"), 400, ""),
        (format!("{HEAD}{V13}{KEY}Origin: null\r\n"), 403, ""),
    ] {
        // Without keep-alive, so that the answer ends with the connection.
        let request =
            format!("GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\n{what}\r\n");
        let request = request.replacen("keep-alive, ", "close, ", 1);
        let request = if what.is_empty() {
            request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
        } else {
            request
        };
        let (status, head, body) = http(address, &request).await;
        assert_eq!(status, want, "{what}");
        assert!(head.contains(header), "{what}: {head}");
        assert!(!body.is_empty());
    }
    assert_eq!(
        world.metric("gb6_edge_upgrades_refused_total{why=\"origin\"}"),
        1.0
    );
}

#[tokio::test]
async fn frames_that_come_with_the_upgrade_are_not_lost() {
    let world = World::start(config());
    let mut tcp = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let mut bytes =
        format!("GET /connection/websocket HTTP/1.1\r\nHost: x\r\n{HEAD}{KEY}{V13}\r\n")
            .into_bytes();
    bytes.extend(frame(r#"{"id":1,"subscribe":{"channel":"room:1"}}"#));
    tcp.write_all(&bytes).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    // A command before connect: that it is refused shows that it was read.
    assert_eq!(close_code(&mut tcp).await, Some(3501));
}

#[tokio::test]
async fn host_names_choose_the_instance_whose_key_a_token_needs() {
    let mut placed = snapshot();
    for instance in placed.instances.values_mut() {
        // An id that names no instance: the host name does.
        instance.keys[0].id = "main".to_owned();
    }
    let list = |placed: &mut Snapshot, id: &str, host: &str| {
        let instance = placed.instances.get_mut(id).unwrap();
        instance.hosts = vec![host.to_owned()];
    };
    // Named as one instance's label, listed by another.
    list(&mut placed, "acme", "demo.example.org");
    let world = World::start_placed(config(), placed.clone()).unwrap();
    let is_of = |host: &'static str, instance: &'static str| {
        let (address, token) = (world.address, world.token_of(instance, "alice", 60));
        async move {
            let ws = open(address, "", &[("Host", host)]).await.unwrap();
            let mut client = Client::over(ws);
            let connect = json!({"id": 1, "connect": {"token": token}});
            client.send(&connect).await;
            client.event().await.is_ok()
        }
    };
    for (host, instance) in [
        ("demo.example.org", "acme"),
        ("Demo.Example.org:443", "acme"),
        ("acme.example.net", "acme"),
        ("demo.example.net", "demo"),
        ("example.net", "demo"),
    ] {
        let other = if instance == "demo" { "acme" } else { "demo" };
        assert!(is_of(host, instance).await, "{host} is of {instance}");
        assert!(!is_of(host, other).await, "{host} is not of {other}");
    }
    // A new placement moves the name.
    list(&mut placed, "acme", "other.example.org");
    placed.revision = 2;
    world.place(placed);
    let mut moved = false;
    for _ in 0..500 {
        moved = is_of("demo.example.org", "demo").await;
        if moved {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(moved, "the name still belongs to acme");
}
