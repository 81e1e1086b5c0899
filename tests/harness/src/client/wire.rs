//! One WebSocket: frames of commands out, frames of replies in, and nothing else by itself.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gb6_core_wire::client::{Command, Dialect, Reply, decode_replies};
use http::{HeaderValue, Request, Uri, header};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::{ClientError, encode_commands};

/// What a server sends.
#[derive(Clone, PartialEq, Debug)]
pub enum Incoming {
    /// The replies of one frame.
    Replies(Vec<Reply>),
    /// The end of the connection.
    Closed {
        /// The code of the close frame; 1006: there was none.
        code: u16,
        /// The words in it.
        reason: String,
    },
}

/// A WebSocket to a server.
#[derive(Debug)]
pub struct Wire {
    stream: WebSocketStream<TcpStream>,
    dialect: Dialect,
}

impl Wire {
    /// Connects, offers the dialect's subprotocol and requires that it is chosen.
    ///
    /// # Errors
    /// There is no such server, or it refuses.
    pub async fn open(
        url: &str,
        dialect: Dialect,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        Self::open_with(url, dialect, patience, &[]).await
    }

    /// As [`Wire::open`], with further headers such as `origin`.
    ///
    /// # Errors
    /// There is no such server, or it refuses.
    pub async fn open_with(
        url: &str,
        dialect: Dialect,
        patience: Duration,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, ClientError> {
        let fail = |reason: String| ClientError::Connect {
            url: url.to_owned(),
            reason,
        };
        let uri: Uri = url.parse().map_err(|e| fail(format!("no address: {e}")))?;
        let authority = uri.authority().map(|a| a.as_str().to_owned());
        let authority = authority.ok_or_else(|| fail("no host".into()))?;
        let mut request = Request::builder()
            .uri(uri)
            .header(header::HOST, &authority)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, dialect.subprotocol())
            .body(())
            .map_err(|e| fail(e.to_string()))?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|e| fail(e.to_string()))?;
            request.headers_mut().insert(*name, value);
        }
        let handshake = async {
            let tcp = TcpStream::connect(&authority)
                .await
                .map_err(|e| fail(e.to_string()))?;
            let _ = tcp.set_nodelay(true);
            tokio_tungstenite::client_async(request, tcp)
                .await
                .map_err(|e| fail(e.to_string()))
        };
        match tokio::time::timeout(patience, handshake).await {
            Ok(result) => result.map(|(stream, _)| Wire { stream, dialect }),
            Err(_) => Err(fail(format!("no answer within {patience:?}"))),
        }
    }

    /// The dialect of its frames.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Sends commands in one frame.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, commands: &[Command]) -> Result<(), ClientError> {
        let frame = encode_commands(self.dialect, commands);
        let message = match self.dialect {
            Dialect::Protobuf => Message::Binary(frame.into()),
            Dialect::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
        };
        self.send_message(message).await
    }

    /// Sends any message, also one that no client should send.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send_message(&mut self, message: Message) -> Result<(), ClientError> {
        self.stream.send(message).await.map_err(|e| closed(&e))
    }

    /// The next frame. Pings of the server are among the replies; answering them is the caller's.
    ///
    /// # Errors
    /// A frame breaks the protocol.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            let bytes: Bytes = match self.stream.next().await {
                Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Ok(Incoming::Closed {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    });
                }
                Some(Ok(Message::Close(None))) | None => {
                    return Ok(Incoming::Closed {
                        code: 1005,
                        reason: String::new(),
                    });
                }
                Some(Ok(_)) => continue,
                Some(Err(e)) => {
                    return Ok(Incoming::Closed {
                        code: 1006,
                        reason: e.to_string(),
                    });
                }
            };
            return Ok(Incoming::Replies(decode_replies(self.dialect, bytes)?));
        }
    }

    /// As [`Wire::next`], with a deadline.
    ///
    /// # Errors
    /// Nothing comes in time, or a frame breaks the protocol.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Incoming, ClientError> {
        match tokio::time::timeout(patience, self.next()).await {
            Ok(incoming) => incoming,
            Err(_) => Err(ClientError::Late {
                what: "anything".into(),
                patience,
            }),
        }
    }

    /// Reads on until the server closes, and returns the code and the words.
    ///
    /// # Errors
    /// It does not close in time.
    pub async fn until_closed(&mut self, patience: Duration) -> Result<(u16, String), ClientError> {
        let end = tokio::time::timeout(patience, async {
            loop {
                if let Ok(Incoming::Closed { code, reason }) = self.next().await {
                    return (code, reason);
                }
            }
        });
        end.await.map_err(|_| ClientError::Late {
            what: "a close frame".into(),
            patience,
        })
    }

    /// Ends the connection in order.
    pub async fn close(mut self) {
        let _ = self.stream.close(None).await;
    }
}

fn closed(error: &tokio_tungstenite::tungstenite::Error) -> ClientError {
    ClientError::Closed {
        code: 1006,
        reason: error.to_string(),
    }
}
