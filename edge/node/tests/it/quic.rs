//! Clients over QUIC: sessions, their ends, and what bad ones get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gb6_core_outbound::Reach;
use gb6_core_wire::client::{
    Command, ConnectRequest, Dialect, PublishRequest, Push, Reply, SubscribeRequest, decode_replies,
};
use gb6_edge_node::EdgeConfig;
use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use serde_json::json;
use tokio::net::UdpSocket;

use crate::backend::{Backend, user};
use crate::child::Child;
use crate::client::{Client, PATIENCE};
use crate::proxies::{asks, connecting};
use crate::tls::{self_made, trusting};
use crate::world::{World, config, eventually};

/// An edge that speaks QUIC.
pub(crate) fn with_quic() -> EdgeConfig {
    let mut config = config();
    config.certificate = Some(self_made());
    config.quic = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config
}

fn endpoint(protocols: &[&[u8]]) -> Endpoint {
    let tls = trusting(&[&rustls::version::TLS13], protocols);
    let quic = QuicClientConfig::try_from(tls).unwrap();
    let socket = std::net::UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    // Many connections share it: with the usual buffer it loses what the server sends them.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024);
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new(Default::default(), None, socket, runtime).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(quic)));
    endpoint
}

pub(crate) async fn dial(
    address: SocketAddr,
    protocols: &[&[u8]],
) -> Result<Connection, ConnectionError> {
    let connecting = endpoint(protocols).connect(address, "localhost").unwrap();
    tokio::time::timeout(PATIENCE, connecting)
        .await
        .expect("no answer to the handshake")
}

/// A client with its stream.
pub(crate) struct Quic {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    bytes: Vec<u8>,
}

impl Quic {
    async fn open(address: SocketAddr) -> Self {
        Self::on(dial(address, &[b"gb6"]).await.unwrap()).await
    }

    async fn on(connection: Connection) -> Self {
        let (send, recv) = connection.open_bi().await.unwrap();
        Self {
            connection,
            send,
            recv,
            bytes: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Self {
        let mut client = Self::open(address).await;
        client.authenticate(token).await;
        client
    }

    async fn authenticate(&mut self, token: &str) {
        self.say(&[connect(token)]).await;
        let reply = self.next().await;
        assert!(reply.connect.is_some_and(|c| !c.client.is_empty()));
    }

    async fn say(&mut self, commands: &[Command]) {
        let mut bytes = Vec::new();
        for command in commands {
            command.encode_length_delimited(&mut bytes).unwrap();
        }
        self.send.write_all(&bytes).await.unwrap();
    }

    /// The next reply that is no ping; `None`: the stream has ended.
    async fn event(&mut self) -> Option<Reply> {
        loop {
            let mut rest = &self.bytes[..];
            if let Ok(length) = prost::encoding::decode_varint(&mut rest)
                && rest.len() as u64 >= length
            {
                let end = self.bytes.len() - rest.len() + length as usize;
                let message: Vec<u8> = self.bytes.drain(..end).collect();
                let replies = decode_replies(Dialect::Protobuf, Bytes::from(message)).unwrap();
                if replies[0] == Reply::default() {
                    continue;
                }
                return Some(replies[0].clone());
            }
            let read = self.recv.read_chunk(64 * 1024, true);
            let read = tokio::time::timeout(PATIENCE, read).await;
            match read.expect("nothing came").unwrap() {
                Some(chunk) => self.bytes.extend_from_slice(&chunk.bytes),
                None => return None,
            }
        }
    }

    async fn next(&mut self) -> Reply {
        self.event().await.expect("the stream has ended")
    }

    async fn push(&mut self) -> Push {
        loop {
            if let Some(push) = self.next().await.push {
                return *push;
            }
        }
    }

    /// The code of the Disconnect push, which the end of the stream and a close with the same code
    /// and reason follow.
    pub(crate) async fn closed(&mut self) -> u32 {
        let told = loop {
            let reply = self.next().await;
            if let Some(disconnect) = reply.push.and_then(|push| push.disconnect) {
                break disconnect;
            }
        };
        assert!(!told.reason.is_empty());
        assert_eq!(told.reconnect, told.code < 3500);
        assert_eq!(self.event().await, None, "something behind the verdict");
        assert_eq!(closed(&self.connection).await, (told.code, told.reason));
        told.code
    }
}

/// The code and reason of the close.
pub(crate) async fn closed(connection: &Connection) -> (u32, String) {
    match tokio::time::timeout(PATIENCE, connection.closed()).await {
        Ok(ConnectionError::ApplicationClosed(close)) => (
            u32::try_from(close.error_code.into_inner()).unwrap(),
            String::from_utf8(close.reason.to_vec()).unwrap(),
        ),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn connect(token: &str) -> Command {
    Command {
        id: 1,
        connect: Some(Box::new(ConnectRequest {
            token: token.to_owned(),
            ..ConnectRequest::default()
        })),
        ..Command::default()
    }
}

pub(crate) fn subscribe(id: u32, channel: &str) -> Command {
    Command {
        id,
        subscribe: Some(Box::new(SubscribeRequest {
            channel: channel.to_owned(),
            ..SubscribeRequest::default()
        })),
        ..Command::default()
    }
}

fn publish(id: u32, channel: &str, data: impl Into<Bytes>) -> Command {
    Command {
        id,
        publish: Some(PublishRequest {
            channel: channel.to_owned(),
            data: data.into(),
            ..PublishRequest::default()
        }),
        ..Command::default()
    }
}

fn address(world: &World) -> SocketAddr {
    world.edge.quic_addr().unwrap()
}

#[tokio::test]
async fn a_session_over_quic_is_one_like_any() {
    let world = World::start(with_quic());
    let mut other = Client::connect(world.address, &world.token("bob")).await;
    let channel = json!({"channel": "room:1"});
    other.call(json!({"id": 2, "subscribe": channel})).await;

    // Everything in one write, as SDKs pack it.
    let mut client = Quic::open(address(&world)).await;
    client
        .say(&[connect(&world.token("alice")), subscribe(2, "room:1")])
        .await;
    assert!(client.next().await.connect.is_some());
    assert!(client.next().await.subscribe.is_some());
    let gauge = "gb6_edge_sessions{dialect=\"protobuf\",transport=\"quic\"}";
    assert_eq!(world.metric(gauge), 1.0);

    // Larger than the windows of the connection.
    let data = format!("\"{}\"", "x".repeat(60_000));
    for id in 3..10 {
        client.say(&[publish(id, "room:1", data.clone())]).await;
    }
    for offset in 1..8 {
        let publication = client.push().await.publication.unwrap();
        assert_eq!(
            (publication.offset, publication.data.len()),
            (offset, data.len())
        );
        let seen = other.next().await;
        assert_eq!(seen["push"]["pub"]["offset"], offset, "{seen}");
    }
    other
        .send(&json!({"id": 3, "publish": {"channel": "room:1", "data": {"a": 1}}}))
        .await;
    let publication = client.push().await.publication.unwrap();
    assert_eq!(publication.data, &b"{\"a\":1}"[..]);

    // A client that goes is gone at once.
    client.connection.close(VarInt::from_u32(0), b"");
    eventually("gone", || world.metric(gauge) == 0.0).await;
}

#[tokio::test]
async fn a_verdict_is_a_push_and_then_a_close_with_the_same_code() {
    let world = World::start(with_quic());
    let mut stranger = Quic::open(address(&world)).await;
    stranger.say(&[connect("no token")]).await;
    assert_eq!(stranger.closed().await, 3500);
    let mut hasty = Quic::open(address(&world)).await;
    hasty.say(&[subscribe(1, "room:1")]).await;
    assert_eq!(hasty.closed().await, 3501);
    // Who has sent all it will is told too.
    let mut short = Quic::open(address(&world)).await;
    short.say(&[subscribe(1, "room:1")]).await;
    short.send.finish().unwrap();
    assert_eq!(short.closed().await, 3501);
    eventually("gone", || world.edge.connections() == 0).await;

    let mut member = Quic::connect(address(&world), &world.token("a")).await;
    let draining = tokio::spawn(world.edge.drain());
    assert_eq!(member.closed().await, 3001);
    draining.await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_commands() {
    let world = World::start(with_quic());
    let mut too_large = Vec::new();
    prost::encoding::encode_varint(1 << 30, &mut too_large);
    let mut second_too_large = Vec::new();
    connect(&world.token("a"))
        .encode_length_delimited(&mut second_too_large)
        .unwrap();
    prost::encoding::encode_varint(500_000, &mut second_too_large);
    for (what, bytes) in [
        ("too large", too_large),
        ("large behind the connect", second_too_large),
        ("endless length", vec![0xff; 20]),
        ("no message", vec![3, 0xff, 0xff, 0xff]),
        ("JSON", b"{\"id\":1,\"connect\":{}}\n".repeat(10)),
        ("a pong nobody asked for", vec![0]),
    ] {
        let mut client = Quic::open(address(&world)).await;
        client.send.write_all(&bytes).await.unwrap();
        assert_eq!(client.closed().await, 3501, "{what}");
    }
    eventually("all gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn one_stream_and_no_other() {
    let world = World::start(with_quic());
    let mut client = Quic::connect(address(&world), &world.token("a")).await;
    let soon = Duration::from_millis(300);
    let second = tokio::time::timeout(soon, client.connection.open_bi()).await;
    assert!(second.is_err(), "a second stream was opened");
    // Datagrams are read by nobody and kept by nobody.
    for _ in 0..1000 {
        let _ = client
            .connection
            .send_datagram(Bytes::from_static(&[7; 1000]));
    }
    client.say(&[subscribe(2, "room:1")]).await;
    assert!(client.next().await.subscribe.is_some());
    // HTTP/3 has one-way streams, this has none.
    let mut one_way = client.connection.open_uni().await.unwrap();
    one_way.write_all(b"x").await.unwrap();
    assert_eq!(closed(&client.connection).await.0, 3501);
    eventually("gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn floods_of_streams_that_are_reset_cost_the_others_nothing() {
    let world = World::start(with_quic());
    let mut neighbour = Quic::connect(address(&world), &world.token("b")).await;
    for round in 0..20_u32 {
        // The first other stream is the end, whatever comes behind it.
        let client = Quic::connect(address(&world), &world.token("a")).await;
        let flood = client.connection.clone();
        let opened = tokio::spawn(async move {
            let mut opened = 0_u32;
            while let Ok(mut stream) = flood.open_uni().await {
                let _ = stream.reset(VarInt::from_u32(7));
                opened += 1;
            }
            opened
        });
        assert_eq!(closed(&client.connection).await.0, 3501);
        assert!((1..1000).contains(&opened.await.unwrap()), "bounded");

        // Resetting the stream of the session ends it, and there is never another one.
        let flood = dial(address(&world), &[b"gb6"]).await.unwrap();
        let ended = async {
            let mut opened = 0_u32;
            while let Ok((mut send, mut recv)) = flood.open_bi().await {
                let _ = send.reset(VarInt::from_u32(7));
                let _ = recv.stop(VarInt::from_u32(7));
                opened += 1;
            }
            opened
        };
        let opened = tokio::time::timeout(PATIENCE, ended).await;
        assert_eq!(opened.expect("no end"), 1);

        neighbour
            .say(&[publish(round + 2, "room:1", "\"here\"")])
            .await;
        assert!(neighbour.next().await.publish.is_some());
    }
    eventually("gone", || world.edge.connections() == 1).await;
}

#[tokio::test]
async fn other_protocols_and_early_data_are_refused() {
    let world = World::start(with_quic());
    for protocols in [&[][..], &[&b"gb7"[..]], &[&b"http/1.1"[..]]] {
        let error = dial(address(&world), protocols).await.unwrap_err();
        // No application protocol: RFC 7301 section 3.2, as a code of RFC 9001 section 4.8.
        assert!(error.to_string().contains("120"), "{error}");
    }
    let failed = "gb6_edge_quic_handshakes_total{result=\"failed\"}";
    world.metric_reaches(failed, 3.0).await;
    // A client that comes again has no ticket that would let it send before the handshake is done.
    let endpoint = endpoint(&[b"gb6"]);
    let first = endpoint.connect(address(&world), "localhost").unwrap();
    let mut client = Quic::on(first.await.unwrap()).await;
    client.authenticate(&world.token("a")).await;
    let again = endpoint.connect(address(&world), "localhost").unwrap();
    assert!(again.into_0rtt().is_err(), "early data");
}

#[tokio::test]
async fn who_says_nothing_is_gone_in_time() {
    let mut settings = with_quic();
    settings.header_timeout = Duration::from_millis(300);
    settings.session.connect_timeout_ms = 300;
    settings.session.ping_interval_ms = 1000;
    settings.session.pong_timeout_ms = 300;
    let world = World::start(settings);
    // Without a stream.
    let silent = dial(address(&world), &[b"gb6"]).await.unwrap();
    assert_eq!(closed(&silent).await, (3502, "stale".to_owned()));
    // With a stream and a piece of a command.
    let mut slow = Quic::open(address(&world)).await;
    slow.send.write_all(&[100]).await.unwrap();
    assert_eq!(slow.closed().await, 3502);
    // And later.
    let mut client = Quic::connect(address(&world), &world.token("a")).await;
    assert_eq!(client.closed().await, 3012);
    eventually("gone", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn who_never_reads_is_cut_off() {
    let mut settings = with_quic();
    settings.outbox_bytes = 256 * 1024;
    let world = World::start(settings);
    let mut slow = Quic::connect(address(&world), &world.token("slow")).await;
    slow.say(&[subscribe(2, "room:1")]).await;
    slow.next().await;
    let mut publisher = Quic::connect(address(&world), &world.token("a")).await;
    let data = vec![b'1'; 60_000];
    let mut id = 2;
    while world.metric("gb6_edge_closed_total{code=\"3008\"}") < 1.0 {
        id += 1;
        assert!(id < 500, "never slow");
        publisher.say(&[publish(id, "room:1", data.clone())]).await;
        assert!(publisher.next().await.publish.is_some());
    }
    eventually("cut", || world.edge.connections() == 1).await;
    assert_eq!(closed(&slow.connection).await.0, 3008);
}

#[tokio::test]
async fn a_client_that_changes_its_network_keeps_its_session() {
    let world = World::start(with_quic());
    let endpoint = endpoint(&[b"gb6"]);
    let connecting = endpoint.connect(address(&world), "localhost").unwrap();
    let mut client = Quic::on(connecting.await.unwrap()).await;
    client.authenticate(&world.token("a")).await;
    client.say(&[subscribe(2, "room:1")]).await;
    client.next().await;
    let before = endpoint.local_addr().unwrap();
    let another = std::net::UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.rebind(another).unwrap();
    assert_ne!(endpoint.local_addr().unwrap(), before);
    client.say(&[publish(3, "room:1", "1")]).await;
    assert_eq!(client.push().await.publication.unwrap().offset, 1);
    assert_eq!(world.edge.connections(), 1);
}

/// A way to the server on which nothing comes back: where its packets go out from, and bytes there
/// and back.
async fn one_way(server: SocketAddr) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = counts.clone();
    tokio::spawn(async move {
        let (mut there, mut answer) = ([0; 2048], [0; 2048]);
        loop {
            tokio::select! {
                Ok(n) = front.recv(&mut there) => {
                    counted[0].fetch_add(n, Ordering::Relaxed);
                    let _ = back.send_to(&there[..n], server).await;
                }
                Ok(n) = back.recv(&mut answer) => {
                    counted[1].fetch_add(n, Ordering::Relaxed);
                }
            }
        }
    });
    (address, counts)
}

#[tokio::test]
async fn a_flood_of_handshakes_from_forged_addresses_hurts_nobody() {
    let mut settings = with_quic();
    settings.handshake_timeout = Duration::from_secs(2);
    let world = World::start(settings);
    let (forged, bytes) = one_way(address(&world)).await;
    let flood = endpoint(&[b"gb6"]);
    let retried = "gb6_edge_quic_handshakes_total{result=\"retry\"}";
    let mut forged_ones = Vec::new();
    eventually("many retries", || {
        // A few at a time: more at once would overrun the sockets between.
        for _ in 0..10 {
            forged_ones.push(flood.connect(forged, "localhost").unwrap());
        }
        world.metric(retried) >= 100.0
    })
    .await;
    // Whoever has a real address comes in meanwhile.
    let mut client = Quic::connect(address(&world), &world.token("a")).await;
    client.say(&[subscribe(2, "room:1")]).await;
    assert!(client.next().await.subscribe.is_some());
    // And nobody is sent much that did not ask.
    let [there, back] = [0, 1].map(|i| bytes[i].load(Ordering::Relaxed));
    assert!(back <= 3 * there, "{back} bytes for {there}");
    // What began without a proof ends in time.
    let dropped = "gb6_edge_half_open_dropped_total{why=\"timeout\"}";
    world.metric_reaches(dropped, 64.0).await;
    assert!(world.metric("gb6_edge_half_open") <= 65.0);
}

#[tokio::test]
async fn without_a_free_place_a_client_is_refused() {
    let mut settings = with_quic();
    settings.connections_max = Some(1);
    let world = World::start(settings);
    let held = Quic::connect(address(&world), &world.token("a")).await;
    let error = dial(address(&world), &[b"gb6"]).await.unwrap_err();
    assert!(
        matches!(&error, ConnectionError::ConnectionClosed(close) if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED),
        "{error:?}"
    );
    let refused = "gb6_edge_quic_handshakes_total{result=\"refused\"}";
    assert_eq!(world.metric(refused), 1.0);
    drop(held);
    eventually("free", || world.edge.connections() == 0).await;
    Quic::connect(address(&world), &world.token("a")).await;
}

/// More than quinn's own cost of a connection with small windows, in a debug build.
const BYTES_EACH: usize = 50_000;

#[tokio::test]
async fn an_idle_connection_costs_little() {
    let child = Child::start_quic();
    let mut held = Vec::new();
    let mut add = async |count: usize| {
        for _ in 0..count {
            let mut client = Quic::connect(child.address, &child.token).await;
            client.say(&[subscribe(2, "room:1")]).await;
            assert!(client.next().await.subscribe.is_some());
            held.push(client);
        }
        child.resident()
    };
    let before = add(50).await;
    let each = add(300).await.saturating_sub(before) / 300;
    println!("{each} bytes each");
    assert!(each <= BYTES_EACH, "{each} bytes each");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_come_at_once_all_come_in() {
    let mut settings = with_quic();
    // However slow the machine is: what counts is that a Retry keeps nobody out.
    settings.handshake_timeout = 3 * PATIENCE;
    settings.session.connect_timeout_ms = 30_000;
    let world = World::start(settings);
    let endpoint = endpoint(&[b"gb6"]);
    let (server, token) = (address(&world), world.token("a"));
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (endpoint, token) = (endpoint.clone(), token.clone());
        storm.spawn(async move {
            let connecting = endpoint.connect(server, "localhost").unwrap();
            let mut client = Quic::on(connecting.await.unwrap()).await;
            client.authenticate(&token).await;
            client
        });
    }
    let clients = tokio::time::timeout(6 * PATIENCE, storm.join_all()).await;
    let clients = clients.expect("some never came in");
    assert_eq!(world.edge.sessions(), clients.len());
    let retried = "gb6_edge_quic_handshakes_total{result=\"retry\"}";
    assert!(world.metric(retried) > 0.0);
}

#[tokio::test]
async fn a_backend_is_asked_who_comes_by_quic_without_a_token() {
    let backend = Backend::start(user("alice", json!({"data": {"hi": 1}}))).await;
    let mut config = with_quic();
    config.outbound.reach = Reach::with_loopback();
    let world = World::start_placed(config, connecting(asks(&backend))).unwrap();
    let mut client = Quic::open(world.edge.quic_addr().unwrap()).await;
    client
        .say(&[Command {
            id: 1,
            connect: Some(Box::new(ConnectRequest {
                data: Bytes::from_static(b"\x01\x02"),
                ..ConnectRequest::default()
            })),
            ..Command::default()
        }])
        .await;
    let reply = client.next().await.connect.unwrap();
    assert_eq!(&reply.data[..], b"{\"hi\":1}");
    let asked = backend.asked().remove(0).body;
    assert_eq!(
        asked,
        json!({"client": reply.client, "transport": "quic", "protocol": "protobuf",
               "encoding": "binary", "b64data": "AQI="})
    );
}

#[tokio::test]
async fn in_a_storm_a_client_is_told_to_come_back_later() {
    let mut settings = with_quic();
    settings.connects_per_second = Some(1);
    settings.connect_wait = Duration::ZERO;
    let world = World::start(settings);
    let token = world.token("alice");
    let mut first = Quic::connect(address(&world), &token).await;
    let begin = std::time::Instant::now();
    let storm = "gb6_edge_upgrades_refused_total{why=\"storm\"}";
    // A slow machine may have time for another one in between.
    while world.metric(storm) == 0.0 {
        assert!(begin.elapsed() < PATIENCE);
        let mut next = Quic::open(address(&world)).await;
        // The stream is opened by what is said on it, which may come to a closed door.
        let mut bytes = Vec::new();
        connect(&token).encode_length_delimited(&mut bytes).unwrap();
        let _ = next.send.write_all(&bytes).await;
        tokio::select! {
            told = closed(&next.connection) => {
                assert_eq!(told, (3001, "shutdown".to_owned()));
            }
            read = next.recv.read_chunk(64 * 1024, true) => {
                let served = matches!(read, Ok(Some(_)));
                assert!(served || world.metric(storm) > 0.0);
            }
        }
    }
    // Who is in stays.
    first.say(&[subscribe(2, "room:1")]).await;
    assert!(first.next().await.subscribe.is_some());
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_unless_any_other_will_do() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut settings = with_quic();
    settings.quic = Some(taken.local_addr().unwrap());
    let error = World::try_start(settings.clone())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("can not listen for QUIC"), "{error}");
    settings.quic_elsewhere = true;
    let world = World::start(settings);
    assert_ne!(address(&world), taken.local_addr().unwrap());
    Quic::connect(address(&world), &world.token("alice")).await;
}
