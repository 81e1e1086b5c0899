//! Requests and results of the methods about channels, as they are in JSON. Fields that are not
//! known are passed over, and `null` is as good as nothing: SDKs of newer servers send such.

use std::collections::BTreeMap;

use gb6_core_wire::client::json_value_of;
use gb6_core_wire::mesh;
use gb6_core_wire::record::ContentType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ErrorBody;

/// Any JSON value.
pub(super) type Json = Box<RawValue>;

/// A request that carries data for one channel or several. (Raw JSON can not pass through serde's
/// `flatten`, so each has the fields itself.)
macro_rules! carries_content {
    ($(#[$doc:meta])* $name:ident { $(#[$fdoc:meta])* $field:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(Deserialize, JsonSchema)]
        pub(super) struct $name {
            $(#[$fdoc])*
            pub(super) $field: $type,
            /// The data; this or `b64data`.
            pub(super) data: Option<Json>,
            /// The data in base 64, for bytes that are not JSON; goes before `data`.
            pub(super) b64data: Option<String>,
            /// Deliver it to who is there, at most once and without an offset, and keep it nowhere;
            /// with neither `idempotency_key` nor `version`.
            pub(super) skip_history: Option<bool>,
            /// Tags to show to clients: at most 32 and 4 KiB.
            pub(super) tags: Option<BTreeMap<String, String>>,
            /// 1 to 128 bytes. Of publishes to one channel with one key only the first within ten
            /// minutes is written; the others are answered like it.
            pub(super) idempotency_key: Option<String>,
            /// Whether clients that asked for differences may get one; they do wherever the
            /// namespace offers it, whatever stands here.
            #[expect(dead_code, reason = "accepted and passed over")]
            pub(super) delta: Option<bool>,
            /// Write it only if this is above the version that the channel's newest versioned
            /// publication has; else nothing happens, which is no error.
            pub(super) version: Option<u64>,
            /// Versions of another epoch than the newest one's are not compared with it.
            pub(super) version_epoch: Option<String>,
        }

        impl $name {
            /// The field that names where it goes, and what goes there.
            pub(super) fn split(self) -> ($type, Content) {
                let content = Content {
                    data: self.data,
                    b64data: self.b64data,
                    skip_history: self.skip_history.unwrap_or(false),
                    tags: self.tags.unwrap_or_default(),
                    idempotency_key: self.idempotency_key,
                    version: self.version.unwrap_or(0),
                    version_epoch: self.version_epoch.unwrap_or_default(),
                };
                (self.$field, content)
            }
        }
    };
}

/// What is to be published.
pub(super) struct Content {
    pub(super) data: Option<Json>,
    pub(super) b64data: Option<String>,
    pub(super) skip_history: bool,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) version: u64,
    pub(super) version_epoch: String,
}

carries_content! {
    /// Publishes to one channel.
    PublishRequest {
        /// The channel.
        channel: String
    }
}

carries_content! {
    /// Publishes the same to several channels.
    BroadcastRequest {
        /// The channels, at most 10,000.
        channels: Vec<String>
    }
}

/// Where a publication stands; an offset of 0: nowhere, it was not kept.
#[derive(Serialize, JsonSchema)]
pub(super) struct PublishResult {
    /// Its offset.
    pub(super) offset: u64,
    /// The channel's stream epoch; empty with an offset of 0.
    pub(super) epoch: String,
}

/// What became of each publish of a broadcast, in the order of the channels.
#[derive(Serialize, JsonSchema)]
pub(super) struct BroadcastResult {
    /// One for each channel.
    pub(super) responses: Vec<PublishResponse>,
}

/// What became of one publish: exactly one of both is there.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct PublishResponse {
    /// It was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<PublishResult>,
    /// It was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ErrorBody>,
}

/// Names a channel.
#[derive(Deserialize, JsonSchema)]
pub(super) struct ChannelRequest {
    /// The channel.
    pub(super) channel: String,
}

/// A position in a channel's stream.
#[derive(Deserialize, JsonSchema)]
pub(super) struct StreamPosition {
    /// The offset.
    pub(super) offset: Option<u64>,
    /// The stream epoch; empty: any.
    pub(super) epoch: Option<String>,
}

/// Asks for a page of history.
#[derive(Deserialize, JsonSchema)]
pub(super) struct HistoryRequest {
    /// The channel.
    pub(super) channel: String,
    /// Publications at most; 0, the default: the position alone; -1: a whole page.
    pub(super) limit: Option<i32>,
    /// Behind this position; before it with `reverse`.
    pub(super) since: Option<StreamPosition>,
    /// Newest first.
    pub(super) reverse: Option<bool>,
}

/// A page of history.
#[derive(Serialize, JsonSchema)]
pub(super) struct HistoryResult {
    /// The publications, in the order asked for.
    pub(super) publications: Vec<Publication>,
    /// The newest offset.
    pub(super) offset: u64,
    /// The stream epoch.
    pub(super) epoch: String,
}

/// A publication.
#[derive(Serialize, JsonSchema)]
pub(super) struct Publication {
    /// Its data; bytes that are not JSON as `{"b64": "…"}`; null when it was erased.
    data: Json,
    /// Its offset.
    offset: u64,
    /// Who published it; absent when the server API did.
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<ClientInfo>,
    /// Its tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    tags: BTreeMap<String, String>,
    /// When it was written, Unix ms.
    time: i64,
}

impl From<&mesh::Publication> for Publication {
    fn from(p: &mesh::Publication) -> Self {
        let data = match p.data.is_empty() {
            true => None,
            false => json(&p.data, p.content_type()),
        };
        Self {
            data: data.unwrap_or_else(|| RawValue::NULL.to_owned()),
            offset: p.offset,
            info: p.from.as_ref().map(ClientInfo::from),
            tags: p.tags.clone(),
            time: p.time,
        }
    }
}

/// A connection in a channel.
#[derive(Serialize, JsonSchema)]
pub(super) struct ClientInfo {
    /// The user; empty: anonymous.
    user: String,
    /// The client id.
    client: String,
    /// Info of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<Json>,
    /// Info for this channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<Json>,
}

impl From<&mesh::Person> for ClientInfo {
    fn from(person: &mesh::Person) -> Self {
        let info = |bytes: &[u8]| match bytes.is_empty() {
            true => None,
            false => json(bytes, ContentType::Unspecified),
        };
        Self {
            user: person.user.clone(),
            client: person.client.clone(),
            conn_info: info(&person.conn_info),
            chan_info: info(&person.chan_info),
        }
    }
}

/// How data shows in JSON.
fn json(data: &[u8], content_type: ContentType) -> Option<Json> {
    let text = String::from_utf8(json_value_of(data, content_type).into_owned()).ok()?;
    RawValue::from_string(text).ok()
}

/// Who is present in a channel.
#[derive(Serialize, JsonSchema)]
pub(super) struct PresenceResult {
    /// Connections by client id, at most 1,000.
    pub(super) presence: BTreeMap<String, ClientInfo>,
}

/// How many are present in a channel.
#[derive(Serialize, JsonSchema)]
pub(super) struct PresenceStatsResult {
    /// Connections.
    pub(super) num_clients: u32,
    /// Different users among them.
    pub(super) num_users: u32,
}

/// Calls a method of the server, as clients do with `rpc`.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RpcRequest {
    /// `room.publish` or `room.trace`.
    pub(super) method: String,
    /// What the method takes.
    pub(super) params: Option<Json>,
}

/// What the method answered.
#[derive(Serialize, JsonSchema)]
pub(super) struct RpcResult {
    /// The answer.
    pub(super) data: Json,
}

/// Names a token to revoke, or one connection.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RevokeTokenRequest {
    /// The token's `jti`, or the token itself.
    #[serde(default)]
    pub(super) uid: String,
    /// In place of `uid`, the client id of a connection: it is ended at whichever edge it is, and
    /// its token stays valid.
    pub(super) client: Option<String>,
    /// When the token expires, Unix seconds: until then it is remembered. Nothing: what the token
    /// itself says, where `uid` is the whole of it. 0, or where nobody says: 400 days.
    pub(super) expire_at: Option<i64>,
}

/// Names the tokens of a user to revoke.
#[derive(Deserialize, JsonSchema)]
pub(super) struct InvalidateUserTokensRequest {
    /// The user.
    pub(super) user: String,
    /// Unix seconds: tokens issued before, and those that do not say when, are revoked. 0 or
    /// nothing: now.
    pub(super) issued_before: Option<i64>,
    /// When the last of them expires, Unix seconds: until then it is remembered. 0 or nothing: 400
    /// days.
    pub(super) expire_at: Option<i64>,
    /// Answered 108 where it is given: subscription tokens are revoked one by one.
    pub(super) channel: Option<String>,
}

/// Names a user to block.
#[derive(Deserialize, JsonSchema)]
pub(super) struct BlockUserRequest {
    /// The user.
    pub(super) user: String,
    /// Unix seconds until which; 0 or nothing: until unblock_user.
    pub(super) expire_at: Option<i64>,
}

/// Names a blocked user.
#[derive(Deserialize, JsonSchema)]
pub(super) struct UnblockUserRequest {
    /// The user.
    pub(super) user: String,
}

/// Says that users are active now.
#[derive(Deserialize, JsonSchema)]
pub(super) struct UpdateUserStatusRequest {
    /// The users, 1 to 1,000.
    pub(super) users: Vec<String>,
    /// What they say of themselves from now on, at most 256 bytes; empty or nothing: what they said.
    pub(super) state: Option<String>,
}

/// Names users whose statuses are wanted.
#[derive(Deserialize, JsonSchema)]
pub(super) struct GetUserStatusRequest {
    /// The users, 1 to 1,000.
    pub(super) users: Vec<String>,
}

/// Names users whose statuses are to be forgotten.
#[derive(Deserialize, JsonSchema)]
pub(super) struct DeleteUserStatusRequest {
    /// The users, 1 to 1,000.
    pub(super) users: Vec<String>,
}

/// The statuses of users.
#[derive(Serialize, JsonSchema)]
pub(super) struct GetUserStatusResult {
    /// Of each user that was asked for, in that order.
    pub(super) statuses: Vec<UserStatus>,
}

/// What is known of a user.
#[derive(Serialize, JsonSchema)]
pub(super) struct UserStatus {
    /// The user.
    pub(super) user: String,
    /// When it was active last, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<i64>,
    /// When it was connected last, in Unix seconds: now, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) online: Option<i64>,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<String>,
}

/// Nothing to say: it was done.
#[derive(Serialize, JsonSchema)]
pub(super) struct Done {}

/// Subscribes sessions of a user.
#[derive(Deserialize, JsonSchema)]
pub(super) struct SubscribeRequest {
    /// The user; empty: anonymous people, of whom `client` or `session` must name one.
    pub(super) user: Option<String>,
    /// The channel.
    pub(super) channel: String,
    /// Info about the connection in this channel, for others.
    pub(super) info: Option<Json>,
    /// The same in base 64; goes before `info`.
    pub(super) b64info: Option<String>,
    /// Only the session with this client id.
    pub(super) client: Option<String>,
    /// Only the session with this session id.
    pub(super) session: Option<String>,
    /// Data for the client, in the push that tells it.
    pub(super) data: Option<Json>,
    /// The same in base 64; goes before `data`.
    pub(super) b64data: Option<String>,
    /// The position that the client has: it is sent what follows.
    pub(super) recover_since: Option<StreamPosition>,
    /// What is otherwise than the namespace has it.
    pub(super) r#override: Option<Override>,
    /// When the subscription expires, Unix seconds; 0: never.
    pub(super) expire_at: Option<i64>,
}

/// Rules of the namespace that a subscription is not bound to.
#[derive(Default, Deserialize, JsonSchema)]
pub(super) struct Override {
    /// Whether presence is kept.
    pub(super) presence: Option<Switch>,
    /// Whether its coming and going is told.
    pub(super) join_leave: Option<Switch>,
    /// Whether it is told of others' coming and going.
    pub(super) force_push_join_leave: Option<Switch>,
    /// Whether it can be recovered.
    pub(super) force_recovery: Option<Switch>,
    /// Whether it is told its position.
    pub(super) force_positioning: Option<Switch>,
}

/// On or off.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Switch {
    /// Which.
    pub(super) value: Option<bool>,
}

/// Ends a subscription of sessions of a user.
#[derive(Deserialize, JsonSchema)]
pub(super) struct UnsubscribeRequest {
    /// The user; empty: anonymous people, of whom `client` or `session` must name one.
    pub(super) user: Option<String>,
    /// The channel.
    pub(super) channel: String,
    /// Only the session with this client id.
    pub(super) client: Option<String>,
    /// Only the session with this session id.
    pub(super) session: Option<String>,
}

/// Ends sessions of a user.
#[derive(Deserialize, JsonSchema)]
pub(super) struct DisconnectRequest {
    /// The user; empty: anonymous people, of whom `client` or `session` must name one.
    pub(super) user: Option<String>,
    /// Only the session with this client id.
    pub(super) client: Option<String>,
    /// Only the session with this session id.
    pub(super) session: Option<String>,
    /// Client ids that are kept, at most 1,000.
    pub(super) whitelist: Option<Vec<String>>,
    /// What the client is told; by default 3503, after which it stays away.
    pub(super) disconnect: Option<DisconnectReason>,
}

/// A code and its reason.
#[derive(Default, Deserialize, JsonSchema)]
pub(super) struct DisconnectReason {
    /// One of the protocol's codes, or 4000 to 4499 (the client comes back) or 4500 to 4999 (it
    /// stays away).
    pub(super) code: Option<u32>,
    /// Plain words, at most 123 bytes.
    pub(super) reason: Option<String>,
}

/// Changes when sessions of a user expire.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RefreshRequest {
    /// The user; empty: anonymous people, of whom `client` or `session` must name one.
    pub(super) user: Option<String>,
    /// Only the session with this client id.
    pub(super) client: Option<String>,
    /// Only the session with this session id.
    pub(super) session: Option<String>,
    /// They have expired: they end with 3005.
    pub(super) expired: Option<bool>,
    /// When they expire, Unix seconds; 0: never.
    pub(super) expire_at: Option<i64>,
    /// The connection's info from now on, in presence and publications of all its channels.
    pub(super) info: Option<Json>,
}

/// Asks for channels with subscribers.
#[derive(Deserialize, JsonSchema)]
pub(super) struct ChannelsRequest {
    /// For whole names: `*` any run of characters, `?` one, `[a-z]`, `[!a-z]`, `{a,b}`.
    pub(super) pattern: Option<String>,
}

/// Channels with subscribers.
#[derive(Serialize, JsonSchema)]
pub(super) struct ChannelsResult {
    /// By name, at most 10,000 of each edge.
    pub(super) channels: BTreeMap<String, ChannelInfo>,
    /// Whether an edge has more than it named.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(default)]
    pub(super) more: bool,
    /// Edges that did not answer, by node id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(super) unanswered: Vec<String>,
}

/// A channel.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct ChannelInfo {
    /// Subscribers.
    pub(super) num_clients: u32,
}

/// Asks what edges serve.
#[derive(Deserialize, JsonSchema)]
pub(super) struct InfoRequest {}

/// What edges serve of the instance.
#[derive(Serialize, JsonSchema)]
pub(super) struct InfoResult {
    /// The edges.
    pub(super) nodes: Vec<NodeInfo>,
    /// Edges that did not answer, by node id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(super) unanswered: Vec<String>,
}

/// An edge.
#[derive(Serialize, JsonSchema)]
pub(super) struct NodeInfo {
    /// Its node id.
    pub(super) uid: String,
    /// Its node id.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// Sessions of the instance.
    pub(super) num_clients: u64,
    /// Different users among them.
    pub(super) num_users: u64,
    /// Subscriptions.
    pub(super) num_subs: u64,
    /// Channels with subscribers.
    pub(super) num_channels: u64,
    /// Seconds since it started.
    pub(super) uptime: u64,
}

/// Asks for a user's connections.
#[derive(Deserialize, JsonSchema)]
pub(super) struct ConnectionsRequest {
    /// The user.
    pub(super) user: Option<String>,
    /// Empty: expressions are not offered.
    pub(super) expression: Option<String>,
}

/// A user's connections.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConnectionsResult {
    /// By client id, at most 10,000 of each edge.
    pub(super) connections: BTreeMap<String, ConnectionInfo>,
    /// Edges that did not answer, by node id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub(super) unanswered: Vec<String>,
}

/// A connection.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConnectionInfo {
    /// What carries it: `websocket` and others.
    pub(super) transport: String,
    /// Its encoding: `json` or `protobuf`.
    pub(super) protocol: String,
    /// The user.
    pub(super) user: String,
    /// What the client calls the program that it is part of, at most 32 bytes of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(default)]
    pub(super) app_name: String,
    /// That program's version, as the client says.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(default)]
    pub(super) app_version: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}
