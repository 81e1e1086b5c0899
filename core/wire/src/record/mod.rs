//! The record: the one envelope of everything that a shard's log holds.
//!
//! Protobuf (proto3), field numbers below are for ever. Kinds and fields that this code does not know
//! are kept: a record that is read and written again has them still ([`Record::unknown`]), and whoever
//! rewrites a segment copies the encoded record ([`erase_encoded`] edits one). Compression and encryption belong to a record, never to a batch, so that an
//! instance's key can be destroyed and a message erased without touching its neighbours.

mod body;
mod encoded;
mod fields;
mod session;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use body::{
    BODY_BYTES_MAX, BodyError, COMPRESS_BYTES_MIN, KeyRing, NONCE_BYTES, SealKey, body,
    body_with_keys, compress_body, seal_body,
};

pub use encoded::erase_encoded;
pub use session::{
    SESSION_BODY_BYTES_MAX, SESSION_REASON_BYTES_MAX, SessionBody, SessionBodyError, SessionEvent,
};

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
    /// The end of a session or of one of its subscriptions ([`SessionBody`]).
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
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// The user; empty for an anonymous one.
    pub user: String,
    /// The connection's client id, as other clients see it.
    pub client: String,
    /// The publisher's connection info.
    pub conn_info: Bytes,
    /// The publisher's info for this channel.
    pub chan_info: Bytes,
    /// The edge's incarnation; 0: not from an edge.
    pub edge_incarnation: u64,
    /// The session at that edge.
    pub session: u64,
    /// The publish's number among the session's publishes to this room, from 1.
    pub number: u64,
    /// How often it was forwarded between systems (bridges).
    pub hops: u32,
    /// Fields that a newer version has written, encoded: they are written again as they are.
    pub unknown: Vec<u8>,
}

fields::message!(Origin {
    1 user: string,
    2 client: string,
    3 conn_info: bytes,
    4 chan_info: bytes,
    5 edge_incarnation: fixed64,
    6 session: uint64,
    7 number: uint64,
    8 hops: uint32,
});

/// One record of a shard's log.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Record {
    /// Envelope version, [`RECORD_VERSION`].
    pub version: u32,
    /// [`Kind`].
    pub kind: i32,
    /// The tenant; empty for records of the shard itself.
    pub instance: String,
    /// The instance epoch under which it was written.
    pub instance_epoch: u64,
    /// The channel's full name; empty for records of an instance or of the shard.
    pub channel: String,
    /// The room offset; 0 where the kind takes none.
    pub offset: u64,
    /// The room's generation: with instance and channel it gives the stream epoch
    /// (`gb6_core_model::hash::stream_epoch`).
    pub generation: u32,
    /// The record's number in the shard's log.
    pub position: u64,
    /// The shard epoch under which it was written.
    pub shard_epoch: u64,
    /// Unix ms: the owner's clock, never below the room's last record.
    pub time: i64,
    /// Who made it.
    pub origin: Option<Origin>,
    /// The client's message id, 1 to 128 bytes; empty: none.
    pub client_id: Bytes,
    /// The publication's version, for conditional publishes; 0: none.
    pub data_version: u64,
    /// The epoch of `data_version`: versions of different epochs are not compared.
    pub version_epoch: String,
    /// The offset that a tombstone, edit, reaction, pin or trim points at.
    pub target_offset: u64,
    /// The offset of the thread's root; 0: none.
    pub thread_root: u64,
    /// Tags, shown to clients.
    pub tags: BTreeMap<String, String>,
    /// [`ContentType`] of the body.
    pub content_type: i32,
    /// The key that the body is encrypted with; 0: clear.
    pub key_id: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Where it was imported from: its time there, Unix ms.
    pub original_time: i64,
    /// Where it was imported from: its id there.
    pub original_id: String,
    /// W3C trace context.
    pub traceparent: String,
    /// The body: a publication's data, or the fields of a record of the shard.
    pub body: Bytes,
    /// [`Compression`] of the body (applied before encryption).
    pub compression: i32,
    /// The owner incarnation under which it was written.
    pub owner_incarnation: u64,
    /// The slots that an open or seal is about; empty: all of the instance.
    pub slots: Vec<u32>,
    /// The shard's served time in ms at this record: the clock of the dedupe window, which stands
    /// still while nobody serves the shard.
    pub served_ms: u64,
    /// Fields that a newer version has written, encoded: they are written again as they are.
    pub unknown: Vec<u8>,
}

fields::message!(Record {
    1 version: uint32,
    2 kind: int32,
    3 instance: string,
    4 instance_epoch: uint64,
    5 channel: string,
    6 offset: uint64,
    7 generation: uint32,
    8 position: uint64,
    9 shard_epoch: uint64,
    10 time: int64,
    11 origin: optional,
    12 client_id: bytes,
    13 data_version: uint64,
    14 target_offset: uint64,
    15 thread_root: uint64,
    16 tags: strings,
    17 content_type: int32,
    18 key_id: uint32,
    19 flags: uint32,
    20 original_time: int64,
    21 original_id: string,
    22 traceparent: string,
    23 body: bytes,
    24 compression: int32,
    25 owner_incarnation: fixed64,
    26 slots: packed,
    27 served_ms: uint64,
    28 version_epoch: string,
});

impl Record {
    /// What it is; an unknown kind is none of those that this code knows.
    pub fn kind(&self) -> Kind {
        Kind::try_from(self.kind).unwrap_or_default()
    }

    /// How its body is to be read.
    pub fn content_type(&self) -> ContentType {
        ContentType::try_from(self.content_type).unwrap_or_default()
    }

    /// How its body is compressed.
    pub fn compression(&self) -> Compression {
        Compression::try_from(self.compression).unwrap_or_default()
    }

    /// Whether this record takes a room offset, that is, clients can see it.
    pub fn takes_offset(&self) -> bool {
        matches!(self.kind(), Kind::Message | Kind::Import)
    }
}
