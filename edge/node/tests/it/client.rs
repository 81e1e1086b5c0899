//! A WebSocket client of the tests, and one that writes the bytes itself.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A client that speaks the JSON dialect.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) ws: WebSocketStream<S>,
    waiting: Vec<Value>,
}

impl Client {
    /// A WebSocket to the edge.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(open(address, "", &[]).await.unwrap())
    }

    /// A WebSocket to the edge that is connected with `token`.
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Self {
        let mut client = Self::open(address).await;
        client.authenticate(token).await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on a WebSocket that is there.
    pub(crate) fn over(ws: WebSocketStream<S>) -> Self {
        Self {
            ws,
            waiting: Vec::new(),
        }
    }

    /// Connects with `token`.
    pub(crate) async fn authenticate(&mut self, token: &str) {
        self.send(&json!({"id": 1, "connect": {"token": token}}))
            .await;
        let reply = self.next().await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
    }

    pub(crate) async fn send(&mut self, command: &Value) {
        self.send_text(command.to_string()).await;
    }

    /// One frame with this text.
    pub(crate) async fn send_text(&mut self, text: String) {
        self.ws.send(Message::text(text)).await.unwrap();
    }

    /// The next reply or push that is no ping.
    pub(crate) async fn next(&mut self) -> Value {
        match self.event().await {
            Ok(value) => value,
            Err(close) => panic!("closed: {close:?}"),
        }
    }

    /// The next reply or push, or the close frame.
    pub(crate) async fn event(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(self.waiting.remove(0));
            }
            let message = tokio::time::timeout(PATIENCE, self.ws.next()).await;
            match message.expect("nothing came") {
                Some(Ok(Message::Text(text))) => self.waiting.extend(
                    text.split('\n')
                        .map(|line| serde_json::from_str(line).unwrap())
                        .filter(|v| *v != json!({})),
                ),
                Some(Ok(Message::Close(close))) => return Err(close),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The reply to `command`, skipping pushes.
    pub(crate) async fn call(&mut self, command: Value) -> Value {
        self.send(&command).await;
        loop {
            let reply = self.next().await;
            if reply["id"] == command["id"] {
                return reply;
            }
        }
    }

    /// The code and reason with which the server closes.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.event().await {
                Ok(_) => {}
                Err(Some(close)) => {
                    // Answers the close handshake.
                    let _ = tokio::time::timeout(PATIENCE, self.ws.next()).await;
                    return (close.code.into(), close.reason.to_string());
                }
                Err(None) => panic!("closed without a close frame"),
            }
        }
    }
}

/// A WebSocket with a query and headers of one's own.
pub(crate) async fn open(
    address: SocketAddr,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, tokio_tungstenite::tungstenite::Error> {
    let mut request =
        format!("ws://{address}/connection/websocket{query}").into_client_request()?;
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tokio_tungstenite::client_async(request, tcp).await?.0)
}

/// A connection on which the upgrade has been made by hand.
pub(crate) async fn raw(address: SocketAddr) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    upgrade(&mut tcp, address).await;
    tcp
}

/// Makes the upgrade by hand.
pub(crate) async fn upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    address: SocketAddr,
) {
    let request = format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
}

/// A masked text frame.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let mut out = vec![0x81];
    match text.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    // A mask of zeros leaves the text as it is.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(text.as_bytes());
    out
}

/// The code of the close frame that comes on a raw connection, behind other frames.
pub(crate) async fn close_code(tcp: &mut (impl AsyncRead + Unpin)) -> Option<u16> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, async {
        loop {
            let mut rest = &bytes[..];
            while let [first, len, payload @ ..] = rest {
                let (len, payload) = match (len, payload) {
                    (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
                    (126.., _) => break,
                    (len, rest) => (usize::from(*len), rest),
                };
                if payload.len() < len {
                    break;
                }
                if *first == 0x88 {
                    return Some(u16::from_be_bytes([payload[0], payload[1]]));
                }
                rest = &payload[len..];
            }
            match tcp.read_buf(&mut bytes).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    });
    read.await.expect("no close frame came")
}

/// One HTTP request on a connection of its own: status, headers, body.
pub(crate) async fn http(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer))
        .await
        .expect("no answer came")
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    (
        status.unwrap_or(0),
        head.to_ascii_lowercase(),
        body.to_owned(),
    )
}

/// One HTTP request on a connection of its own: status and headers of the answer, whatever follows.
pub(crate) async fn answered(address: SocketAddr, request: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.expect("a head"));
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("no answer came");
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    (status.unwrap_or(0), head)
}

/// The status of the answer to one HTTP request, 0 where the connection ended without one: a server
/// that closes before it has read everything may take its answer back.
pub(crate) async fn http_or_reset(address: SocketAddr, request: &str) -> u16 {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let _ = tcp.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer))
        .await
        .expect("the connection ends");
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    status.unwrap_or(0)
}
