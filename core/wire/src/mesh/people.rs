//! What the server API at one edge asks of all edges about an instance's people and channels; carried
//! by the relay stream.

use std::fmt;

use bytes::Bytes;

/// A command for sessions of a user, or for some of them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct UserCommand {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// The user; empty: anonymous people.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Only the session with this client id; empty: any.
    #[prost(string, tag = "3")]
    pub client: String,
    /// Only the session with this session id; empty: any.
    #[prost(string, tag = "4")]
    pub session: String,
    /// Client ids that are not meant.
    #[prost(string, repeated, tag = "5")]
    pub whitelist: Vec<String>,
    /// What is to be done; none where it is of a later version.
    #[prost(oneof = "UserAction", tags = "6, 7, 8, 9")]
    pub action: Option<UserAction>,
}

impl fmt::Debug for UserCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows a session's id can send commands to it.
        f.debug_struct("UserCommand")
            .field("instance", &self.instance)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What is to be done with a session.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum UserAction {
    /// Subscribe it.
    #[prost(message, tag = "6")]
    Subscribe(SubscribeUser),
    /// End its subscription to this channel.
    #[prost(string, tag = "7")]
    Unsubscribe(String),
    /// End it.
    #[prost(message, tag = "8")]
    Disconnect(DisconnectUser),
    /// Change when it expires.
    #[prost(message, tag = "9")]
    Refresh(RefreshUser),
}

/// A subscription by the server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribeUser {
    /// The channel.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Info about the connection in this channel: JSON, or empty.
    #[prost(bytes = "bytes", tag = "2")]
    pub info: Bytes,
    /// Data for the client: JSON, or empty.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// When it expires, Unix ms; none: never.
    #[prost(int64, optional, tag = "4")]
    pub expires_unix_ms: Option<i64>,
    /// Whether presence is kept; none: as the namespace has it, here and below.
    #[prost(bool, optional, tag = "5")]
    pub presence: Option<bool>,
    /// Whether its coming and going is told.
    #[prost(bool, optional, tag = "6")]
    pub join_leave: Option<bool>,
    /// Whether it is told of others' coming and going.
    #[prost(bool, optional, tag = "7")]
    pub force_push_join_leave: Option<bool>,
    /// Whether it can be recovered.
    #[prost(bool, optional, tag = "8")]
    pub force_recovery: Option<bool>,
    /// Whether it is told its position.
    #[prost(bool, optional, tag = "9")]
    pub force_positioning: Option<bool>,
    /// The offset that the client has; none: it is sent nothing older.
    #[prost(uint64, optional, tag = "10")]
    pub since_offset: Option<u64>,
    /// The stream epoch of that offset; empty: any.
    #[prost(string, tag = "11")]
    pub since_epoch: String,
}

/// The end of a session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DisconnectUser {
    /// The code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The reason in words; empty: those of the code.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Another end of a session's time.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RefreshUser {
    /// It has expired.
    #[prost(bool, tag = "1")]
    pub expired: bool,
    /// When it expires, Unix ms; none: never.
    #[prost(int64, optional, tag = "2")]
    pub expires_unix_ms: Option<i64>,
    /// The connection's info from now on; none: as before.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub info: Option<Bytes>,
}

/// Asks for the channels of an instance that have subscribers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChannelsWanted {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// A regular expression for whole names; empty: all.
    #[prost(string, tag = "2")]
    pub pattern: String,
    /// Whether only their number and sums are wanted.
    #[prost(bool, tag = "3")]
    pub sums_only: bool,
}

/// Channels of one edge in one answer.
pub const CHANNELS_MAX: usize = 10_000;

/// The channels of an instance at one edge, and what the edge serves of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChannelsThere {
    /// The channels, at most [`CHANNELS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub channels: Vec<ChannelThere>,
    /// Whether there are more.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// How many there are.
    #[prost(uint64, tag = "3")]
    pub channels_sum: u64,
    /// Subscriptions in them.
    #[prost(uint64, tag = "4")]
    pub subscriptions: u64,
    /// Sessions of the instance.
    #[prost(uint64, tag = "5")]
    pub clients: u64,
    /// Different users among them.
    #[prost(uint64, tag = "6")]
    pub users: u64,
    /// The edge's version.
    #[prost(string, tag = "7")]
    pub version: String,
    /// Seconds since the edge started.
    #[prost(uint64, tag = "8")]
    pub uptime_s: u64,
}

/// A channel with subscribers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChannelThere {
    /// Its name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Subscribers.
    #[prost(uint32, tag = "2")]
    pub clients: u32,
}

/// Asks for a user's connections.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectionsWanted {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// The user.
    #[prost(string, tag = "2")]
    pub user: String,
}

/// Connections of one edge in one answer.
pub const CONNECTIONS_MAX: usize = 10_000;

/// A user's connections at one edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectionsThere {
    /// The connections, at most [`CONNECTIONS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub connections: Vec<ConnectionThere>,
}

/// A connection.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnectionThere {
    /// Its client id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// What carries it, by name.
    #[prost(string, tag = "2")]
    pub transport: String,
    /// Its encoding: `json` or `protobuf`.
    #[prost(string, tag = "3")]
    pub protocol: String,
    /// What its client calls the program that it is part of; empty: nothing.
    #[prost(string, tag = "4")]
    pub app_name: String,
    /// That program's version, as its client says; empty: it does not.
    #[prost(string, tag = "5")]
    pub app_version: String,
}
