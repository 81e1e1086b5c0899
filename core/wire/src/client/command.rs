//! Commands: what a client says. Field numbers and names are those of the public schema of the
//! Centrifuge client protocol v2 (`client.proto`), for ever.
//!
//! The same structs serve both dialects: prost reads and writes the Protobuf one, serde reads the
//! JSON one (`null` counts as absent; unknown fields are passed over). In JSON a `bytes` field
//! holds the JSON text of the value as the client wrote it.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;

use super::json::{bounded_map, bounded_names, or_default, raw, raw_or_absent};

/// One command: an id and one method. Use [`Command::method`] to find which.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Command {
    /// The client's number for the reply; 0 for `send` and for the answer to a ping.
    #[prost(uint32, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub id: u32,
    /// Begins the session.
    #[prost(message, optional, boxed, tag = "4")]
    pub connect: Option<Box<ConnectRequest>>,
    /// Subscribes to a channel.
    #[prost(message, optional, boxed, tag = "5")]
    pub subscribe: Option<Box<SubscribeRequest>>,
    /// Ends a subscription.
    #[prost(message, optional, tag = "6")]
    pub unsubscribe: Option<UnsubscribeRequest>,
    /// Publishes into a channel.
    #[prost(message, optional, tag = "7")]
    pub publish: Option<PublishRequest>,
    /// Asks who is in a channel.
    #[prost(message, optional, tag = "8")]
    pub presence: Option<PresenceRequest>,
    /// Asks how many are in a channel.
    #[prost(message, optional, tag = "9")]
    pub presence_stats: Option<PresenceStatsRequest>,
    /// Asks for a page of history.
    #[prost(message, optional, tag = "10")]
    pub history: Option<HistoryRequest>,
    /// A ping by the client; SDKs of version 2 do not send it.
    #[prost(message, optional, tag = "11")]
    pub ping: Option<PingRequest>,
    /// A message to the application that nobody answers.
    #[prost(message, optional, tag = "12")]
    pub send: Option<SendRequest>,
    /// Calls a method of the application or of the server.
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<RpcRequest>,
    /// Brings a fresh connection token.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshRequest>,
    /// Brings a fresh subscription token.
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshRequest>,
}

/// Begins the session.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[prost(skip_debug)]
#[serde(default)]
pub struct ConnectRequest {
    /// The connection token; empty: none.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// Data for the application.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// Positions of the server-side subscriptions to recover, by channel.
    #[prost(btree_map = "string, message", tag = "3")]
    #[serde(deserialize_with = "bounded_map")]
    pub subs: BTreeMap<String, SubscribeRequest>,
    /// The SDK's name.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The SDK's version.
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// Headers that a browser can not set itself.
    #[prost(btree_map = "string, string", tag = "6")]
    #[serde(deserialize_with = "bounded_names")]
    pub headers: BTreeMap<String, String>,
    /// Bits of wanted features; bit 1: dictionary compression.
    #[prost(int64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
    /// The dictionary that the client has.
    #[prost(string, tag = "8")]
    #[serde(deserialize_with = "or_default")]
    pub dict: String,
    /// The connection profile wanted.
    #[prost(string, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub profile: String,
}

/// Bits of [`SubscribeRequest::flag`].
pub mod subscribe_flags {
    /// Wants channel compaction: pushes carry a number in place of the channel's name.
    pub const COMPACTION: i64 = 1;
    /// Wants error 112 in place of `recovered: false`.
    pub const REJECT_UNRECOVERED: i64 = 2;
}

/// Subscribes to a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[prost(skip_debug)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The subscription token; empty: none.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// Whether to recover from `offset` and `epoch`.
    #[prost(bool, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub recover: bool,
    /// The stream epoch that the client knows; empty: any.
    #[prost(string, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
    /// The offset of the last publication that the client has; 0: none.
    #[prost(uint64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// Data for the application.
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// Wants a positioned subscription.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub positioned: bool,
    /// Wants a recoverable subscription.
    #[prost(bool, tag = "10")]
    #[serde(deserialize_with = "or_default")]
    pub recoverable: bool,
    /// Wants join and leave pushes.
    #[prost(bool, tag = "11")]
    #[serde(deserialize_with = "or_default")]
    pub join_leave: bool,
    /// The delta format wanted, `fossil` or empty.
    #[prost(string, tag = "12")]
    #[serde(deserialize_with = "or_default")]
    pub delta: String,
    /// The tags filter, a [`FilterNode`] as it stands in the frame (Protobuf, or JSON text);
    /// empty: none. It is parsed only where filters are allowed, by [`super::decode_filter`],
    /// because a tree unfolds to many times its bytes.
    #[prost(bytes = "bytes", tag = "13")]
    #[serde(deserialize_with = "raw_or_absent")]
    pub tf: Bytes,
    /// Bits of [`subscribe_flags`].
    #[prost(int64, tag = "14")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
    /// 0: stream; 1 to 4: map and shared-poll subscriptions.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub r#type: i32,
    /// The phase of a map subscription.
    #[prost(int32, tag = "16")]
    #[serde(deserialize_with = "or_default")]
    pub phase: i32,
    /// The page wanted in a map subscription.
    #[prost(string, tag = "17")]
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
    /// The size of a page of a map subscription.
    #[prost(int32, tag = "18")]
    #[serde(deserialize_with = "or_default")]
    pub limit: i32,
    /// Ascending order of a map subscription.
    #[prost(bool, tag = "19")]
    #[serde(deserialize_with = "or_default")]
    pub asc: bool,
}

/// A node of a tags filter.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or`, `not`; empty: a leaf.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub op: String,
    /// The tag that a leaf looks at.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// The comparison of a leaf: `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `lt`,
    /// `lte`, `gt`, `gte`.
    #[prost(string, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub cmp: String,
    /// The value compared with.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub val: String,
    /// The values of `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub vals: Vec<String>,
    /// The children of `and`, `or` and `not`.
    #[prost(message, repeated, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub nodes: Vec<FilterNode>,
}

/// Ends a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct UnsubscribeRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// Publishes into a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PublishRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The data.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// 0: stream; 1 to 4: map subscriptions.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub r#type: i32,
    /// The key in a map channel.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// Removes the key from a map channel.
    #[prost(bool, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub removed: bool,
}

/// Asks who is in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// Asks how many are in a channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceStatsRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// A position in a channel's stream.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// The offset.
    #[prost(uint64, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// The stream epoch; empty: any.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
}

/// Asks for a page of history.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// At most so many publications; 0: the position only; -1: up to the page's cap.
    #[prost(int32, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub limit: i32,
    /// Read after (`reverse`: before) this position; none: from the stream's end that `reverse`
    /// names.
    #[prost(message, optional, tag = "8")]
    pub since: Option<StreamPosition>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub reverse: bool,
}

/// A ping by the client.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
pub struct PingRequest {}

/// A message to the application that nobody answers.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    /// The data.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
}

/// Calls a method of the application or of the server.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// The argument.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// The method's name.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub method: String,
}

/// Brings a fresh connection token.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[prost(skip_debug)]
#[serde(default)]
pub struct RefreshRequest {
    /// The token.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
}

/// Brings a fresh subscription token, or the keys that a shared-poll subscription tracks.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[prost(skip_debug)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// The channel's full name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The token.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// 0: token; 1: track; 2: untrack.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub r#type: i32,
    /// Keys to track.
    #[prost(message, repeated, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub track: Vec<TrackBatch>,
    /// Keys to track no longer.
    #[prost(string, repeated, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub untrack: Vec<String>,
}

/// Keys that a shared-poll subscription tracks, signed by the application.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct TrackBatch {
    /// The application's signature over the keys.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub signature: String,
    /// The keys.
    #[prost(message, repeated, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub items: Vec<KeyedItem>,
}

/// A tracked key.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct KeyedItem {
    /// The key.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// The version that the client has.
    #[prost(uint64, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub version: u64,
}

/// What a client of a one-way transport posts to `/emulation` (Protobuf only: in JSON `data` is a
/// string that holds commands, not a JSON value).
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct EmulationRequest {
    /// The node that holds the session.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The session.
    #[prost(string, tag = "2")]
    pub session: String,
    /// A frame of commands.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

impl fmt::Debug for EmulationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows a session's id can send commands to it.
        f.debug_struct("EmulationRequest")
            .field("node", &self.node)
            .field("session", &token_mark(&self.session))
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// Stands for a token in debug output: tokens are never logged.
fn token_mark(token: &str) -> &'static str {
    if token.is_empty() { "none" } else { "given" }
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("token", &token_mark(&self.token))
            .field("data_bytes", &self.data.len())
            .field("subs", &self.subs.len())
            .field("name", &self.name)
            .field("version", &self.version)
            .field("headers", &self.headers.len())
            .field("flag", &self.flag)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SubscribeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeRequest")
            .field("channel", &self.channel)
            .field("token", &token_mark(&self.token))
            .field("recover", &self.recover)
            .field("epoch", &self.epoch)
            .field("offset", &self.offset)
            .field("positioned", &self.positioned)
            .field("recoverable", &self.recoverable)
            .field("join_leave", &self.join_leave)
            .field("delta", &self.delta)
            .field("flag", &self.flag)
            .field("type", &self.r#type)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RefreshRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshRequest")
            .field("token", &token_mark(&self.token))
            .finish()
    }
}

impl fmt::Debug for SubRefreshRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubRefreshRequest")
            .field("channel", &self.channel)
            .field("token", &token_mark(&self.token))
            .field("type", &self.r#type)
            .finish_non_exhaustive()
    }
}
