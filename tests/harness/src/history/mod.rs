//! What clients saw, as events that any language can write: one JSON object a line.
//!
//! Every client writes its own events in the order in which they happened to it; how the events of
//! different clients are mixed does not matter. A client's first event is `client`. Data is named
//! by [`fingerprint`], so each message of a test must have data of its own.

mod checker;
mod finish;
mod recorder;
mod summary;
#[cfg(test)]
mod tests;
mod violation;

use std::io::BufRead;

use serde::{Deserialize, Serialize};

pub use checker::Checker;
pub use recorder::{Recorder, now_ms};
pub use summary::Summary;
pub use violation::{Rule, Violation};

/// One thing that happened to one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The client's name, unique in the history.
    pub client: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
    /// When, in ms of any clock; for people only.
    #[serde(default)]
    pub at: u64,
}

/// What can happen to a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The client begins. Its first event.
    Client {
        /// The instance that it belongs to.
        instance: String,
        /// Who it is; publications of others name it.
        user: String,
    },
    /// A connection is there, the first or a further one.
    Connected,
    /// The connection is gone.
    Lost,
    /// An attempt to publish left the client. A retry is a further `sent` with the same id.
    Sent(Message),
    /// The server acknowledged a publish.
    Acknowledged {
        /// What was published.
        #[serde(flatten)]
        message: Message,
        /// Its offset; absent after a plain `publish`, whose answer has none.
        #[serde(default)]
        offset: Option<u64>,
        /// The stream epoch; empty: not told.
        #[serde(default)]
        epoch: String,
        /// Whether the server said that it knew the id already.
        #[serde(default)]
        duplicate: bool,
    },
    /// An attempt to publish failed.
    Failed {
        /// What was to be published.
        #[serde(flatten)]
        message: Message,
        /// The error's code; 0: no answer.
        code: u32,
    },
    /// A subscription begins, the first time or again.
    Subscribed {
        /// The channel.
        room: String,
        /// The position from which on publications follow.
        offset: u64,
        /// The stream epoch; empty: not told.
        #[serde(default)]
        epoch: String,
        /// `Some(true)`: everything since the client's last offset follows. `Some(false)`: it does
        /// not. `None`: the client did not ask.
        #[serde(default)]
        recovered: Option<bool>,
    },
    /// A publication arrived, live or recovered.
    Received {
        /// The channel.
        room: String,
        /// The publication.
        #[serde(flatten)]
        publication: Publication,
    },
    /// A page of history arrived.
    Page {
        /// The channel.
        room: String,
        /// The offset that was asked for; absent: from the stream's end that `reverse` names.
        #[serde(default)]
        since: Option<u64>,
        /// Newest first.
        #[serde(default)]
        reverse: bool,
        /// The newest offset, as the answer says.
        top: u64,
        /// The stream epoch; empty: not told.
        #[serde(default)]
        epoch: String,
        /// What the page holds, in the order of the answer.
        publications: Vec<Publication>,
    },
    /// The client has read the whole log of a room, in pages before this event.
    Log {
        /// The channel.
        room: String,
        /// The oldest kept offset; above 1 only where `trimmed`.
        first: u64,
        /// The newest offset; `first` - 1 for an empty log.
        top: u64,
        /// Whether retention may have removed the beginning.
        #[serde(default)]
        trimmed: bool,
    },
    /// The client takes itself to have everything up to the newest offset of a room.
    Settled {
        /// The channel.
        room: String,
    },
    /// The client ended its subscription; nothing is owed to it until it subscribes again.
    Unsubscribed {
        /// The channel.
        room: String,
    },
}

/// A message as its sender knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The channel.
    pub room: String,
    /// The client's message id; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The [`fingerprint`] of its data.
    pub data: String,
}

/// A publication as its readers know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publication {
    /// Its offset.
    pub offset: u64,
    /// Its tag `id`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The user who published it.
    pub user: String,
    /// The [`fingerprint`] of its data.
    pub data: String,
}

/// The name of some data in a history: the first 16 hexadecimal digits of its SHA-256.
pub fn fingerprint(data: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    let mut name = String::with_capacity(16);
    for byte in &digest.as_ref()[..8] {
        name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('?'));
        name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('?'));
    }
    name
}

/// Why a history can not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file breaks off or can not be read.
    #[error("line {line} can not be read: {source}")]
    Io {
        /// Which line, from 1.
        line: usize,
        /// Why.
        source: std::io::Error,
    },
    /// A line is no event.
    #[error("line {line} is no event: {source}")]
    Json {
        /// Which line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// The events of a JSON-lines file; blank lines are passed over.
pub fn read_events(reader: impl BufRead) -> impl Iterator<Item = Result<Event, ReadError>> {
    reader.lines().enumerate().filter_map(|(n, text)| {
        let line = n + 1;
        match text {
            Err(source) => Some(Err(ReadError::Io { line, source })),
            Ok(text) if text.trim().is_empty() => None,
            Ok(text) => {
                Some(serde_json::from_str(&text).map_err(|source| ReadError::Json { line, source }))
            }
        }
    })
}
