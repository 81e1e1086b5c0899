//! The fault proxy in front of an echo server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gb6_tests_harness::proxy::{FaultProxy, Mode, UdpMode, UdpProxy, obey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(10);
/// How long nothing must arrive for a test to say that nothing arrives.
const SILENCE: Duration = Duration::from_millis(300);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn round_trip(stream: &mut TcpStream, data: &[u8]) -> Vec<u8> {
    stream.write_all(data).await.unwrap();
    let mut back = vec![0; data.len()];
    timeout(LONG, stream.read_exact(&mut back))
        .await
        .expect("an answer")
        .unwrap();
    back
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0; 16])).await.is_err()
}

async fn has_ended(stream: &mut TcpStream) -> bool {
    let end = timeout(LONG, stream.read(&mut [0; 16])).await.unwrap();
    matches!(end, Ok(0) | Err(_))
}

#[tokio::test]
async fn passes_and_passes_the_end_on() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut stream, b"hello").await, b"hello");
    let big = vec![7; 300_000];
    let (mut from, mut to) = stream.split();
    let mut back = vec![0; big.len()];
    let (_, read) = tokio::join!(to.write_all(&big), from.read_exact(&mut back));
    read.unwrap();
    assert_eq!(back, big);
    stream.shutdown().await.unwrap();
    assert!(has_ended(&mut stream).await);
    assert_eq!(proxy.stats().accepted, 1);
    assert_eq!(proxy.stats().passed, 2 * (5 + 300_000));
}

#[tokio::test]
async fn swallows_without_closing_and_only_new_connections_recover() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut old, b"hello").await;
    proxy.set(Mode::BlackHole);
    old.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut old).await);
    let mut born_dark = TcpStream::connect(proxy.address()).await.unwrap();
    born_dark.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut born_dark).await);
    assert_eq!(proxy.stats().swallowed, 8);

    proxy.set(Mode::Pass);
    old.write_all(b"still lost").await.unwrap();
    assert!(is_silent(&mut old).await);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut new, b"back").await, b"back");

    proxy.close_all();
    assert!(has_ended(&mut old).await && has_ended(&mut born_dark).await);
    assert!(has_ended(&mut new).await);
}

/// A connection of another process, which sends a line and waits for the echo.
async fn another_is_answered(proxy: &FaultProxy) -> bool {
    let address = proxy.address();
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; echo hello >&3; read -t 0.5 line <&3 && test \"$line\" = hello",
        address.ip(),
        address.port()
    );
    let mut bash = tokio::process::Command::new("bash");
    let status = bash.args(["-c", &script]).status();
    timeout(LONG, status).await.unwrap().unwrap().success()
}

#[tokio::test]
async fn one_process_is_cut_off_and_others_are_not() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let own = std::process::id();
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut old, b"hello").await;

    proxy.set_each(Mode::Pass, &[(own, Mode::BlackHole)]);
    old.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut old).await);
    let mut born_dark = TcpStream::connect(proxy.address()).await.unwrap();
    born_dark.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut born_dark).await);
    assert!(another_is_answered(&proxy).await);

    proxy.set_each(Mode::BlackHole, &[(own, Mode::Pass)]);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut new, b"back").await, b"back");
    assert!(!another_is_answered(&proxy).await);

    proxy.set(Mode::Pass);
    // Process 1 has no connection here.
    proxy.close_of(1);
    assert_eq!(round_trip(&mut new, b"on").await, b"on");
    assert!(another_is_answered(&proxy).await);
    proxy.close_of(own);
    assert!(has_ended(&mut old).await && has_ended(&mut new).await);
    let mut newest = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut newest, b"open").await, b"open");
}

#[tokio::test]
async fn delays_and_throttles() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(120)));
    let start = Instant::now();
    assert_eq!(round_trip(&mut stream, b"slow").await, b"slow");
    assert!(start.elapsed() >= Duration::from_millis(240), "both ways");

    proxy.set(Mode::Throttle(40_000));
    let start = Instant::now();
    let big = vec![1; 40_000];
    let (mut from, mut to) = stream.split();
    let mut back = vec![0; big.len()];
    let (_, read) = tokio::join!(to.write_all(&big), from.read_exact(&mut back));
    read.unwrap();
    // The last piece is not waited for; with three of them that leaves more than half.
    assert!(start.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn refuses_new_connections_and_changes_the_target() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut old, b"hello").await;
    proxy.set(Mode::Refuse);
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(has_ended(&mut refused).await);
    assert_eq!(round_trip(&mut old, b"old").await, b"old");
    proxy.set(Mode::Pass);
    proxy.set_target(echo().await);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut new, b"new").await, b"new");
}

#[tokio::test]
async fn obeys_lines() {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    for line in [
        "delay 1",
        "throttle 1000000",
        "blackhole",
        "refuse",
        "close",
        "pass",
    ] {
        assert_eq!(obey(&proxy, line), Ok(Some("ok".to_owned())), "{line}");
    }
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, b"hello").await;
    assert_eq!(obey(&proxy, "quit"), Ok(None));
    let stats = obey(&proxy, "stats").unwrap().unwrap();
    assert!(stats.contains("\"open\":1"), "{stats}");
    for line in ["delay", "throttle x", "target nowhere", "explode", ""] {
        assert!(obey(&proxy, line).is_err(), "{line}");
    }
}

#[tokio::test]
async fn packets_pass_are_lost_and_doubled_and_each_peer_gets_its_own_answers() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let proxy = UdpProxy::start(1).await.unwrap();
    proxy.set_target(server.local_addr().unwrap());
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let mut packet = [0; 16];
    for (peer, word) in [(&one, b"one"), (&two, b"two")] {
        peer.send_to(word, proxy.address()).await.unwrap();
        let (_, from) = server.recv_from(&mut packet).await.unwrap();
        server.send_to(word, from).await.unwrap();
        let (n, _) = peer.recv_from(&mut packet).await.unwrap();
        assert_eq!(&packet[..n], word);
    }
    assert_eq!(proxy.stats().accepted, 2);

    proxy.set(UdpMode::BlackHole);
    one.send_to(b"lost", proxy.address()).await.unwrap();
    while proxy.stats().swallowed == 0 {
        tokio::task::yield_now().await;
    }
    proxy.set(UdpMode::Rough {
        loss: 0.0,
        double: 1.0,
        delay: Duration::from_millis(5),
    });
    one.send_to(b"again", proxy.address()).await.unwrap();
    for _ in 0..2 {
        let (n, _) = server.recv_from(&mut packet).await.unwrap();
        assert_eq!(&packet[..n], b"again");
    }
    proxy.set(UdpMode::Rough {
        loss: 1.0,
        double: 0.0,
        delay: Duration::ZERO,
    });
    two.send_to(b"lost too", proxy.address()).await.unwrap();
    while proxy.stats().swallowed == 1 {
        tokio::task::yield_now().await;
    }
}
