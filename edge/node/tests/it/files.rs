//! Out of files: the listener waits and goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::child::Child;

const FILES: u64 = 64;

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
    let child = Child::start(Some(FILES));
    let (address, token) = (child.address, child.token.clone());
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
    assert!(child.end());
}
