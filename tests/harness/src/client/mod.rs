//! A small client of the Centrifuge protocol for tests: it says what the test tells it to, also
//! what no SDK would say, and records what it sees. SDKs that others wrote are tested elsewhere.

mod carrier;
mod codec;
mod framing;
mod log;
mod publisher;
mod quic_wire;
mod session;
mod socket_task;
mod stream_wire;
mod subscriber;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_wire::client::{CodecError, Dialect};

pub use codec::{encode_command, encode_commands};
pub use log::{LogContent, read_log};
pub use publisher::{Publisher, PublisherOptions};
pub use session::{Published, Push, Session};
pub use subscriber::{Subscriber, SubscriberOptions};
pub use wire::{Incoming, Wire};

/// How long the client waits for an answer: as long as SDKs do.
pub const ANSWER: Duration = Duration::from_secs(5);

/// Where and as whom a client connects.
#[derive(Clone, Debug)]
pub struct Target {
    /// `ws://host:port/path` of a WebSocket, `http://host:port/path` of an HTTP stream (`…/sse`: an
    /// event stream), or `quic://name@ip:port`.
    pub url: String,
    /// The token; empty: none.
    pub token: String,
    /// How commands are written.
    pub dialect: Dialect,
    /// Of an HTTP stream: `host:port` that takes its commands; `None`: as the stream's.
    pub back: Option<String>,
    /// Of QUIC: the file with the authority of the server's certificate (PEM).
    pub ca: Option<PathBuf>,
}

impl Target {
    /// A target.
    pub fn new(url: &str, token: &str, dialect: Dialect) -> Self {
        Self {
            url: url.to_owned(),
            token: token.to_owned(),
            dialect,
            back: None,
            ca: None,
        }
    }
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection: what the network, TLS or HTTP says.
    #[error("no connection to {url}: {reason}")]
    Connect {
        /// Where to.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The server closed the connection.
    #[error("closed with {code}: {reason}")]
    Closed {
        /// The code of the close frame; 1006: there was none.
        code: u16,
        /// The words in it.
        reason: String,
    },
    /// The server answered with an error.
    #[error("error {code}: {message}")]
    Reply {
        /// The code.
        code: u32,
        /// The words.
        message: String,
        /// Whether it may help to try again.
        temporary: bool,
    },
    /// No answer in time.
    #[error("no answer to {what} within {patience:?}")]
    Late {
        /// What was asked.
        what: String,
        /// How long the client waited.
        patience: Duration,
    },
    /// The server's answer breaks the protocol.
    #[error("a frame of the server breaks the protocol: {0}")]
    Codec(#[from] CodecError),
    /// The answer is not the one that belongs to the command.
    #[error("the answer to {what} holds no result of that kind: {answer}")]
    Answer {
        /// What was asked.
        what: String,
        /// What came.
        answer: String,
    },
}

impl ClientError {
    /// The code of an error reply; 0 for everything else.
    pub fn code(&self) -> u32 {
        match self {
            ClientError::Reply { code, .. } => *code,
            _ => 0,
        }
    }

    /// The code of a close frame, if that ended the connection.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            ClientError::Closed { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The data that a publication stands for: what a JSON client is shown as `{"b64":"…"}` are the
/// bytes in it.
pub fn plain_data(data: &Bytes) -> Bytes {
    use base64::Engine as _;
    let bytes = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(data)
        .ok()
        .filter(|object| object.len() == 1)
        .and_then(|object| object.get("b64")?.as_str().map(str::to_owned))
        .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    bytes.map_or_else(|| data.clone(), Bytes::from)
}
