//! The record: the one envelope of everything that a shard's log holds.
//!
//! Protobuf (proto3), field numbers below are for ever. Whoever rewrites a log keeps kinds and fields
//! that it does not know: it copies the encoded record ([`erase_encoded`] edits one). Compression and encryption belong to a record, never to a batch, so that an
//! instance's key can be destroyed and a message erased without touching its neighbours.

mod body;
mod encoded;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use body::{
    BODY_BYTES_MAX, BodyError, COMPRESS_BYTES_MIN, KeyRing, NONCE_BYTES, SealKey, body,
    body_with_keys, compress_body, seal_body,
};

pub use encoded::erase_encoded;

/// The envelope version that this code writes.
pub const RECORD_VERSION: u32 = 1;

/// What a record is. Numbers are for ever; an unknown one is kept and passed over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Not set: no valid record.
    Unspecified = 0,
    /// A publication: takes a room offset.
    Message = 1,
    /// A change of a room's membership.
    Member = 2,
    /// A change of a room's settings.
    Control = 3,
    /// A session's beginning or end.
    Session = 4,
    /// A record copied from another log: keeps its room offset, time and ids.
    Import = 5,
    /// The message at `target_offset` is erased.
    Tombstone = 6,
    /// The room's first kept offset is now `target_offset`.
    Trim = 7,
    /// An instance's rooms go on in this shard.
    Open = 8,
    /// An instance's rooms end in this shard.
    Seal = 9,
    /// Ownership of the shard begins.
    Acquire = 10,
    /// A checkpoint of the shard's state exists, named in the body.
    Checkpoint = 11,
    /// Usage, for billing.
    Meter = 12,
    /// A call in a room.
    Call = 13,
}

/// How a record's data is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum ContentType {
    /// Not known: a Protobuf client sent it. JSON clients see it as JSON if it is.
    Unspecified = 0,
    /// Valid JSON, checked when it came in.
    Json = 1,
    /// Bytes that are not JSON.
    Bytes = 2,
    /// Encrypted by the clients; nobody here can read it.
    EndToEnd = 3,
}

/// How a record's body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Compression {
    /// As it is.
    None = 0,
    /// LZ4 block with the length before it (little-endian u32).
    Lz4 = 1,
}

/// Bits of [`Record::flags`].
pub mod flags {
    /// Copied from another log or product.
    pub const IMPORTED: u32 = 1;
    /// Notifies nobody.
    pub const SILENT: u32 = 2;
    /// The body was erased.
    pub const ERASED: u32 = 4;
}

/// Who made a record, and through which edge session.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Origin {
    /// The user; empty for an anonymous one.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's client id, as other clients see it.
    #[prost(string, tag = "2")]
    pub client: String,
    /// The publisher's connection info.
    #[prost(bytes = "bytes", tag = "3")]
    pub conn_info: Bytes,
    /// The publisher's info for this channel.
    #[prost(bytes = "bytes", tag = "4")]
    pub chan_info: Bytes,
    /// The edge's incarnation; 0: not from an edge.
    #[prost(fixed64, tag = "5")]
    pub edge_incarnation: u64,
    /// The session at that edge.
    #[prost(uint64, tag = "6")]
    pub session: u64,
    /// The publish's number among the session's publishes to this room, from 1.
    #[prost(uint64, tag = "7")]
    pub number: u64,
    /// How often it was forwarded between systems (bridges).
    #[prost(uint32, tag = "8")]
    pub hops: u32,
}

/// One record of a shard's log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// Envelope version, [`RECORD_VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// [`Kind`].
    #[prost(enumeration = "Kind", tag = "2")]
    pub kind: i32,
    /// The tenant; empty for records of the shard itself.
    #[prost(string, tag = "3")]
    pub instance: String,
    /// The instance epoch under which it was written.
    #[prost(uint64, tag = "4")]
    pub instance_epoch: u64,
    /// The channel's full name; empty for records of an instance or of the shard.
    #[prost(string, tag = "5")]
    pub channel: String,
    /// The room offset; 0 where the kind takes none.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// The room's generation: with instance and channel it gives the stream epoch
    /// (`gb6_core_model::hash::stream_epoch`).
    #[prost(uint32, tag = "7")]
    pub generation: u32,
    /// The record's number in the shard's log.
    #[prost(uint64, tag = "8")]
    pub position: u64,
    /// The shard epoch under which it was written.
    #[prost(uint64, tag = "9")]
    pub shard_epoch: u64,
    /// Unix ms: the owner's clock, never below the room's last record.
    #[prost(int64, tag = "10")]
    pub time: i64,
    /// Who made it.
    #[prost(message, optional, tag = "11")]
    pub origin: Option<Origin>,
    /// The client's message id, 1 to 128 bytes; empty: none.
    #[prost(bytes = "bytes", tag = "12")]
    pub client_id: Bytes,
    /// The publication's version, for conditional publishes; 0: none.
    #[prost(uint64, tag = "13")]
    pub data_version: u64,
    /// The offset that a tombstone, edit, reaction, pin or trim points at.
    #[prost(uint64, tag = "14")]
    pub target_offset: u64,
    /// The offset of the thread's root; 0: none.
    #[prost(uint64, tag = "15")]
    pub thread_root: u64,
    /// Tags, shown to clients.
    #[prost(btree_map = "string, string", tag = "16")]
    pub tags: BTreeMap<String, String>,
    /// [`ContentType`] of the body.
    #[prost(enumeration = "ContentType", tag = "17")]
    pub content_type: i32,
    /// The key that the body is encrypted with; 0: clear.
    #[prost(uint32, tag = "18")]
    pub key_id: u32,
    /// Bits of [`flags`].
    #[prost(uint32, tag = "19")]
    pub flags: u32,
    /// Where it was imported from: its time there, Unix ms.
    #[prost(int64, tag = "20")]
    pub original_time: i64,
    /// Where it was imported from: its id there.
    #[prost(string, tag = "21")]
    pub original_id: String,
    /// W3C trace context.
    #[prost(string, tag = "22")]
    pub traceparent: String,
    /// The body: a publication's data, or the fields of a record of the shard.
    #[prost(bytes = "bytes", tag = "23")]
    pub body: Bytes,
    /// [`Compression`] of the body (applied before encryption).
    #[prost(enumeration = "Compression", tag = "24")]
    pub compression: i32,
    /// The owner incarnation under which it was written.
    #[prost(fixed64, tag = "25")]
    pub owner_incarnation: u64,
    /// The slots that an open or seal is about; empty: all of the instance.
    #[prost(uint32, repeated, tag = "26")]
    pub slots: Vec<u32>,
    /// The shard's served time in ms at this record: the clock of the dedupe window, which stands
    /// still while nobody serves the shard.
    #[prost(uint64, tag = "27")]
    pub served_ms: u64,
}

impl Record {
    /// Whether this record takes a room offset, that is, clients can see it.
    pub fn takes_offset(&self) -> bool {
        matches!(self.kind(), Kind::Message | Kind::Import)
    }
}
