//! Peers with a good certificate that break the rules, and peers with none: each gets its code,
//! none of them keeps the others out.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::BytesMut;
use gb6_core_mesh::certs::Authority;
use gb6_core_mesh::identity::MESH_DNS_NAME;
use gb6_core_mesh::transport::{HANDSHAKES_MAX, HANDSHAKES_UNPROVEN_MAX};
use gb6_core_mesh::{
    CloseCode, DialError, Endpoint, FailureReason, FrameError, FrameReader, HelloError, Link,
    MeshTls, QueueLimits, RecvError, encode_frame,
};
use gb6_core_model::limits::MESH_FRAME_BYTES_MAX;
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{ALPN, Class, Hello, SnapshotPush, StreamOpen};
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::world::{authority, local, localhost, shard, soon, timing, tls};

/// A region, and the edge e1 as a bare QUIC client that may say anything.
struct Stage {
    authority: Authority,
    region: Endpoint,
    addr: SocketAddr,
    client: quinn::Endpoint,
}

impl Stage {
    fn new() -> Self {
        let authority = authority();
        let region = Endpoint::listen(
            localhost(),
            &tls(&authority, "r1", &[Role::Region]),
            local("r1", &[Role::Region]),
            timing(),
        )
        .unwrap();
        let addr = region.local_addr().unwrap();
        let mut client = quinn::Endpoint::client(localhost()).unwrap();
        client.set_default_client_config(client_config(&tls(&authority, "e1", &[Role::Edge])));
        Self {
            authority,
            region,
            addr,
            client,
        }
    }

    async fn connect(&self) -> quinn::Connection {
        let connecting = self.client.connect(self.addr, MESH_DNS_NAME).unwrap();
        soon(connecting).await.unwrap()
    }

    /// The code with which the region ends a connection on whose first stream `bytes` came.
    async fn code_for(&self, bytes: &[u8], reason: FailureReason) -> CloseCode {
        let before = self.region.stats().accept_failures(reason);
        let connection = self.connect().await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // The region may give up before all was written.
        let _ = send.write_all(bytes).await;
        let code = close_code(&connection).await;
        soon(async {
            while self.region.stats().accept_failures(reason) == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(self.region.stats().accept_failures(reason), before + 1);
        code
    }

    /// A connection whose hello is done, and the region's link.
    async fn hello(&self) -> (quinn::Connection, Link) {
        let connection = self.connect().await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&encoded(&hello())).await.unwrap();
        let answer = read_frame::<Hello>(&mut recv).await;
        assert_eq!(answer.node, "r1");
        let link = soon(self.region.accept()).await.unwrap();
        (connection, link)
    }

    /// An honest node is served.
    async fn honest_edge_is_served(&self) {
        let edge = Endpoint::dial_only(
            localhost(),
            &tls(&self.authority, "e9", &[Role::Edge]),
            local("e9", &[Role::Edge]),
            timing(),
        )
        .unwrap();
        let address = self.addr.to_string();
        let node = NodeId::from("r1");
        let dialled = soon(edge.dial(&node, Some(&address))).await.unwrap();
        let accepted = soon(async {
            loop {
                let link = self.region.accept().await.unwrap();
                if link.peer().node == "e9".into() {
                    return link;
                }
            }
        })
        .await;
        let (opened, there) =
            soon(async { tokio::join!(dialled.open(shard(5)), accepted.accept_stream()) }).await;
        opened.unwrap();
        assert_eq!(there.unwrap().0, shard(5));
    }
}

fn client_config(tls: &MeshTls) -> quinn::ClientConfig {
    quinn::ClientConfig::new(tls.client_config())
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: Vec::new(),
        node: "e1".into(),
        roles: vec!["edge".into()],
        incarnation: 1,
        retry_ms: 0,
    }
}

fn encoded(frame: &impl Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode_frame(frame, frame.encoded_len(), &mut bytes);
    bytes.to_vec()
}

async fn read_frame<M: Message + Default>(recv: &mut quinn::RecvStream) -> M {
    let mut reader = FrameReader::default();
    soon(async {
        loop {
            if let Some(frame) = reader.next_frame().unwrap() {
                return frame;
            }
            let n = recv.read(reader.space()).await.unwrap().unwrap();
            reader.filled(n);
        }
    })
    .await
}

async fn close_code(connection: &quinn::Connection) -> CloseCode {
    match soon(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert!(!close.reason.is_empty());
            CloseCode::from_code(close.error_code.into_inner())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_first_stream_without_a_hello_is_refused() {
    let stage = Stage::new();
    let mut oversized = vec![0xff, 0xff, 0x7f];
    oversized.resize(40_000, b'x');
    let mut nobody = hello();
    nobody.incarnation = 0;
    for garbage in [
        &b"GET /a/path/that/is/long/enough/to/fill/the/promised/frame HTTP/1.1\r\nHost: mesh\r\n\r\n"[..],
        &[0xff; 100],
        &[3, 0x22, 0x01, 0xff],
        &oversized,
        &encoded(&nobody),
    ] {
        let code = stage.code_for(garbage, FailureReason::BadHello).await;
        assert_eq!(code, CloseCode::BadHello);
    }
    // It ends inside the frame.
    let connection = stage.connect().await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&encoded(&hello())[..5]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(close_code(&connection).await, CloseCode::BadHello);
    stage.honest_edge_is_served().await;
}

#[tokio::test]
async fn a_role_beyond_the_certificate_is_refused() {
    let stage = Stage::new();
    let mut claim = hello();
    claim.roles.push("region".into());
    let code = stage.code_for(&encoded(&claim), FailureReason::Role).await;
    assert_eq!(code, CloseCode::Role);
    stage.honest_edge_is_served().await;
}

#[tokio::test]
async fn an_unknown_role_allows_nothing_and_harms_nothing() {
    let stage = Stage::new();
    let connection = stage.connect().await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let mut claim = hello();
    claim.roles = vec!["media".into(), "edge".into(), "edge".into()];
    send.write_all(&encoded(&claim)).await.unwrap();
    let link = soon(stage.region.accept()).await.unwrap();
    assert_eq!(link.peer().roles, [Role::Edge]);
}

#[tokio::test]
async fn another_name_than_the_certificates_is_refused() {
    let stage = Stage::new();
    let mut claim = hello();
    claim.node = "e2".into();
    let code = stage.code_for(&encoded(&claim), FailureReason::Node).await;
    assert_eq!(code, CloseCode::Identity);
    stage.honest_edge_is_served().await;
}

#[tokio::test]
async fn another_version_is_refused() {
    let stage = Stage::new();
    for versions in [(2, 9), (0, 0), (9, 2)] {
        let mut claim = hello();
        (claim.version_min, claim.version_max) = versions;
        let code = stage
            .code_for(&encoded(&claim), FailureReason::Version)
            .await;
        assert_eq!(code, CloseCode::Version, "{versions:?}");
    }
    stage.honest_edge_is_served().await;
}

#[tokio::test]
async fn a_peer_that_never_says_hello_is_given_up() {
    let stage = Stage::new();
    let silent = stage.connect().await;
    let trickling = stage.connect().await;
    let (mut send, _recv) = trickling.open_bi().await.unwrap();
    send.write_all(&encoded(&hello())[..3]).await.unwrap();
    assert_eq!(close_code(&silent).await, CloseCode::HelloTimeout);
    assert_eq!(close_code(&trickling).await, CloseCode::HelloTimeout);
    soon(async {
        while stage.region.stats().accept_failures(FailureReason::Timeout) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stage.honest_edge_is_served().await;
}

/// A listener with a good certificate that never answers, and one that lies.
#[tokio::test]
async fn a_bad_listener_is_given_up() {
    let authority = authority();
    let edge = Endpoint::dial_only(
        localhost(),
        &tls(&authority, "e1", &[Role::Edge]),
        local("e1", &[Role::Edge]),
        timing(),
    )
    .unwrap();
    let config =
        quinn::ServerConfig::with_crypto(tls(&authority, "r1", &[Role::Region]).server_config());
    let listener = quinn::Endpoint::server(config, localhost()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = [
        None,
        Some(vec![0xff; 20]),
        Some(encoded(&Hello {
            node: "r1".into(),
            roles: vec!["region".into(), "geo".into()],
            ..hello()
        })),
    ];
    let serving = tokio::spawn(async move {
        let mut codes = Vec::new();
        for answer in answers {
            let connection = listener.accept().await.unwrap().await.unwrap();
            let (mut send, _recv) = connection.accept_bi().await.unwrap();
            if let Some(answer) = answer {
                send.write_all(&answer).await.unwrap();
            }
            codes.push(close_code(&connection).await);
        }
        codes
    });
    let node = NodeId::from("r1");
    let dial = async || soon(edge.dial(&node, Some(&address))).await.map(|_| ());
    assert_eq!(
        dial().await,
        Err(DialError::Timeout {
            node: "r1".into(),
            after: timing().handshake,
        })
    );
    assert!(matches!(
        dial().await,
        Err(DialError::Hello {
            source: HelloError::NotHello(_),
            ..
        })
    ));
    assert_eq!(
        dial().await,
        Err(DialError::Hello {
            node: "r1".into(),
            source: HelloError::Role {
                node: "r1".into(),
                role: Role::Geo,
            },
        })
    );
    assert_eq!(
        soon(serving).await.unwrap(),
        [
            CloseCode::HelloTimeout,
            CloseCode::BadHello,
            CloseCode::Role
        ]
    );
}

/// Without a certificate, or without the mesh's protocol, nobody gets to say hello.
#[tokio::test]
async fn strangers_do_not_get_past_tls() {
    let mut stage = Stage::new();
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(stage.authority.certificate_pem().as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let stranger = |alpn: &[u8]| {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let config = QuicClientConfig::try_from(config).unwrap();
        quinn::ClientConfig::new(Arc::new(config))
    };
    for (alpn, reason) in [
        (ALPN, FailureReason::Certificate),
        (b"h3", FailureReason::Version),
    ] {
        stage.client.set_default_client_config(stranger(alpn));
        let connecting = stage.client.connect(stage.addr, MESH_DNS_NAME).unwrap();
        // The client may count itself connected before it is judged.
        if let Ok(connection) = soon(connecting).await {
            soon(connection.closed()).await;
        }
        soon(async {
            while stage.region.stats().accept_failures(reason) == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(stage.region.stats().links_up.get(), 0);
    stage.honest_edge_is_served().await;
}

#[tokio::test]
async fn packets_of_garbage_harm_nobody() {
    let stage = Stage::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..2_000u32 {
        let packet: Vec<u8> = (0..(n % 1500)).map(|i| (i * n) as u8).collect();
        let _ = socket.send_to(&packet, stage.addr);
    }
    stage.honest_edge_is_served().await;
}

/// More handshakes than are allowed at once, all of which stop before their hello.
#[tokio::test]
async fn a_flood_of_half_open_connections_keeps_nobody_out() {
    let stage = Stage::new();
    let mut held = Vec::new();
    for n in 0..HANDSHAKES_MAX + 50 {
        held.push(stage.connect().await);
        if n == HANDSHAKES_UNPROVEN_MAX + 10 {
            // From here on an address is proven first.
            stage.honest_edge_is_served().await;
        }
    }
    stage.honest_edge_is_served().await;
    for connection in &held {
        assert_eq!(close_code(connection).await, CloseCode::HelloTimeout);
    }
}

/// Streams that never say what they are for.
#[tokio::test]
async fn half_open_streams_keep_no_other_out() {
    let stage = Stage::new();
    let (connection, link) = stage.hello().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&[50]).await.unwrap();
        held.push((send, recv));
    }
    let (mut garbage, mut garbage_recv) = connection.open_bi().await.unwrap();
    garbage.write_all(&[3, 1, 2, 3]).await.unwrap();
    let (mut purposeless, _recv) = connection.open_bi().await.unwrap();
    purposeless
        .write_all(&encoded(&StreamOpen::default()))
        .await
        .unwrap();
    let (mut good, _good_recv) = connection.open_bi().await.unwrap();
    good.write_all(&encoded(&shard(3))).await.unwrap();
    let (open, _stream) = soon(link.accept_stream()).await.unwrap();
    assert_eq!(open, shard(3));
    let reset = soon(garbage_recv.read(&mut [0; 8])).await;
    assert!(matches!(reset, Err(quinn::ReadError::Reset(_))));
    // In time they are given up, and the link lives on.
    for (_, recv) in &mut held {
        let reset = soon(recv.read(&mut [0; 8])).await;
        assert!(matches!(reset, Err(quinn::ReadError::Reset(_))));
    }
    assert_eq!(stage.region.stats().streams_refused.get(), 202);
    assert_eq!(link.close_reason(), None);
}

#[tokio::test]
async fn broken_frames_end_the_stream_after_the_good_ones() {
    let stage = Stage::new();
    let (connection, link) = stage.hello().await;
    let good = SnapshotPush {
        revision: 4,
        json: Default::default(),
    };
    let too_large = MESH_FRAME_BYTES_MAX as u64 + 1;
    let mut promise = Vec::new();
    prost::encoding::encode_varint(too_large, &mut promise);
    let cases = [
        (
            promise,
            FrameError::TooLarge {
                bytes: too_large,
                limit: MESH_FRAME_BYTES_MAX,
            },
        ),
        (vec![0xff; 9], FrameError::BadPrefix),
        (vec![10, 1, 2], FrameError::Truncated(3)),
    ];
    for (n, (bad, error)) in cases.into_iter().enumerate() {
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // All in one write: the opening, a frame, and what is none.
        let mut bytes = encoded(&shard(1));
        bytes.extend(encoded(&good));
        bytes.extend(bad);
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let (_, stream) = soon(link.accept_stream()).await.unwrap();
        let (tx, mut rx) = stream.split::<SnapshotPush, SnapshotPush>(QueueLimits::default());
        let mut frames = Vec::new();
        assert_eq!(soon(rx.recv_many(&mut frames, 10)).await, Ok(1));
        assert_eq!(frames, std::slice::from_ref(&good));
        for _ in 0..2 {
            assert_eq!(
                soon(rx.recv()).await,
                Err(RecvError::Frame(error.clone())),
                "case {n}"
            );
        }
        assert_eq!(stage.region.stats().frames_bad.get(), n as u64 + 1);
        tx.try_send(Class::Control, good.clone()).unwrap();
    }
    assert_eq!(link.close_reason(), None);
}
