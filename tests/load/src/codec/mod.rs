//! What is said over a connection: one codec for each protocol that can be measured.

mod echo;
mod gb6;
mod nats;
mod peek;
mod peek_json;

use gb6_core_wire::client::Dialect;

pub(crate) use echo::{Echo, SUBSCRIBE, TAG_BYTES};
pub use gb6::Method;
pub(crate) use gb6::{Gb6, SUBSCRIPTIONS_MAX};
pub(crate) use nats::{Nats, STREAM_SUBJECTS};

/// What a server does that its protocol does not allow, or that ends a run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The bytes are not of the protocol.
    #[error("the server sent what is not of its protocol: {0}")]
    Malformed(String),
    /// The server refused the session.
    #[error("the server refused the session: {code} {message}")]
    Session {
        /// The protocol's code.
        code: u32,
        /// The server's words.
        message: String,
    },
}

/// Where a subscriber stands in a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    /// The stream epoch.
    pub(crate) epoch: String,
    /// The last offset that it has.
    pub(crate) offset: u64,
}

/// What a connection tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event<'a> {
    /// The session has begun.
    Ready,
    /// A subscription has begun; where it was recovered, the publications come first.
    Subscribed {
        /// Which of the connection's, from 0 in the order in which they were asked for.
        nth: usize,
        /// Where it stands now.
        position: Position,
        /// Whether everything since the asked position has come.
        recovered: bool,
    },
    /// A subscription was refused or ended by the server.
    SubscriptionLost {
        /// The protocol's code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// A publish is acknowledged.
    Acked {
        /// The number that it was sent with.
        tag: u32,
    },
    /// A publish has failed.
    Failed {
        /// The number that it was sent with.
        tag: u32,
        /// The protocol's code.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// A publication.
    Delivered {
        /// By which of the connection's subscriptions.
        nth: usize,
        /// Its offset; 0 where the protocol has none.
        offset: u64,
        /// Its data.
        data: &'a [u8],
    },
    /// The connection has ended: the last event.
    Closed {
        /// What was wrong, for people.
        why: String,
    },
}

/// A codec of any protocol.
pub(crate) enum Codec {
    /// The Centrifuge client protocol.
    Gb6(Gb6),
    /// The NATS client protocol.
    Nats(Nats),
    /// That of the bare servers.
    Echo(Echo),
}

impl Codec {
    /// What begins the session.
    pub(crate) fn hello(&mut self, out: &mut Vec<u8>) {
        match self {
            Codec::Gb6(c) => c.hello(out),
            Codec::Nats(c) => c.hello(out),
            Codec::Echo(_) => (),
        }
    }

    /// Whether the session has begun as soon as the transport is open.
    pub(crate) fn ready_at_once(&self) -> bool {
        matches!(self, Codec::Echo(_))
    }

    /// Whether its WebSocket messages are text.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Codec::Gb6(c) if c.dialect() == Dialect::Json)
    }

    /// Asks for a subscription, from `since` if given.
    pub(crate) fn subscribe(&mut self, room: &str, since: Option<&Position>, out: &mut Vec<u8>) {
        match self {
            Codec::Gb6(c) => c.subscribe(room, since, out),
            Codec::Nats(c) => c.subscribe(room, out),
            Codec::Echo(c) => c.subscribe(out),
        }
    }

    /// Publishes under a number of the caller's.
    pub(crate) fn publish(&mut self, tag: u32, room: &str, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Codec::Gb6(c) => c.publish(tag, room, data, out),
            Codec::Nats(c) => c.publish(tag, room, data, out),
            Codec::Echo(c) => c.publish(tag, data, out),
        }
    }

    /// Reads one message of the transport: a whole WebSocket message, or whatever bytes of a TCP
    /// stream. What must be answered at once is appended to `out`.
    pub(crate) fn read(
        &mut self,
        message: &[u8],
        out: &mut Vec<u8>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        match self {
            Codec::Gb6(c) => c.read(message, out, on),
            Codec::Nats(c) => c.read(message, out, on),
            Codec::Echo(c) => c.read(message, on),
        }
    }
}
