//! The Centrifuge client protocol, version 2: types, and its JSON and Protobuf dialects.
//!
//! One set of types serves both dialects. A WebSocket message (a *frame* here) holds one or more
//! commands or replies: JSON objects with a newline between them, or Protobuf messages each behind
//! its length. An empty reply is the server's ping, an empty command the client's answer to it.

mod command;
mod commands;
mod data;
mod filter;
pub mod frame;
mod json;
mod json_write;
mod live;
mod method;
mod one_way;
mod protobuf;
mod push;
mod reply;

use bytes::Bytes;

pub use command::*;
pub use commands::Commands;
pub use data::{JsonData, json_data_kind, json_depth_within, json_text_of, json_value_of};
pub use filter::{FILTER_DEPTH_MAX, FILTER_NODES_MAX, FilterError, TagsFilter};
pub use frame::{
    CLOSE_REASON_BYTES_MAX, close_frame, pong_frame, websocket_frame, websocket_frame_with,
};
pub use live::{
    ChannelRef, Event, LiveFrame, PublicationData, encode_join_push, encode_leave_push,
    encode_live, encode_publication_push,
};
pub use method::Method;
pub use one_way::{bare_push, connect_command, each_reply};
pub use push::*;
pub use reply::*;

/// Server-side subscriptions named in one `connect`.
pub const CONNECT_SUBS_MAX: usize = 4096;
/// Headers in one `connect`.
pub const CONNECT_HEADERS_MAX: usize = 64;
/// Largest tags filter in bytes: a tree unfolds to many times its bytes.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;

/// How commands and replies are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dialect {
    /// Text frames: JSON objects with `\n` between them.
    Json,
    /// Binary frames: Protobuf messages, each behind its length as a varint.
    Protobuf,
}

impl Dialect {
    /// Both dialects.
    pub const ALL: [Dialect; 2] = [Dialect::Json, Dialect::Protobuf];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Json => "json",
            Dialect::Protobuf => "protobuf",
        }
    }

    /// The WebSocket subprotocol that stands for it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Dialect::Json => "centrifuge-json",
            Dialect::Protobuf => "centrifuge-protobuf",
        }
    }
}

/// What is wrong with an incoming frame. The connection ends with 3501 (bad request). Never holds
/// text of the frame: there are tokens in it. `index` counts the frame's commands from 0.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// The frame holds nothing.
    #[error("the frame is empty")]
    EmptyFrame,
    /// A blank line between commands.
    #[error("command {index} of the frame is a blank line")]
    BlankLine {
        /// Which command.
        index: usize,
    },
    /// A single command is too large.
    #[error("command {index} of the frame has {bytes} bytes, at most {max} are accepted")]
    CommandTooLarge {
        /// Which command.
        index: usize,
        /// Its bytes.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// JSON data is nested too deeply.
    #[error("the data of command {index} of the frame is nested deeper than {max} levels")]
    TooDeep {
        /// Which command.
        index: usize,
        /// The bound.
        max: usize,
    },
    /// A map has too many entries.
    #[error("command {index} of the frame has more than {max} {what}")]
    TooManyEntries {
        /// Which command.
        index: usize,
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// The text is not UTF-8.
    #[error("command {index} of the frame is not UTF-8 text")]
    NotUtf8 {
        /// Which command.
        index: usize,
    },
    /// A command is no JSON object of the protocol.
    #[error("command {index} of the frame {problem} (at byte {column})")]
    Json {
        /// Which command.
        index: usize,
        /// Where in it, from 1.
        column: usize,
        /// What is wrong.
        problem: JsonProblem,
    },
    /// A message is no Protobuf message of the protocol.
    #[error("command {index} of the frame is no valid Protobuf message: {source}")]
    Protobuf {
        /// Which command.
        index: usize,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// The frame ends inside a message.
    #[error("command {index} of the frame claims {claimed} bytes, {left} are left")]
    Truncated {
        /// Which command.
        index: usize,
        /// Its claimed length.
        claimed: u64,
        /// What the frame still holds.
        left: usize,
    },
}

/// What is wrong with the JSON of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JsonProblem {
    /// It breaks the grammar.
    Syntax,
    /// It ends too early.
    Eof,
    /// A field has another type than the protocol says, stands there twice, or is a map with too
    /// many entries.
    Field,
}

impl std::fmt::Display for JsonProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            JsonProblem::Syntax => "is not JSON",
            JsonProblem::Eof => "ends inside its JSON",
            JsonProblem::Field => {
                "has a field of the wrong type, one twice, or a map with too many entries"
            }
        })
    }
}

/// All commands of one incoming frame, in order, as [`Commands`] reads them one by one. A small
/// command takes many times its bytes: for tools and tests.
pub fn decode_frame(dialect: Dialect, frame: Bytes) -> Result<Vec<Command>, CodecError> {
    Commands::new(dialect, frame).collect()
}

/// The tags filter of a [`SubscribeRequest`]; `None` where there is none. Errors carry index 0.
pub fn decode_filter(dialect: Dialect, tf: &Bytes) -> Result<Option<FilterNode>, CodecError> {
    if tf.len() > FILTER_BYTES_MAX {
        return Err(CodecError::CommandTooLarge {
            index: 0,
            bytes: tf.len(),
            max: FILTER_BYTES_MAX,
        });
    }
    if tf.is_empty() {
        return Ok(None);
    }
    match dialect {
        Dialect::Json => json::decode_filter(tf),
        Dialect::Protobuf => protobuf::decode_filter(tf.clone()).map(Some),
    }
}

/// The body of a request to `/emulation`. Its commands are not looked at.
///
/// # Errors
/// It is no such request; the index is 0.
pub fn decode_emulation(dialect: Dialect, body: Bytes) -> Result<EmulationRequest, CodecError> {
    match dialect {
        Dialect::Json => json::decode_emulation(&body),
        Dialect::Protobuf => protobuf::decode_emulation(body),
    }
}

/// The replies of one incoming frame, in order: what a client reads. Only the load generator and
/// tests do, so nothing is bounded but the frame.
pub fn decode_replies(dialect: Dialect, frame: Bytes) -> Result<Vec<Reply>, CodecError> {
    match dialect {
        Dialect::Json => json::decode_replies(&frame),
        Dialect::Protobuf => protobuf::decode_replies(frame),
    }
}

/// Appends one reply: JSON without a newline, Protobuf behind its length.
///
/// JSON shows `bytes` fields by the rule of [`json_value_of`], so that no data can break a frame.
pub fn encode_reply(dialect: Dialect, reply: &Reply, out: &mut Vec<u8>) {
    match dialect {
        Dialect::Json => json_write::reply(reply, out),
        Dialect::Protobuf => protobuf::encode_reply(reply, out),
    }
}

/// Appends the reply that carries `push`.
pub fn encode_push(dialect: Dialect, push: &Push, out: &mut Vec<u8>) {
    match dialect {
        Dialect::Json => json_write::push_reply(push, out),
        Dialect::Protobuf => protobuf::encode_push(push, out),
    }
}

/// Appends several replies as one frame.
pub fn encode_replies<'a>(
    dialect: Dialect,
    replies: impl IntoIterator<Item = &'a Reply>,
    out: &mut Vec<u8>,
) {
    for (index, reply) in replies.into_iter().enumerate() {
        if index > 0 && dialect == Dialect::Json {
            out.push(b'\n');
        }
        encode_reply(dialect, reply, out);
    }
}

/// Appends replies that are encoded already (each by [`encode_reply`] or [`encode_push`]) as one
/// frame.
pub fn join_replies<'a>(
    dialect: Dialect,
    replies: impl IntoIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    for (index, reply) in replies.into_iter().enumerate() {
        if index > 0 && dialect == Dialect::Json {
            out.push(b'\n');
        }
        out.extend_from_slice(reply);
    }
}

/// A complete WebSocket frame with one reply.
pub fn reply_frame(dialect: Dialect, reply: &Reply) -> Bytes {
    let capacity = match dialect {
        Dialect::Json => 128,
        Dialect::Protobuf => prost::Message::encoded_len(reply) + 5,
    };
    websocket_frame_with(dialect, capacity, |out| encode_reply(dialect, reply, out))
}
