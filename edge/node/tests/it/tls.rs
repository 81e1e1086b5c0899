//! TLS below the listener: what a client sees of it, what bad ones get, and certificates that change.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gb6_edge_node::{CertificateSource, EdgeConfig, SelfMade};
use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::child::Child;
use crate::client::{Client, PATIENCE, close_code, frame, upgrade};
use crate::world::{World, config, eventually};

/// A client's view of certificates: any will do, signatures are checked.
#[derive(Debug)]
pub(crate) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client's settings.
pub(crate) fn trusting(
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    config
}

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A TLS connection to the edge.
async fn tls(
    address: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(trusting(versions, protocols)));
    let name = ServerName::try_from("localhost").unwrap();
    tokio::time::timeout(PATIENCE, connector.connect(name, tcp)).await?
}

/// A certificate of one's own that the edge makes.
pub(crate) fn self_made() -> CertificateSource {
    CertificateSource::SelfMade(SelfMade::new(&[IpAddr::from([127, 0, 0, 1])]))
}

/// An edge that speaks TLS.
pub(crate) fn with_tls() -> EdgeConfig {
    let mut config = config();
    config.tls = true;
    config.certificate = Some(self_made());
    config.certificate_check = Duration::from_millis(20);
    config
}

async fn client(world: &World) -> Client<TlsStream<TcpStream>> {
    let stream = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    let request = format!("wss://{}/connection/websocket", world.address);
    let ws = tokio_tungstenite::client_async(request, stream).await;
    let mut client = Client::over(ws.unwrap().0);
    client.authenticate(&world.token("a")).await;
    client
}

fn sha256_of(stream: &TlsStream<TcpStream>) -> [u8; 32] {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    let digest = digest::digest(&digest::SHA256, certificates[0].as_ref());
    digest.as_ref().try_into().unwrap()
}

#[tokio::test]
async fn a_websocket_over_tls_is_one() {
    let world = World::start(with_tls());
    let mut client = client(&world).await;
    let channel = json!({"channel": "room:1"});
    client.call(json!({"id": 2, "subscribe": channel})).await;
    // More than fits one TLS record, in both directions.
    let data = "x".repeat(60_000);
    for id in 3..13 {
        let publish = json!({"channel": "room:1", "data": data});
        client.send(&json!({"id": id, "publish": publish})).await;
    }
    let mut pushes = 0;
    while pushes < 10 {
        let reply = client.next().await;
        assert!(reply["error"].is_null(), "{reply}");
        if reply["push"]["pub"]["data"] == json!(data) {
            pushes += 1;
        }
    }
    assert_eq!(
        world.metric("gb6_edge_tls_handshakes_total{result=\"done\"}"),
        1.0
    );
    let closing = tokio::spawn(world.edge.drain());
    assert_eq!(client.closed().await.0, 3001);
    closing.await.unwrap();
}

#[tokio::test]
async fn pages_and_health_over_tls_end_as_tls_does() {
    let world = World::start(with_tls());
    let mut stream = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Fails where the connection ends without saying so.
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn older_versions_and_other_protocols_are_refused() {
    let world = World::start(with_tls());
    let old = tls(world.address, &[&rustls::version::TLS12], &[b"http/1.1"]).await;
    assert!(
        old.is_err_and(|e| e.to_string().contains("ProtocolVersion")),
        "TLS 1.2"
    );
    let other = tls(world.address, TLS13, &[b"h2"]).await;
    assert!(
        other.is_err_and(|e| e.to_string().contains("NoApplicationProtocol")),
        "h2"
    );
    // None is HTTP/1.1.
    assert!(tls(world.address, TLS13, &[]).await.is_ok());
    let failed = "gb6_edge_tls_handshakes_total{result=\"failed\"}";
    world.metric_reaches(failed, 2.0).await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so_or_cut_off() {
    let world = World::start(with_tls());
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", world.address);
    let (status, _, body) = crate::client::http(world.address, &request).await;
    assert_eq!(status, 400);
    assert!(body.contains("https"), "{body}");
    let mut tcp = TcpStream::connect(world.address).await.unwrap();
    tcp.write_all(b"\x00\x01").await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut rest)).await;
    assert!(end.is_ok() && rest.is_empty(), "{rest:?}");
    for (result, count) in [("plain", 1.0), ("failed", 1.0), ("done", 0.0)] {
        let name = format!("gb6_edge_tls_handshakes_total{{result=\"{result}\"}}");
        assert_eq!(world.metric(&name), count, "{name}");
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_dropped_in_time() {
    let mut settings = with_tls();
    settings.handshake_timeout = Duration::from_millis(300);
    let world = World::start(settings);
    // Nothing at all, and the head of a record with nothing behind it.
    let _silent = TcpStream::connect(world.address).await.unwrap();
    let mut begun = TcpStream::connect(world.address).await.unwrap();
    begun.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let dropped = "gb6_edge_half_open_dropped_total{why=\"timeout\"}";
    world.metric_reaches(dropped, 2.0).await;
    eventually("gone", || world.edge.connections() == 0).await;
    // One that is done has the time of a request from then on.
    let idle = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(world.edge.connections(), 1);
    drop(idle);
}

#[tokio::test]
async fn requests_that_never_end_and_records_that_are_none() {
    let mut settings = with_tls();
    settings.header_timeout = Duration::from_millis(300);
    let world = World::start(settings);
    let mut slow = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo")
        .await
        .unwrap();
    eventually("dropped", || world.edge.connections() == 0).await;
    // Below the TLS of a session: bytes that nobody encrypted end it, and it alone.
    let mut other = client(&world).await;
    let mut broken = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    upgrade(&mut broken, world.address).await;
    let record = [
        23, 3, 3, 0, 20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
    ];
    broken.get_mut().0.write_all(&record).await.unwrap();
    eventually("gone", || world.edge.connections() == 1).await;
    let channel = json!({"channel": "room:1"});
    let reply = other.call(json!({"id": 2, "subscribe": channel})).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
}

#[tokio::test]
async fn who_never_reads_is_cut_off_over_tls_too() {
    let mut settings = with_tls();
    settings.outbox_bytes = 256 * 1024;
    let world = World::start(settings);
    let mut slow = client(&world).await;
    let channel = json!({"channel": "room:1"});
    slow.call(json!({"id": 2, "subscribe": channel})).await;
    let mut publisher = client(&world).await;
    let data = "x".repeat(60_000);
    let mut id = 2;
    while world.metric("gb6_edge_closed_total{code=\"3008\"}") < 1.0 {
        id += 1;
        assert!(id < 500, "never slow");
        let publish = json!({"channel": "room:1", "data": data});
        let reply = publisher.call(json!({"id": id, "publish": publish})).await;
        assert!(reply["error"].is_null(), "{reply}");
    }
    eventually("cut", || world.edge.connections() == 1).await;
}

/// A new certificate in `dir` that is valid for `days` from now, or was until so long ago.
fn write_pair(dir: &Path, days: i64) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let day = Duration::from_secs(86_400);
    let now =
        rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    params.not_before = now - 10 * day;
    params.not_after = params.not_before + day * u32::try_from(10 + days).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
}

#[tokio::test]
async fn changed_files_are_used_when_they_are_good() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), 1);
    let mut settings = with_tls();
    settings.certificate = Some(CertificateSource::Files {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    });
    let world = World::start(settings);
    let shown = || world.edge.certificate_sha256().unwrap();
    let seen = async || {
        let stream = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
        sha256_of(&stream)
    };
    let mut early = client(&world).await;
    let first = shown();
    assert_eq!(seen().await, first);

    write_pair(dir.path(), 1);
    eventually("renewed", || shown() != first).await;
    let second = shown();
    assert_eq!(seen().await, second);

    // An expired one, a key of another certificate, no certificate, no file: the last good stays.
    let refused = "gb6_edge_certificate_loads_total{result=\"refused\"}";
    write_pair(dir.path(), -1);
    world.metric_reaches(refused, 1.0).await;
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(dir.path().join("key.pem"), other).unwrap();
    world.metric_reaches(refused, 2.0).await;
    std::fs::write(dir.path().join("cert.pem"), "nothing").unwrap();
    world.metric_reaches(refused, 3.0).await;
    std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
    world.metric_reaches(refused, 4.0).await;
    assert_eq!(seen().await, second);
    assert!(world.metric("gb6_edge_certificate_expires_seconds") > 1.7e9);

    // And who was there all the time noticed nothing.
    let channel = json!({"channel": "room:1"});
    let reply = early.call(json!({"id": 2, "subscribe": channel})).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    write_pair(dir.path(), 1);
    eventually("renewed again", || shown() != second).await;
}

#[tokio::test]
async fn an_edge_does_not_start_with_a_bad_certificate() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), -1);
    let mut settings = with_tls();
    settings.certificate = Some(CertificateSource::Files {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    });
    let error = World::try_start(settings.clone()).err().unwrap();
    assert!(error.to_string().contains("renew it"), "{error}");
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    let error = World::try_start(settings.clone()).err().unwrap();
    assert!(error.to_string().contains("key.pem"), "{error}");
    settings.certificate = None;
    let error = World::try_start(settings).err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_self_made_certificate_is_renewed_while_it_runs() {
    let mut made = SelfMade::new(&[]);
    made.renewed_after = Duration::from_millis(200);
    let mut settings = with_tls();
    settings.certificate = Some(CertificateSource::SelfMade(made));
    let world = World::start(settings);
    let first = world.edge.certificate_sha256();
    eventually("renewed", || world.edge.certificate_sha256() != first).await;
    assert!(tls(world.address, TLS13, &[]).await.is_ok());
}

/// The goal for an idle WebSocket over TLS, in a release build; a debug build with another
/// allocator must keep it too.
const BYTES_EACH: usize = 20_000;

#[tokio::test]
async fn an_idle_connection_over_tls_costs_little() {
    let child = Child::start_tls();
    let subscribed = async || {
        let mut stream = tls(child.address, TLS13, &[b"http/1.1"]).await.unwrap();
        upgrade(&mut stream, child.address).await;
        let lines = [
            json!({"connect": {"token": child.token}, "id": 1}).to_string(),
            json!({"subscribe": {"channel": "room:1"}, "id": 2}).to_string(),
        ];
        stream.write_all(&frame(&lines.join("\n"))).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(11).any(|w| w == b"\"subscribe\"") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "closed");
        }
        stream
    };
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(subscribed().await);
    }
    let before = child.resident();
    for _ in 0..1000 {
        held.push(subscribed().await);
    }
    let each = (child.resident().saturating_sub(before)) / 1000;
    println!("{each} bytes each");
    assert!(each <= BYTES_EACH, "{each} bytes each");
}

#[tokio::test]
async fn a_frame_that_is_none_is_closed_with_its_code_over_tls() {
    let world = World::start(with_tls());
    let mut stream = tls(world.address, TLS13, &[b"http/1.1"]).await.unwrap();
    upgrade(&mut stream, world.address).await;
    stream.write_all(&[0x81, 1, b'x']).await.unwrap();
    assert_eq!(close_code(&mut stream).await, Some(1002));
}
