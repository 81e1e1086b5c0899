//! The client's side of an answer that does not end.

use std::net::SocketAddr;

use gb6_core_wire::client::{Dialect, Reply, decode_replies};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{PATIENCE, http};

/// An open answer.
pub(crate) struct Body {
    pub(crate) tcp: TcpStream,
    /// In small letters.
    pub(crate) head: String,
    buffer: Vec<u8>,
}

/// A POST with a body.
pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A GET of an event stream with `cf_connect`.
pub(crate) fn events(path: &str, connect: &str) -> Vec<u8> {
    let query: String = form_urlencoded::byte_serialize(connect.as_bytes()).collect();
    format!("GET {path}?cf_connect={query} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

impl Body {
    /// Sends a request and reads the head of the answer.
    pub(crate) async fn open(address: SocketAddr, request: &[u8]) -> Self {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request).await.unwrap();
        let mut body = Self {
            tcp,
            head: String::new(),
            buffer: Vec::new(),
        };
        let head = body.until(b"\r\n\r\n").await.expect("a head");
        body.head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(
            body.head.starts_with("http/1.1 200 ok\r\n"),
            "{}",
            body.head
        );
        body
    }

    /// What comes before `end`; `None`: the answer ended.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                let rest = self.buffer.split_off(at + end.len());
                let mut found = std::mem::replace(&mut self.buffer, rest);
                found.truncate(at);
                return Some(found);
            }
            let read = self.tcp.read_buf(&mut self.buffer);
            match tokio::time::timeout(PATIENCE, read).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return None,
                Err(_) => panic!("nothing came; {} bytes wait", self.buffer.len()),
            }
        }
    }

    /// The next line; `None`: the answer ended.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let line = self.until(b"\n").await?;
        Some(serde_json::from_slice(&line).unwrap())
    }

    /// The next event, which has one line of data and nothing else; `None`: the answer ended.
    pub(crate) async fn event(&mut self) -> Option<Value> {
        let event = self.until(b"\n\n").await?;
        let data = event.strip_prefix(b"data: ").expect("data");
        assert!(!data.contains(&b'\n') && !data.contains(&b'\r'));
        Some(serde_json::from_slice(data).unwrap())
    }

    /// The next Protobuf message with its length; `None`: the answer ended.
    pub(crate) async fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut rest = &self.buffer[..];
            if let Ok(length) = prost::encoding::decode_varint(&mut rest) {
                let whole = self.buffer.len() - rest.len() + length as usize;
                if whole <= self.buffer.len() {
                    let rest = self.buffer.split_off(whole);
                    return Some(std::mem::replace(&mut self.buffer, rest));
                }
            }
            let read = self.tcp.read_buf(&mut self.buffer);
            match tokio::time::timeout(PATIENCE, read).await.expect("bytes") {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    /// The next Protobuf reply.
    pub(crate) async fn reply(&mut self) -> Reply {
        let message = self.message().await.expect("a reply");
        decode_replies(Dialect::Protobuf, message.into())
            .unwrap()
            .remove(0)
    }

    /// Everything up to the end of the answer.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.buffer);
        // A connection that is cut has an end too.
        let read = self.tcp.read_to_end(&mut all);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end");
        all
    }
}

/// Sends commands for a session; the status of the answer.
pub(crate) async fn emulate(address: SocketAddr, connect: &Value, commands: &[Value]) -> u16 {
    let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
    let body = json!({
        "session": connect["session"], "node": connect["node"], "data": lines.join("\n")
    });
    let request = post(
        "/emulation",
        "Connection: close\r\n",
        body.to_string().as_bytes(),
    );
    http(address, std::str::from_utf8(&request).unwrap())
        .await
        .0
}
