//! HTTP streaming and event streams: replies come in an answer without an end, commands go by
//! requests to `/emulation`, of which one is under way at a time, so that they keep their order.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use gb6_core_wire::client::{Command, Dialect, EmulationRequest};
use prost::Message as _;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::framing::{ended, replies_of, take_delimited};
use super::{ClientError, Incoming, encode_commands};

/// The head of an answer in bytes at most.
const HEAD_MAX: usize = 16 * 1024;

/// A stream of replies, and the way back.
#[derive(Debug)]
pub(super) struct StreamWire {
    address: String,
    path: String,
    /// The edge that takes commands, by the address of its clients: any does.
    back: String,
    dialect: Dialect,
    patience: Duration,
    /// The open answer; `None`: nothing was said yet.
    answer: Option<TcpStream>,
    read: BytesMut,
    /// The session and its node, as the connect reply names them.
    session: (String, String),
}

impl StreamWire {
    /// The stream at `path` of the edge at `address`; it opens with the first commands.
    pub(super) fn new(
        address: &str,
        path: &str,
        back: &str,
        dialect: Dialect,
        patience: Duration,
    ) -> Self {
        Self {
            address: address.to_owned(),
            path: path.to_owned(),
            back: back.to_owned(),
            dialect,
            patience,
            answer: None,
            read: BytesMut::new(),
            session: Default::default(),
        }
    }

    fn is_events(&self) -> bool {
        self.path.ends_with("/sse")
    }

    /// Sends commands: the first ones open the stream.
    pub(super) async fn send(&mut self, commands: &[Command]) -> Result<(), ClientError> {
        let commands = encode_commands(self.dialect, commands);
        let (patience, url) = (self.patience, format!("{}{}", self.address, self.path));
        let done = async {
            match self.answer {
                None => self.open(&commands).await,
                Some(_) => self.emulate(commands).await,
            }
        };
        match tokio::time::timeout(patience, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(ClientError::Connect { url, reason }),
            Err(_) => Err(ClientError::Late {
                what: url,
                patience,
            }),
        }
    }

    async fn open(&mut self, commands: &[u8]) -> Result<(), String> {
        let (path, host) = (&self.path, &self.address);
        let request = match self.is_events() {
            // As an EventSource does.
            true => {
                let query: String = form_urlencoded::byte_serialize(commands).collect();
                format!("GET {path}?cf_connect={query} HTTP/1.1\r\nHost: {host}\r\n\r\n")
                    .into_bytes()
            }
            false => post(path, host, self.dialect, commands),
        };
        let mut answer = connect(host, &request).await?;
        let (status, rest) = read_head(&mut answer).await?;
        if status != 200 {
            return Err(format!("it answers {status}"));
        }
        (self.answer, self.read) = (Some(answer), rest);
        Ok(())
    }

    async fn emulate(&self, commands: Vec<u8>) -> Result<(), String> {
        let (session, node) = self.session.clone();
        let body = match self.dialect {
            Dialect::Json => {
                let data = String::from_utf8_lossy(&commands);
                json!({"session": session, "node": node, "data": data})
                    .to_string()
                    .into_bytes()
            }
            Dialect::Protobuf => EmulationRequest {
                session,
                node,
                data: commands.into(),
            }
            .encode_to_vec(),
        };
        let request = post("/emulation", &self.back, self.dialect, &body);
        let mut answer = connect(&self.back, &request).await?;
        match read_head(&mut answer).await?.0 {
            204 => Ok(()),
            status => Err(format!("/emulation answers {status}")),
        }
    }

    /// The replies that come next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            if let Some(replies) = self.take() {
                let incoming = replies_of(self.dialect, replies)?;
                if let Incoming::Replies(replies) = &incoming
                    && let Some(begun) = replies.iter().find_map(|r| r.connect.as_ref())
                {
                    self.session = (begun.session.clone(), begun.node.clone());
                }
                return Ok(incoming);
            }
            let Some(answer) = &mut self.answer else {
                return Ok(ended("nothing was said"));
            };
            match answer.read_buf(&mut self.read).await {
                Ok(0) => return Ok(ended("the answer has ended")),
                Ok(_) => {}
                Err(error) => return Ok(ended(&error.to_string())),
            }
        }
    }

    /// The bytes of the next replies, if all of them have come.
    fn take(&mut self) -> Option<Bytes> {
        if self.dialect == Dialect::Protobuf {
            return take_delimited(&mut self.read);
        }
        let end: &[u8] = if self.is_events() { b"\n\n" } else { b"\n" };
        let at = self.read.windows(end.len()).position(|w| w == end)?;
        let line = self.read.split_to(at).freeze();
        self.read.advance(end.len());
        if !self.is_events() {
            return Some(line);
        }
        // An event without data keeps the connection open and says nothing.
        let data = line.strip_prefix(b"data: ").map(<[u8]>::len).unwrap_or(0);
        Some(line.slice(line.len() - data..))
    }
}

async fn connect(address: &str, request: &[u8]) -> Result<TcpStream, String> {
    let mut tcp = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let _ = tcp.set_nodelay(true);
    tcp.write_all(request).await.map_err(|e| e.to_string())?;
    Ok(tcp)
}

fn post(path: &str, host: &str, dialect: Dialect, body: &[u8]) -> Vec<u8> {
    let content_type = match dialect {
        Dialect::Json => "application/json",
        Dialect::Protobuf => "application/octet-stream",
    };
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// The status of an answer, and what came behind its head.
async fn read_head(tcp: &mut TcpStream) -> Result<(u16, BytesMut), String> {
    let mut read = BytesMut::new();
    loop {
        if let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = read.split_to(at + 4);
            let status = head.get(9..12).and_then(|s| std::str::from_utf8(s).ok());
            let status = status.and_then(|s| s.parse().ok());
            return Ok((status.ok_or("no HTTP status")?, read));
        }
        if read.len() > HEAD_MAX {
            return Err("the head of the answer is too long".into());
        }
        match tcp.read_buf(&mut read).await {
            Ok(0) => return Err("no answer".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(path: &str, dialect: Dialect, read: &[u8]) -> StreamWire {
        let mut wire = StreamWire::new("h", path, "h", dialect, Duration::ZERO);
        wire.read = BytesMut::from(read);
        wire
    }

    #[test]
    fn replies_are_cut_where_they_end() {
        let mut events = wire(
            "/x/sse",
            Dialect::Json,
            b"data: {\"id\":1}\n\ndata: {}\n\nda",
        );
        assert_eq!(events.take().unwrap(), "{\"id\":1}");
        assert_eq!(events.take().unwrap(), "{}");
        assert_eq!(events.take(), None);
        let mut lines = wire("/x/http_stream", Dialect::Json, b"{\"id\":1}\n{}\n{");
        assert_eq!(lines.take().unwrap(), "{\"id\":1}");
        assert_eq!(lines.take().unwrap(), "{}");
        assert_eq!(lines.take(), None);
        let mut octets = wire("/x/http_stream", Dialect::Protobuf, &[2, 8, 1, 0, 3, 8]);
        assert_eq!(octets.take().unwrap(), &[2, 8, 1][..]);
        assert_eq!(octets.take().unwrap(), &[0][..]);
        assert_eq!(octets.take(), None);
    }
}
