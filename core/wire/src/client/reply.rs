//! Replies: what the server answers. Field numbers and names are those of the public schema of the
//! Centrifuge client protocol v2. Beware: a reply's numbers are not its command's, those from
//! connect to ping are shifted by one.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::codes::ErrorCode;
use serde::Deserialize;

use super::json::raw;
use super::push::{ClientInfo, Publication, Push};

/// One reply: a result or an error for a command, a push, or (empty) the server's ping.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The command's number; 0 for pushes and pings.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Why the command failed.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
    /// Something that no command asked for.
    #[prost(message, optional, boxed, tag = "4")]
    pub push: Option<Box<Push>>,
    /// The session has begun.
    #[prost(message, optional, boxed, tag = "5")]
    pub connect: Option<Box<ConnectResult>>,
    /// The subscription has begun.
    #[prost(message, optional, boxed, tag = "6")]
    pub subscribe: Option<Box<SubscribeResult>>,
    /// The subscription has ended.
    #[prost(message, optional, tag = "7")]
    pub unsubscribe: Option<UnsubscribeResult>,
    /// The publication is accepted.
    #[prost(message, optional, tag = "8")]
    pub publish: Option<PublishResult>,
    /// Who is in the channel.
    #[prost(message, optional, tag = "9")]
    pub presence: Option<PresenceResult>,
    /// How many are in the channel.
    #[prost(message, optional, tag = "10")]
    pub presence_stats: Option<PresenceStatsResult>,
    /// A page of history.
    #[prost(message, optional, tag = "11")]
    pub history: Option<HistoryResult>,
    /// The answer to a client's ping.
    #[prost(message, optional, tag = "12")]
    pub ping: Option<PingResult>,
    /// A method's result.
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<RpcResult>,
    /// The connection token is accepted.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshResult>,
    /// The subscription token is accepted.
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshResult>,
}

impl Reply {
    /// The server's ping: an empty reply.
    pub fn ping() -> Self {
        Self::default()
    }

    /// The answer to command `id`: any of the results, or an [`Error`].
    pub fn answer(id: u32, answer: impl Into<Answer>) -> Self {
        let mut reply = Reply {
            id,
            ..Reply::default()
        };
        match answer.into() {
            Answer::Error(v) => reply.error = Some(v),
            Answer::Connect(v) => reply.connect = Some(v),
            Answer::Subscribe(v) => reply.subscribe = Some(v),
            Answer::Unsubscribe(v) => reply.unsubscribe = Some(v),
            Answer::Publish(v) => reply.publish = Some(v),
            Answer::Presence(v) => reply.presence = Some(v),
            Answer::PresenceStats(v) => reply.presence_stats = Some(v),
            Answer::History(v) => reply.history = Some(v),
            Answer::Ping(v) => reply.ping = Some(v),
            Answer::Rpc(v) => reply.rpc = Some(v),
            Answer::Refresh(v) => reply.refresh = Some(v),
            Answer::SubRefresh(v) => reply.sub_refresh = Some(v),
        }
        reply
    }

    /// The answer that command `id` failed.
    pub fn error(id: u32, code: ErrorCode) -> Self {
        Self::answer(id, Error::from(code))
    }

    /// A push.
    pub fn push(push: Push) -> Self {
        Reply {
            push: Some(Box::new(push)),
            ..Reply::default()
        }
    }

    /// Whether this is the server's ping.
    pub fn is_ping(&self) -> bool {
        *self == Reply::default()
    }
}

/// What answers a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It failed.
    Error(Error),
    /// To `connect`.
    Connect(Box<ConnectResult>),
    /// To `subscribe`.
    Subscribe(Box<SubscribeResult>),
    /// To `unsubscribe`.
    Unsubscribe(UnsubscribeResult),
    /// To `publish`.
    Publish(PublishResult),
    /// To `presence`.
    Presence(PresenceResult),
    /// To `presence_stats`.
    PresenceStats(PresenceStatsResult),
    /// To `history`.
    History(HistoryResult),
    /// To `ping`.
    Ping(PingResult),
    /// To `rpc`.
    Rpc(RpcResult),
    /// To `refresh`.
    Refresh(RefreshResult),
    /// To `sub_refresh`.
    SubRefresh(SubRefreshResult),
}

macro_rules! answers {
    ($($variant:ident($inner:ty),)+) => {
        $(impl From<$inner> for Answer {
            fn from(v: $inner) -> Self {
                Answer::$variant(v.into())
            }
        })+
    };
}

answers! {
    Error(Error), Connect(ConnectResult), Subscribe(SubscribeResult),
    Unsubscribe(UnsubscribeResult), Publish(PublishResult), Presence(PresenceResult),
    PresenceStats(PresenceStatsResult), History(HistoryResult), Ping(PingResult), Rpc(RpcResult),
    Refresh(RefreshResult), SubRefresh(SubRefreshResult),
}

impl From<ErrorCode> for Answer {
    fn from(code: ErrorCode) -> Self {
        Answer::Error(code.into())
    }
}

/// Why a command failed. SDKs rely on a code above 0 and a message that is not empty: make it from
/// an [`ErrorCode`].
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Error {
    /// The code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Plain words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether the same command may succeed later.
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

impl From<ErrorCode> for Error {
    fn from(code: ErrorCode) -> Self {
        Error {
            code: code.code(),
            message: code.text().to_owned(),
            temporary: code.temporary(),
        }
    }
}

/// The session has begun; also the push `connect` of one-way transports.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ConnectResult {
    /// The connection's client id; required by SDKs.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the connection expires; then `ttl` is above 0.
    #[prost(bool, tag = "3")]
    pub expires: bool,
    /// Seconds until it expires.
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
    /// Data of the application.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// The server-side subscriptions by channel.
    #[prost(btree_map = "string, message", tag = "6")]
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Seconds between the server's pings; 0: none.
    #[prost(uint32, tag = "7")]
    pub ping: u32,
    /// Whether the client must answer pings.
    #[prost(bool, tag = "8")]
    pub pong: bool,
    /// The session, for `/emulation`.
    #[prost(string, tag = "9")]
    pub session: String,
    /// The node, for `/emulation`.
    #[prost(string, tag = "10")]
    pub node: String,
    /// The server's time, Unix ms.
    #[prost(int64, tag = "11")]
    pub time: i64,
    /// Bits of granted features.
    #[prost(int64, tag = "12")]
    pub flag: i64,
    /// The dictionary for compression.
    #[prost(message, optional, tag = "13")]
    pub dict: Option<Dictionary>,
}

/// A compression dictionary.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Dictionary {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its bytes (Protobuf).
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(skip)]
    pub data: Bytes,
    /// Its bytes in base 64 (JSON).
    #[prost(string, tag = "3")]
    pub data_b64: String,
}

/// The subscription has begun.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubscribeResult {
    /// Whether the subscription expires; then `ttl` is above 0.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// Seconds until it expires.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
    /// Whether it can be recovered.
    #[prost(bool, tag = "3")]
    pub recoverable: bool,
    /// The stream epoch.
    #[prost(string, tag = "6")]
    pub epoch: String,
    /// What was recovered, ascending.
    #[prost(message, repeated, tag = "7")]
    pub publications: Vec<Publication>,
    /// Whether everything after the request's position is here.
    #[prost(bool, tag = "8")]
    pub recovered: bool,
    /// The position: the request's when recovered (the client advances by the publications), else
    /// the newest offset.
    #[prost(uint64, tag = "9")]
    pub offset: u64,
    /// Whether the server watches the position.
    #[prost(bool, tag = "10")]
    pub positioned: bool,
    /// Data of the application.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// Whether the request asked for recovery.
    #[prost(bool, tag = "12")]
    pub was_recovering: bool,
    /// Whether delta compression is granted.
    #[prost(bool, tag = "13")]
    pub delta: bool,
    /// The channel's number in pushes when compaction is granted; 0: not granted.
    #[prost(int64, tag = "14")]
    pub id: i64,
    /// The kind of subscription, as in the request.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type")]
    pub r#type: i32,
    /// The phase of a map subscription.
    #[prost(int32, tag = "16")]
    pub phase: i32,
    /// The next page of a map subscription.
    #[prost(string, tag = "17")]
    pub cursor: String,
    /// A page of a map subscription's state.
    #[prost(message, repeated, tag = "18")]
    pub state: Vec<Publication>,
    /// How long the client should gather publishes, in ms.
    #[prost(uint32, tag = "19")]
    pub publish_debounce: u32,
}

/// The subscription has ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
pub struct UnsubscribeResult {}

/// The publication is accepted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
pub struct PublishResult {}

/// Who is in the channel.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceResult {
    /// People by client id.
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfo>,
}

/// How many are in the channel.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Different users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// A page of history.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct HistoryResult {
    /// The publications, in the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// The stream epoch.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// The newest offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// The answer to a client's ping.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
pub struct PingResult {}

/// A method's result.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RpcResult {
    /// The result.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
}

/// The connection token is accepted.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RefreshResult {
    /// The connection's client id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// The server's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the connection expires; then `ttl` is above 0.
    #[prost(bool, tag = "3")]
    pub expires: bool,
    /// Seconds until it expires.
    #[prost(uint32, tag = "4")]
    pub ttl: u32,
}

/// The subscription token is accepted.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubRefreshResult {
    /// Whether the subscription expires; then `ttl` is above 0.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// Seconds until it expires.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
    /// Values of tracked keys.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<Publication>,
}
