//! Ten thousand connections that never say who they are, and too few files: the others keep
//! working.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::raise_file_limit;
use gb6_tests_harness::client::{Session, Target};
use gb6_tests_harness::process::{DevOptions, DevServer, Metrics, Scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\n";

/// A server that may open so many files; `None`: as many as this process.
async fn dev(scratch: &Scratch, files: Option<u64>) -> DevServer {
    let mut options = DevOptions::new(&scratch.path().join("data"));
    if let Some(files) = files {
        options.wrapper = vec!["prlimit".into(), format!("--nofile={files}:{files}")];
    }
    DevServer::start(options).await.unwrap()
}

fn alice(server: &DevServer) -> Target {
    let token = &server.ready.tokens["alice"];
    Target::new(&server.ready.ws, token, Dialect::Protobuf)
}

/// The slowest of `count` durable publishes.
async fn slowest(session: &Session, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for n in 0..count {
        let start = Instant::now();
        session
            .room_publish("room:crowd", None, &n.to_string())
            .await
            .unwrap();
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

async fn half_open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(HEAD).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_connections_disturb_nobody() {
    raise_file_limit(12_000).unwrap_or_else(|e| panic!("{e}"));
    let scratch = Scratch::new("crowd").unwrap();
    let server = dev(&scratch, None).await;
    let (session, _pushes) = Session::connect(&alice(&server)).await.unwrap();
    slowest(&session, 20).await;
    let before = server.process.resident_bytes().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..10_000 {
        crowd.push(half_open(server.address).await.unwrap());
    }
    let accepted = Metrics::read(server.address).await.unwrap();
    let accepted = accepted.sum("gb6_edge_accepted_total", &[]).unwrap_or(0.0);
    assert!(accepted >= 10_000.0, "only {accepted} were accepted");
    let late = Duration::from_secs(2);
    let mut slow = slowest(&session, 50).await;
    if slow >= late {
        // A crowd that disturbs does so again, a disk that stood still does not.
        println!("a publish took {slow:?}");
        slow = slowest(&session, 50).await;
    }
    assert!(slow < late, "a publish took {slow:?}");
    // And newcomers come in.
    let (newcomer, _pushes) = Session::connect(&alice(&server)).await.unwrap();
    slowest(&newcomer, 1).await;
    assert!(server.is_ready().await);
    let grown = server
        .process
        .resident_bytes()
        .unwrap()
        .saturating_sub(before);
    assert!(
        grown < 256 * 1024 * 1024,
        "{} MiB for 10,000 half-open connections",
        grown >> 20
    );
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_files_does_not_end_the_accept_loop() {
    let scratch = Scratch::new("files").unwrap();
    let server = dev(&scratch, Some(2_000)).await;
    let (session, _pushes) = Session::connect(&alice(&server)).await.unwrap();
    // Below what the edge planned with at its start, so that accept itself fails, and not only the
    // edge's own bound is met.
    let open = server.process.open_files().unwrap() as u64;
    limit_files(server.process.pid(), open + 50);
    let mut crowd = Vec::new();
    for _ in 0..1_000 {
        // Beyond the backlog the kernel itself makes them wait.
        let connecting = tokio::time::timeout(Duration::from_secs(2), half_open(server.address));
        match connecting.await {
            Ok(Ok(stream)) => crowd.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert!(crowd.len() > 400, "{}", crowd.len());
    slowest(&session, 20).await;
    drop(crowd);
    let start = Instant::now();
    let (again, _pushes) = loop {
        match Session::connect(&alice(&server)).await {
            Ok(session) => break session,
            Err(e) => assert!(start.elapsed() < Duration::from_secs(30), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    slowest(&again, 5).await;
    let metrics = Metrics::read(server.address).await.unwrap();
    let failed = metrics.sum("gb6_edge_accept_errors_total", &["kind=\"files\""]);
    assert!(failed >= Some(1.0), "accept never failed");
    // Who had said nothing gave way.
    let dropped = metrics.sum("gb6_edge_half_open_dropped_total", &[]);
    assert!(dropped >= Some(1.0), "nobody gave way");
}

/// Lowers the files that a running process may have open.
fn limit_files(pid: u32, files: u64) {
    let status = std::process::Command::new("prlimit")
        .args([format!("--pid={pid}"), format!("--nofile={files}:{files}")])
        .status()
        .expect("prlimit runs");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_finishes_its_handshake_is_dropped() {
    let scratch = Scratch::new("handshake").unwrap();
    let server = dev(&scratch, None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut begun = half_open(server.address).await.unwrap();
    for stream in [&mut silent, &mut begun] {
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer));
        end.await.expect("the server waits for ever").ok();
    }
    slowest(&Session::connect(&alice(&server)).await.unwrap().0, 1).await;
}
