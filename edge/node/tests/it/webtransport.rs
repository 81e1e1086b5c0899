//! Clients over WebTransport: a session in both encodings, its end, and what bad ones get.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_outbound::Reach;
use gb6_core_wire::client::{Dialect, Reply, decode_replies};
use http::{HeaderValue, header};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use web_transport_proto::{
    Capsule, ConnectError, ConnectRequest, ConnectResponse, Frame, Http3CapsuleReader, Settings,
    StreamUni,
};

use crate::backend::{Backend, user};
use crate::client::PATIENCE;
use crate::proxies::{asks, connecting};
use crate::quic::{closed, connect, dial, subscribe, with_quic};
use crate::world::{World, eventually};

type WtVarInt = web_transport_proto::VarInt;

/// A connection that has said its settings.
struct Http3 {
    connection: Connection,
    _control: SendStream,
}

impl Http3 {
    async fn open(address: SocketAddr) -> Self {
        let connection = dial(address, &[b"h3"]).await.unwrap();
        // As browsers do, the streams of QPACK first.
        for kind in [StreamUni::QPACK_ENCODER, StreamUni::QPACK_DECODER] {
            let mut bytes = Vec::new();
            kind.encode(&mut bytes);
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            // They stay open as long as the connection.
            std::mem::forget(stream);
        }
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        let mut control = connection.open_uni().await.unwrap();
        settings.write(&mut control).await.unwrap();
        Self {
            connection,
            _control: control,
        }
    }

    /// Asks for a session.
    async fn ask(&self, host: impl Display, path: &str, origin: Option<&str>) -> Asked {
        let url = format!("https://{host}{path}");
        let mut request = ConnectRequest::new(url.parse::<url::Url>().unwrap());
        if let Some(origin) = origin {
            let origin = HeaderValue::from_str(origin).unwrap();
            request = request.with_header(header::ORIGIN, origin);
        }
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        request.write(&mut send).await.unwrap();
        Asked { send, recv }
    }
}

/// The stream of a request.
struct Asked {
    send: SendStream,
    recv: RecvStream,
}

/// A session with its stream.
struct Session {
    http3: Http3,
    asked: Asked,
    send: SendStream,
    recv: RecvStream,
    dialect: Dialect,
    bytes: Vec<u8>,
}

impl Session {
    async fn open(address: SocketAddr, dialect: Dialect) -> Self {
        let query = match dialect {
            Dialect::Json => "",
            Dialect::Protobuf => "?cf_protocol=protobuf",
        };
        let http3 = Http3::open(address).await;
        let path = format!("/connection/webtransport{query}");
        let mut asked = http3.ask(address, &path, None).await;
        let answer = ConnectResponse::read(&mut asked.recv).await.unwrap();
        assert_eq!(answer.status, 200);
        let (mut send, recv) = http3.connection.open_bi().await.unwrap();
        let mut head = Vec::new();
        Frame::WEBTRANSPORT.encode(&mut head);
        WtVarInt::from_u64(VarInt::from(asked.send.id()).into_inner())
            .unwrap()
            .encode(&mut head);
        send.write_all(&head).await.unwrap();
        Self {
            http3,
            asked,
            send,
            recv,
            dialect,
            bytes: Vec::new(),
        }
    }

    /// The bytes of the next message; `None`: the stream has ended.
    async fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = match self.dialect {
                Dialect::Json => self.bytes.iter().position(|b| *b == b'\n').map(|at| at + 1),
                Dialect::Protobuf => match *self.bytes {
                    // Every message of these tests is short.
                    [length, ..] if length < 0x80 => Some(1 + usize::from(length)),
                    [low, high, ..] => Some(2 + usize::from(low & 0x7f) + (usize::from(high) << 7)),
                    _ => None,
                },
            };
            if let Some(end) = end.filter(|end| *end <= self.bytes.len()) {
                return Some(self.bytes.drain(..end).collect());
            }
            let read = self.recv.read_buf(&mut self.bytes);
            let read = tokio::time::timeout(PATIENCE, read).await;
            if read.expect("nothing came").unwrap() == 0 {
                return None;
            }
        }
    }

    async fn json(&mut self) -> Value {
        serde_json::from_slice(&self.message().await.expect("ended")).unwrap()
    }

    async fn protobuf(&mut self) -> Reply {
        let message = self.message().await.expect("ended");
        decode_replies(Dialect::Protobuf, Bytes::from(message))
            .unwrap()
            .remove(0)
    }

    /// What the session was closed with, behind the end of its stream.
    async fn closed(mut self) -> (u32, String) {
        assert_eq!(self.message().await, None, "something behind the verdict");
        let mut capsules = Http3CapsuleReader::new(&mut self.asked.recv);
        let capsule = tokio::time::timeout(PATIENCE, capsules.read()).await;
        let told = match capsule.expect("no capsule").unwrap() {
            Some(Capsule::CloseWebTransportSession { code, reason }) => (code, reason),
            other => panic!("{other:?}"),
        };
        // And then nothing is left of the connection.
        assert_eq!(closed(&self.http3.connection).await.0, 0x100);
        told
    }
}

fn address(world: &World) -> SocketAddr {
    world.edge.quic_addr().unwrap()
}

#[tokio::test]
async fn lines_of_json() {
    let world = World::start(with_quic());
    let mut session = Session::open(address(&world), Dialect::Json).await;
    let lines = [
        json!({"connect": {"token": world.token("a")}, "id": 1}).to_string(),
        json!({"subscribe": {"channel": "room:1"}, "id": 2}).to_string(),
    ];
    let text = lines.join("\n") + "\n";
    session.send.write_all(text.as_bytes()).await.unwrap();
    assert!(session.json().await["connect"]["client"].is_string());
    assert!(session.json().await["subscribe"].is_object());
    let gauge = "gb6_edge_sessions{dialect=\"json\",transport=\"webtransport\"}";
    assert_eq!(world.metric(gauge), 1.0);
    // A command in two pieces.
    let publish = json!({"publish": {"channel": "room:1", "data": {"ä": 1}}, "id": 3});
    let publish = format!("{publish}\n");
    for piece in publish.as_bytes().chunks(20) {
        session.send.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let seen = [session.json().await, session.json().await];
    assert!(
        seen.iter().any(|v| v["push"]["pub"]["data"]["ä"] == 1),
        "{seen:?}"
    );
    assert!(seen.iter().any(|v| v["publish"].is_object()), "{seen:?}");

    let draining = tokio::spawn(world.edge.drain());
    let told = session.json().await;
    assert_eq!(told["push"]["disconnect"]["code"], 3001, "{told}");
    assert_eq!(session.closed().await, (3001, "shutdown".to_owned()));
    draining.await.unwrap();
}

#[tokio::test]
async fn protobuf_behind_its_length() {
    let world = World::start(with_quic());
    let mut session = Session::open(address(&world), Dialect::Protobuf).await;
    let mut bytes = Vec::new();
    for command in [connect(&world.token("a")), subscribe(2, "room:1")] {
        prost::Message::encode_length_delimited(&command, &mut bytes).unwrap();
    }
    session.send.write_all(&bytes).await.unwrap();
    assert!(session.protobuf().await.connect.is_some());
    assert!(session.protobuf().await.subscribe.is_some());
    // Too large, known by its length alone.
    session.send.write_all(&[0xff, 0xff, 0x7f]).await.unwrap();
    let told = session.protobuf().await.push.and_then(|p| p.disconnect);
    assert_eq!(told.map(|d| (d.code, d.reconnect)), Some((3501, false)));
    assert_eq!(session.closed().await.0, 3501);
    eventually("gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn who_ends_the_session_is_gone() {
    let world = World::start(with_quic());
    let mut session = Session::open(address(&world), Dialect::Json).await;
    let connect = json!({"connect": {"token": world.token("a")}, "id": 1});
    session
        .send
        .write_all(format!("{connect}\n").as_bytes())
        .await
        .unwrap();
    session.json().await;
    assert_eq!(world.edge.sessions(), 1);
    // The end of the request's stream is the end of the session, whatever its other stream does.
    session.asked.send.finish().unwrap();
    eventually("gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn origins_and_addresses() {
    let world = World::start(with_quic());
    let address = address(&world);
    let path = "/connection/webtransport";
    let own = address.to_string();
    let same = format!("https://{address}");
    for (host, path, origin, status) in [
        (own.as_str(), path, Some(same.as_str()), 200),
        (
            "acme.example.org",
            path,
            Some("https://app.acme.example"),
            200,
        ),
        ("acme.example.org", path, Some("https://evil.example"), 403),
        // Another instance's, and nobody's.
        (
            "demo.example.org",
            path,
            Some("https://app.acme.example"),
            403,
        ),
        ("demo.example.org", path, Some("https://evil.example"), 403),
        // No instance is named: its token will say which it is.
        (&own, path, Some("https://app.acme.example"), 200),
        (&own, path, Some("https://evil.example"), 200),
        (&own, path, Some("null"), 403),
        (&own, "/connection/websocket", None, 404),
        (&own, "/", None, 404),
    ] {
        let http3 = Http3::open(address).await;
        let mut asked = http3.ask(host, path, origin).await;
        let answer = ConnectResponse::read(&mut asked.recv).await;
        match status {
            200 => assert_eq!(answer.unwrap().status, 200, "{path} {origin:?}"),
            status => {
                let words = format!("{:?}", answer.unwrap_err());
                assert!(
                    words.contains(&status.to_string()),
                    "{path} {origin:?}: {words}"
                );
                assert_eq!(closed(&http3.connection).await.0, 0x10b);
            }
        }
    }
    for (why, count) in [("origin", 4.0), ("path", 2.0)] {
        let name = format!("gb6_edge_upgrades_refused_total{{why=\"{why}\"}}");
        assert_eq!(world.metric(&name), count, "{name}");
    }
}

#[tokio::test]
async fn a_listed_origin_is_for_tokens_of_its_instance_alone() {
    let world = World::start(with_quic());
    let address = address(&world);
    for (instance, refused) in [("acme", false), ("demo", true)] {
        let http3 = Http3::open(address).await;
        let origin = Some("https://app.acme.example");
        let mut asked = http3.ask(address, "/connection/webtransport", origin).await;
        ConnectResponse::read(&mut asked.recv).await.unwrap();
        let (mut send, mut recv) = http3.connection.open_bi().await.unwrap();
        let token = world.token_of(instance, "a", 600);
        let mut bytes = vec![0x40, 0x41, 0];
        let connect = json!({"connect": {"token": token}, "id": 1});
        bytes.extend_from_slice(format!("{connect}\n").as_bytes());
        send.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; 1000];
        let n = recv.read(&mut answer).await.unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&answer[..n]).unwrap();
        match refused {
            true => assert_eq!(answer["push"]["disconnect"]["code"], 3507, "{answer}"),
            false => assert!(answer["connect"].is_object(), "{answer}"),
        }
    }
}

/// What becomes of a connection on which `bytes` are said on a stream of the client.
async fn said(world: &World, one_way: &[u8], two_way: &[u8]) -> ConnectionError {
    let connection = dial(address(world), &[b"h3"]).await.unwrap();
    let mut held = Vec::new();
    if !one_way.is_empty() {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(one_way).await.unwrap();
        held.push(stream);
    }
    if !two_way.is_empty() {
        let (mut stream, recv) = connection.open_bi().await.unwrap();
        stream.write_all(two_way).await.unwrap();
        held.push(stream);
        std::mem::forget(recv);
    }
    tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .expect("still open")
}

#[tokio::test]
async fn what_is_no_http3_ends_the_connection() {
    let mut settings = with_quic();
    settings.header_timeout = Duration::from_millis(500);
    let world = World::start(settings);
    let mut good = Vec::new();
    let mut values = Settings::default();
    values.enable_webtransport(1);
    values.encode(&mut good);
    let mut huge = vec![0, 4];
    WtVarInt::from_u64(1 << 40).unwrap().encode(&mut huge);
    let mut huge_request = vec![1];
    WtVarInt::from_u64(1 << 40)
        .unwrap()
        .encode(&mut huge_request);
    for (what, one_way, two_way, code) in [
        ("nothing", &b""[..], &b""[..], 0x101),
        ("settings and nothing else", &good, b"", 0x101),
        ("half of the settings", &good[..3], b"", 0x101),
        ("no settings", &[0, 0, 0], b"", 0x10a),
        ("huge settings", &huge, b"", 0x10a),
        ("a huge request", &good, &huge_request, 0x10e),
        ("no request", &good, &[1, 3, 0xff, 0xff, 0xff], 0x10e),
        ("data first", &good, &[0, 3, 1, 2, 3], 0x10e),
    ] {
        match said(&world, one_way, two_way).await {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code.into_inner(), code, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    eventually("gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn streams_of_other_sessions_and_too_many_are_refused() {
    let world = World::start(with_quic());
    let address = address(&world);
    let http3 = Http3::open(address).await;
    let mut asked = http3.ask(address, "/connection/webtransport", None).await;
    ConnectResponse::read(&mut asked.recv).await.unwrap();
    let (mut send, _recv) = http3.connection.open_bi().await.unwrap();
    // Of session 4, which nobody asked for.
    send.write_all(&[0x40, 0x41, 4]).await.unwrap();
    assert_eq!(closed(&http3.connection).await.0, 0x101);

    let mut session = Session::open(address, Dialect::Json).await;
    let connection = session.http3.connection.clone();
    let soon = Duration::from_millis(300);
    let third = tokio::time::timeout(soon, connection.open_bi()).await;
    assert!(third.is_err(), "a third stream was opened");
    let connect = json!({"connect": {"token": world.token("a")}, "id": 1});
    session
        .send
        .write_all(format!("{connect}\n").as_bytes())
        .await
        .unwrap();
    assert!(session.json().await["connect"].is_object());
}

#[tokio::test]
async fn a_backend_is_asked_who_comes_without_a_token() {
    let backend = Backend::start(user("alice", json!({}))).await;
    let mut config = with_quic();
    config.outbound.reach = Reach::with_loopback();
    let mut proxy = asks(&backend);
    proxy.headers = vec!["origin".into()];
    let world = World::start_placed(config, connecting(proxy)).unwrap();
    let mut session = Session::open(address(&world), Dialect::Json).await;
    let connect = json!({"connect": {"headers": {"origin": "said"}}, "id": 1});
    let line = format!("{connect}\n");
    session.send.write_all(line.as_bytes()).await.unwrap();
    let reply = session.json().await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    let asked = backend.asked().remove(0);
    assert_eq!(asked.body["transport"], "webtransport");
    assert_eq!(asked.header("origin"), ["said"]);
}

#[tokio::test]
async fn in_a_storm_a_session_is_refused_with_503() {
    let mut settings = with_quic();
    settings.connects_per_second = Some(1);
    settings.connect_wait = Duration::ZERO;
    let world = World::start(settings);
    let mut refused = 0;
    // A slow machine has time for some of them.
    for _ in 0..20 {
        let http3 = Http3::open(address(&world)).await;
        let mut asked = http3
            .ask(address(&world), "/connection/webtransport", None)
            .await;
        match ConnectResponse::read(&mut asked.recv).await {
            Ok(_) => {}
            Err(ConnectError::WrongStatus(Some(status))) => {
                assert_eq!(status, 503);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    let storm = "gb6_edge_upgrades_refused_total{why=\"storm\"}";
    assert_eq!(world.metric(storm) as usize, refused);
}
