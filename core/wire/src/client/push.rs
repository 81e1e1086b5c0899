//! Pushes: what the server says without being asked. Field numbers and names are those of the
//! public schema of the Centrifuge client protocol v2.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::codes;
use serde::Deserialize;

use super::json::raw;
use super::reply::ConnectResult;
use crate::mesh;

/// One push: a channel (or its number) and one event.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Push {
    /// The channel's number in place of its name where compaction is granted; 0: not used.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// The channel's full name; empty for pushes about the connection.
    #[prost(string, tag = "2")]
    pub channel: String,
    /// A publication; `pub` on the wire.
    #[prost(message, optional, tag = "4")]
    #[serde(rename = "pub")]
    pub publication: Option<Publication>,
    /// Somebody came.
    #[prost(message, optional, tag = "5")]
    pub join: Option<Join>,
    /// Somebody left.
    #[prost(message, optional, tag = "6")]
    pub leave: Option<Leave>,
    /// The server ended the subscription.
    #[prost(message, optional, tag = "7")]
    pub unsubscribe: Option<Unsubscribe>,
    /// A message of the application outside channels.
    #[prost(message, optional, tag = "8")]
    pub message: Option<Message>,
    /// The server began a subscription.
    #[prost(message, optional, tag = "9")]
    pub subscribe: Option<Subscribe>,
    /// The session has begun (one-way transports).
    #[prost(message, optional, boxed, tag = "10")]
    pub connect: Option<Box<ConnectResult>>,
    /// The connection ends (transports without close codes).
    #[prost(message, optional, tag = "11")]
    pub disconnect: Option<Disconnect>,
    /// The connection's expiry changed.
    #[prost(message, optional, tag = "12")]
    pub refresh: Option<Refresh>,
}

/// A person as clients see them.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The user; empty: anonymous.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's client id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// Info of the connection.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "raw")]
    pub conn_info: Bytes,
    /// Info for the channel.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(deserialize_with = "raw")]
    pub chan_info: Bytes,
}

/// A publication.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Publication {
    /// The data; empty when it was erased.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
    /// Who published it.
    #[prost(message, optional, tag = "5")]
    pub info: Option<ClientInfo>,
    /// The offset in the channel's stream; 0: none.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// Tags.
    #[prost(btree_map = "string, string", tag = "7")]
    pub tags: BTreeMap<String, String>,
    /// Whether `data` is a delta against the publication before it.
    #[prost(bool, tag = "8")]
    pub delta: bool,
    /// Unix ms.
    #[prost(int64, tag = "9")]
    pub time: i64,
    /// The channel, where it differs from the push's.
    #[prost(string, tag = "10")]
    pub channel: String,
    /// The key in a map channel.
    #[prost(string, tag = "11")]
    pub key: String,
    /// The key was removed from a map channel.
    #[prost(bool, tag = "12")]
    pub removed: bool,
    /// The key's rank in a map channel.
    #[prost(sint64, tag = "13")]
    pub score: i64,
    /// The stream epoch, where it differs from the subscription's.
    #[prost(string, tag = "14")]
    pub epoch: String,
    /// The data before this publication.
    #[prost(bytes = "bytes", tag = "15")]
    #[serde(deserialize_with = "raw")]
    pub prev_data: Bytes,
    /// The version of the data.
    #[prost(uint64, tag = "16")]
    pub version: u64,
}

/// Somebody came.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Join {
    /// Who; SDKs require it.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// Somebody left.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Leave {
    /// Who; SDKs require it.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// The server ended a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Unsubscribe {
    /// The code: from 2500 on the SDK subscribes again by itself.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Plain words, never empty.
    #[prost(string, tag = "3")]
    pub reason: String,
}

impl From<codes::Unsubscribed> for Unsubscribe {
    fn from(code: codes::Unsubscribed) -> Self {
        Unsubscribe {
            code: code.code(),
            reason: code.text().to_owned(),
        }
    }
}

/// The server began a subscription.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Subscribe {
    /// Whether it can be recovered.
    #[prost(bool, tag = "1")]
    pub recoverable: bool,
    /// The stream epoch.
    #[prost(string, tag = "4")]
    pub epoch: String,
    /// The newest offset.
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    /// Whether the server watches the position.
    #[prost(bool, tag = "6")]
    pub positioned: bool,
    /// Data of the application.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
}

/// A message of the application outside channels.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Message {
    /// The data.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "raw")]
    pub data: Bytes,
}

/// The connection ends.
#[derive(Clone, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Disconnect {
    /// The code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Plain words, never empty.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Whether the client should come back.
    #[prost(bool, tag = "3")]
    pub reconnect: bool,
}

impl From<codes::Disconnect> for Disconnect {
    fn from(code: codes::Disconnect) -> Self {
        Disconnect {
            code: code.code(),
            reason: code.text().to_owned(),
            reconnect: code.reconnect(),
        }
    }
}

/// The connection's expiry changed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// Whether the connection expires; then `ttl` is above 0.
    #[prost(bool, tag = "1")]
    pub expires: bool,
    /// Seconds until it expires.
    #[prost(uint32, tag = "2")]
    pub ttl: u32,
}

impl From<&mesh::Person> for ClientInfo {
    fn from(person: &mesh::Person) -> Self {
        ClientInfo {
            user: person.user.clone(),
            client: person.client.clone(),
            conn_info: person.conn_info.clone(),
            chan_info: person.chan_info.clone(),
        }
    }
}

/// The data stays as it is: the JSON dialect shows what is not JSON as `{"b64":"…"}` when it
/// encodes.
impl From<&mesh::Publication> for Publication {
    fn from(publication: &mesh::Publication) -> Self {
        Publication {
            data: publication.data.clone(),
            info: publication.from.as_ref().map(ClientInfo::from),
            offset: publication.offset,
            tags: publication.tags.clone(),
            time: publication.time,
            ..Publication::default()
        }
    }
}

impl Publication {
    /// As a JSON subscription with deltas is told it whole: the data are a JSON string that holds
    /// the text of the data ([`super::json_text_of`]).
    pub fn whole_as_text(publication: &mesh::Publication) -> Self {
        let text = super::json_text_of(&publication.data, publication.content_type());
        let mut data = Vec::with_capacity(text.len() + text.len() / 4 + 2);
        super::json_write::string(&mut data, &text);
        Publication {
            data: data.into(),
            ..Publication::from(publication)
        }
    }
}
