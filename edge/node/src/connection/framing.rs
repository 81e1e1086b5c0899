//! How messages stand in a carrier's bytes, in both directions.
//!
//! What goes out was encoded once, as a complete WebSocket frame, and is shared by everybody who is
//! sent it. Other framings are made from it without a copy: the frame's header is cut off, and what
//! the framing wants around a message is added while it is written ([`super::batch::Envelope`]).

use std::collections::VecDeque;

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_core_wire::client::Dialect;

use super::batch::{Batch, Envelope};

/// A message or control frame from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Incoming {
    /// A whole text message; valid UTF-8 where the framing promises it.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping: to be answered with the same bytes.
    Ping(Bytes),
    /// A pong, asked for or not.
    Pong,
    /// The client closes, with its code.
    Close(Option<u16>),
}

/// Why a connection ends, as its client is told, in words of our own.
pub(crate) type Verdict = Farewell<'static>;

/// Why a connection ends, as its client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Farewell<'a> {
    /// The close code.
    pub(crate) code: u16,
    /// Plain words.
    pub(crate) reason: &'a str,
    /// Whether the client should come back, where the framing says so beside the code.
    pub(crate) reconnect: bool,
}

impl From<Disconnect> for Verdict {
    fn from(why: Disconnect) -> Self {
        Self {
            code: why.code() as u16,
            reason: why.text(),
            reconnect: why.reconnect(),
        }
    }
}

/// One framing, with what it must remember between two reads.
pub(crate) trait Framing: Send + Unpin + 'static {
    /// Whether a client answers the verdict, which is then waited for, and may say that it goes.
    /// Without that the end of what is sent is the end of the connection.
    const ANSWERS_CLOSE: bool;

    /// The next message in what came before and `input`, which is advanced past what was used.
    /// `None`: everything is used and no further message is complete.
    ///
    /// # Errors
    /// The bytes are none of this framing, or too many: what the client is told. Everything behind
    /// them is passed over.
    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Verdict>;

    /// Drops what is kept of an incomplete message: no more is wanted of the client.
    fn forget(&mut self);

    /// What stands around each unit that is written.
    fn envelope(&self) -> Envelope;

    /// Puts a WebSocket frame with messages into the batch, as this framing's units.
    fn push(&self, frame: Bytes, batch: &mut Batch);

    /// [`Framing::push`] for several.
    fn append(&self, frames: VecDeque<Bytes>, batch: &mut Batch) {
        for frame in frames {
            self.push(frame, batch);
        }
    }

    /// The unit with which a client is told that it ends.
    fn verdict(&self, dialect: Dialect, verdict: Farewell<'_>) -> Bytes;

    /// The answer to a ping of this framing; `None`: it has none.
    fn pong(&self, payload: &[u8]) -> Option<Bytes>;
}
