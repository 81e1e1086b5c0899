//! Out of files: the listener waits and goes on. The limit belongs to a whole process, so the edge
//! runs in a child of this one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::world::{World, config};

const CHILD: &str = "GB6_TEST_EDGE_WITH_FEW_FILES";
const FILES: u64 = 64;

/// The child: an edge in a process with few files. Does nothing where it was not asked for.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let limit = rustix::process::Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut settings = config();
        // No reserve: the edge believes that all files are for clients, so it does run out.
        settings.file_reserve = 0;
        let world = World::start(settings);
        println!("listens on {} {}", world.address, world.token("a"));
        std::io::stdout().flush().unwrap();
        // Ends with the parent.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
}

/// A WebSocket that has shown its token.
fn session(tcp: &mut TcpStream, token: &str) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_millis(500)))?;
    write!(
        tcp,
        "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )?;
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
    tcp.write_all(&crate::client::frame(&connect))?;
    let mut seen = Vec::new();
    while !seen.windows(8).any(|w| w == b"\"client\"") {
        let mut byte = [0];
        if tcp.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        seen.push(byte[0]);
    }
    Ok(())
}

fn ask(tcp: &mut TcpStream, path: &str) -> std::io::Result<String> {
    tcp.set_read_timeout(Some(Duration::from_millis(500)))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut reader = BufReader::new(tcp);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = n.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

#[test]
fn out_of_files_the_listener_goes_on() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["files::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (address, token) = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| {
            let (address, token) = line.split_once("listens on ")?.1.split_once(' ')?;
            let address: SocketAddr = address.parse().unwrap();
            Some((address, token.to_owned()))
        })
        .expect("the child listens");

    let mut scraper = TcpStream::connect(address).unwrap();
    ask(&mut scraper, "/healthz").unwrap();
    // Sessions with a token are nobody's to evict: they use up the files.
    let mut held = Vec::new();
    let mut waiting = Vec::new();
    while waiting.len() < 3 {
        let mut tcp = TcpStream::connect(address).unwrap();
        match session(&mut tcp, &token) {
            Ok(()) => held.push(tcp),
            Err(_) => waiting.push(tcp),
        }
        assert!(held.len() < FILES as usize, "the limit was not reached");
    }
    assert!(held.len() > 20, "only {} were served", held.len());
    // With files free again the listener serves those who waited and those who come.
    held.truncate(held.len() / 2);
    drop(waiting);
    let metrics = (0..50).find_map(|_| {
        let mut tcp = TcpStream::connect(address).unwrap();
        ask(&mut tcp, "/metrics").ok()
    });
    let metrics = metrics.expect("nobody is served any more");
    let count = metrics
        .lines()
        .find_map(|l| l.strip_prefix("gb6_edge_accept_errors_total{kind=\"files\"} "))
        .expect("counted");
    assert!(count.parse::<f64>().unwrap() >= 1.0);
    let mut tcp = TcpStream::connect(address).unwrap();
    session(&mut tcp, &token).unwrap();
    drop(child.stdin.take());
    // The child must be able to say how it ended.
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}
