//! Frames of the mesh, protocol `gb6-mesh/1`: length-delimited Protobuf on QUIC streams, moved as
//! values on the in-memory link.
//!
//! A connection's first stream carries one [`Hello`] each way. Every further stream is opened by
//! the dialling side with one [`StreamOpen`] that says what it is for. Edges dial regions and geo;
//! regions dial geo.
//!
//! **Shard stream** (edge ↔ owner, one per shard): the edge sends [`ToOwner`], the owner
//! [`ToEdge`]; the first are `attach` and `attached` or `refused`. **Catch-up stream** (one per
//! shard beside it): [`HistoryRequest`] and [`HistoryPage`], so that reading history never delays
//! a live message. **Snapshot stream** (any node ↔ geo): [`SnapshotPush`] whenever the revision
//! changes.
//!
//! Rules that the frames alone do not say:
//! - An edge numbers each session's publishes per room from 1 and sends them in that order. After
//!   any break it attaches again and resends the unanswered ones, in order, before new ones.
//! - At most `credit` publishes and `credit_bytes` of data per instance may be unanswered.
//! - `deliver` carries consecutive offsets of a room from the one after `interested.top` on. A
//!   gap is filled through the catch-up stream before anything behind it is delivered.
//! - `erased` follows the publication that it erases. `interested.erasures` counts a room's
//!   erasures in this life of the owner, `erased.erasures` up to and with this one: an edge that
//!   finds another number, or another life, forgets what it remembers of the room.
//! - A refused or ended stream says nothing about the fate of publishes in flight.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::record::Record;

/// The ALPN protocol name.
pub const ALPN: &[u8] = b"gb6-mesh/1";
/// The highest protocol version that this code speaks.
pub const VERSION: u32 = 1;
/// The lowest protocol version that this code speaks.
pub const VERSION_MIN: u32 = 1;

/// The first frame of a connection, each way.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Lowest version spoken.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Highest version spoken; both sides use the highest that both speak.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Optional features by name; unknown ones are passed over.
    #[prost(string, repeated, tag = "3")]
    pub features: Vec<String>,
    /// The sender's node id: the same as in its certificate.
    #[prost(string, tag = "4")]
    pub node: String,
    /// The sender's roles: a subset of its certificate's.
    #[prost(string, repeated, tag = "5")]
    pub roles: Vec<String>,
    /// This life of the sender's process.
    #[prost(fixed64, tag = "6")]
    pub incarnation: u64,
}

/// The first frame of every stream after the first: what it is for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StreamOpen {
    /// The purpose.
    #[prost(oneof = "Purpose", tags = "1, 2, 3")]
    pub purpose: Option<Purpose>,
}

/// What a stream is for.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Purpose {
    /// Commands and deliveries of one shard.
    #[prost(message, tag = "1")]
    Shard(ShardRef),
    /// History of one shard.
    #[prost(message, tag = "2")]
    CatchUp(ShardRef),
    /// Placement snapshots.
    #[prost(message, tag = "3")]
    Snapshot(SnapshotWanted),
}

/// A shard of a region.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct ShardRef {
    /// The region's name.
    #[prost(string, tag = "1")]
    pub region: String,
    /// The shard's number.
    #[prost(uint32, tag = "2")]
    pub shard: u32,
}

/// Asks geo for snapshots.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SnapshotWanted {
    /// The revision that the node has; only newer ones are sent.
    #[prost(uint64, tag = "1")]
    pub have_revision: u64,
}

/// A snapshot from geo.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SnapshotPush {
    /// Its revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// `gb6_core_model::snapshot::Snapshot` as JSON, without the secrets that the node's role
    /// does not need.
    #[prost(bytes = "bytes", tag = "2")]
    pub json: Bytes,
}

/// A frame from an edge to a shard's owner.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToOwner {
    /// The frame.
    #[prost(oneof = "OwnerFrame", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub frame: Option<OwnerFrame>,
}

/// What an edge says to a shard's owner.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OwnerFrame {
    /// First on the stream.
    #[prost(message, tag = "1")]
    Attach(Attach),
    /// A publish of a session.
    #[prost(message, tag = "2")]
    Publish(Publish),
    /// The edge has subscribers of a room.
    #[prost(message, tag = "3")]
    Interest(RoomRef),
    /// The edge has none any more.
    #[prost(message, tag = "4")]
    Uninterest(RoomRef),
    /// Somebody is present.
    #[prost(message, tag = "5")]
    Present(Presence),
    /// Somebody is not any more.
    #[prost(message, tag = "6")]
    Absent(Presence),
    /// All that the edge has present in this shard, after attaching.
    #[prost(message, tag = "7")]
    PresenceSet(PresenceSet),
    /// Asks who is present.
    #[prost(message, tag = "8")]
    PresenceQuery(PresenceQuery),
    /// Renews the edge's lease.
    #[prost(message, tag = "9")]
    Renew(Renew),
    /// A session has ended: its publish numbers may be forgotten once nothing of it is unanswered.
    #[prost(message, tag = "10")]
    SessionEnded(SessionEnded),
    /// Asks where a record lies and how it got there.
    #[prost(message, tag = "11")]
    Trace(TraceQuery),
}

/// A frame from a shard's owner to an edge.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToEdge {
    /// The frame.
    #[prost(oneof = "EdgeFrame", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub frame: Option<EdgeFrame>,
}

/// What a shard's owner says to an edge.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EdgeFrame {
    /// The edge is attached.
    #[prost(message, tag = "1")]
    Attached(Attached),
    /// The edge can not be attached here.
    #[prost(message, tag = "2")]
    Refused(Refused),
    /// The answer to a publish.
    #[prost(message, tag = "3")]
    Published(Published),
    /// The answer to `interest`.
    #[prost(message, tag = "4")]
    Interested(Interested),
    /// A publication of a room that the edge is interested in.
    #[prost(message, tag = "5")]
    Deliver(Deliver),
    /// Somebody came.
    #[prost(message, tag = "6")]
    Join(Presence),
    /// Somebody left.
    #[prost(message, tag = "7")]
    Leave(Presence),
    /// The answer to a presence query.
    #[prost(message, tag = "8")]
    PresenceAnswer(PresenceAnswer),
    /// The answer to `renew`.
    #[prost(message, tag = "9")]
    Renewed(Renew),
    /// The answer to `trace`.
    #[prost(message, tag = "10")]
    Traced(Traced),
    /// A message of a room that the edge is interested in was erased.
    #[prost(message, tag = "11")]
    Erased(Erased),
}

/// The class of a frame: a stream's writer sends a higher class first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Attachment, interest, comings and goings of people, leases.
    Control,
    /// Answers to publishes, and refusals of questions.
    Acknowledgement,
    /// Live publications, joins and leaves; erasures, which must not overtake what they erase.
    Live,
    /// History, on its own streams; on a shard stream what is as large and as little urgent: who
    /// is present.
    CatchUp,
}

impl ToEdge {
    /// The class of this frame.
    pub fn class(&self) -> Class {
        match &self.frame {
            Some(EdgeFrame::Published(_)) => Class::Acknowledgement,
            Some(
                EdgeFrame::Deliver(_)
                | EdgeFrame::Join(_)
                | EdgeFrame::Leave(_)
                | EdgeFrame::Erased(_),
            ) => Class::Live,
            // What says that an answer did not fit must not wait behind those that are in its way.
            Some(EdgeFrame::PresenceAnswer(answer)) if answer.error != 0 => Class::Acknowledgement,
            Some(EdgeFrame::PresenceAnswer(_)) => Class::CatchUp,
            _ => Class::Control,
        }
    }
}

/// An edge introduces itself to a shard.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attach {
    /// This life of the edge.
    #[prost(fixed64, tag = "1")]
    pub edge_incarnation: u64,
    /// The snapshot revision that the edge routed by.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// The highest shard epoch that an owner has served it under; 0: none. An owner of a lower one
    /// was replaced, and need not have noticed while nothing was written.
    #[prost(uint64, tag = "3")]
    pub shard_epoch: u64,
}

/// The owner accepts an edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attached {
    /// The shard epoch under which the owner serves.
    #[prost(uint64, tag = "1")]
    pub shard_epoch: u64,
    /// This life of the owner.
    #[prost(fixed64, tag = "2")]
    pub owner_incarnation: u64,
    /// The edge's lease in ms; it renews at a third of it.
    #[prost(uint32, tag = "3")]
    pub lease_ms: u32,
    /// Publishes per instance that may be unanswered.
    #[prost(uint32, tag = "4")]
    pub credit: u32,
    /// Bytes of data per instance that may be unanswered.
    #[prost(uint64, tag = "5")]
    pub credit_bytes: u64,
}

/// The owner refuses an edge; the stream ends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// Why.
    #[prost(enumeration = "RefusedReason", tag = "1")]
    pub reason: i32,
    /// The node that owns the shard, as far as this one knows; empty: unknown.
    #[prost(string, tag = "2")]
    pub owner: String,
    /// What an operator should read.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// Why an owner refuses or ends an attachment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum RefusedReason {
    /// Not set.
    Unspecified = 0,
    /// This node does not own the shard.
    NotOwner = 1,
    /// The edge's lease has ended: it must come back as a new incarnation.
    LeaseEnded = 2,
    /// The owner is still reading its log; try again soon.
    Recovering = 3,
    /// The edge broke a rule of the protocol.
    Violation = 4,
    /// The edge reads too slowly: it must attach again and refill from the log.
    Lagging = 5,
}

/// One publish.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Publish {
    /// The edge's number for the answer, unique on this attachment.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The instance epoch that the edge routed by.
    #[prost(uint64, tag = "3")]
    pub instance_epoch: u64,
    /// The session at the edge.
    #[prost(uint64, tag = "4")]
    pub session: u64,
    /// Its number among the session's publishes to this room, from 1.
    #[prost(uint64, tag = "5")]
    pub number: u64,
    /// Every number of this session and room below this one has been answered or given up.
    #[prost(uint64, tag = "6")]
    pub settled_below: u64,
    /// Who publishes.
    #[prost(message, required, tag = "7")]
    pub from: Person,
    /// The client's message id; empty: none.
    #[prost(bytes = "bytes", tag = "8")]
    pub id: Bytes,
    /// The data.
    #[prost(bytes = "bytes", tag = "9")]
    pub data: Bytes,
    /// `gb6_core_wire::record::ContentType`.
    #[prost(enumeration = "crate::record::ContentType", tag = "10")]
    pub content_type: i32,
    /// Tags to show to clients.
    #[prost(btree_map = "string, string", tag = "11")]
    pub tags: BTreeMap<String, String>,
    /// W3C trace context; empty: none.
    #[prost(string, tag = "12")]
    pub traceparent: String,
}

/// A room of an instance.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct RoomRef {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// The channel's full name.
    #[prost(string, tag = "2")]
    pub channel: String,
}

/// A person in a room, as clients see them.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Person {
    /// The user; empty: anonymous.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The connection's client id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// Info of the connection.
    #[prost(bytes = "bytes", tag = "3")]
    pub conn_info: Bytes,
    /// Info for this channel.
    #[prost(bytes = "bytes", tag = "4")]
    pub chan_info: Bytes,
}

/// The answer to a publish.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Published {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The offset, 0 on error.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// The room's generation.
    #[prost(uint32, tag = "3")]
    pub generation: u32,
    /// The record's time, Unix ms.
    #[prost(int64, tag = "4")]
    pub time: i64,
    /// Whether the client's id had been written before.
    #[prost(bool, tag = "5")]
    pub duplicate: bool,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "6")]
    pub error: u32,
}

/// The answer to `interest`: where the room stands.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Interested {
    /// The room.
    #[prost(message, required, tag = "1")]
    pub room: RoomRef,
    /// The newest committed offset; 0: empty.
    #[prost(uint64, tag = "2")]
    pub top: u64,
    /// The oldest kept offset; `top + 1` where none is kept.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// The room's generation.
    #[prost(uint32, tag = "4")]
    pub generation: u32,
    /// Messages of the room that were erased in this life of the owner.
    #[prost(uint64, tag = "5")]
    pub erasures: u64,
}

/// A message was erased: it keeps its offset and shows nothing.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Erased {
    /// The room.
    #[prost(message, required, tag = "1")]
    pub room: RoomRef,
    /// The message's offset.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Messages of the room that were erased in this life of the owner, this one included.
    #[prost(uint64, tag = "3")]
    pub erasures: u64,
}

/// A publication on its way to clients.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Deliver {
    /// The room.
    #[prost(message, required, tag = "1")]
    pub room: RoomRef,
    /// The publication.
    #[prost(message, required, tag = "2")]
    pub publication: Publication,
}

/// What clients see of a record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Publication {
    /// The room offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// The room's generation.
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    /// Unix ms.
    #[prost(int64, tag = "3")]
    pub time: i64,
    /// Who published it.
    #[prost(message, optional, tag = "4")]
    pub from: Option<Person>,
    /// The data; empty when it was erased.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
    /// `gb6_core_wire::record::ContentType`.
    #[prost(enumeration = "crate::record::ContentType", tag = "6")]
    pub content_type: i32,
    /// Tags, `id` among them when the client gave one.
    #[prost(btree_map = "string, string", tag = "7")]
    pub tags: BTreeMap<String, String>,
    /// Bits of `gb6_core_wire::record::flags`.
    #[prost(uint32, tag = "8")]
    pub flags: u32,
}

impl Publication {
    /// What clients see of a message whose body is clear (neither compressed nor encrypted). Of an
    /// erased one the message id is not part: the record keeps it for the dedupe window only.
    pub fn of(record: &Record) -> Self {
        let mut tags = record.tags.clone();
        let erased = record.flags & crate::record::flags::ERASED != 0;
        if !record.client_id.is_empty() && !erased {
            let id = String::from_utf8_lossy(&record.client_id).into_owned();
            tags.insert("id".to_owned(), id);
        }
        Self {
            offset: record.offset,
            generation: record.generation,
            time: record.time,
            from: record.origin.as_ref().map(|o| Person {
                user: o.user.clone(),
                client: o.client.clone(),
                conn_info: o.conn_info.clone(),
                chan_info: o.chan_info.clone(),
            }),
            data: record.body.clone(),
            content_type: record.content_type,
            tags,
            flags: record.flags,
        }
    }

    /// Takes the content away: what is left to show of a message that was erased.
    pub fn erase(&mut self) {
        self.data.clear();
        self.tags.clear();
        self.flags |= crate::record::flags::ERASED;
    }

    /// About how many bytes it takes in a client's frame.
    pub fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        let from = self.from.as_ref().map_or(0, |f| {
            f.user.len() + f.client.len() + f.conn_info.len() + f.chan_info.len() + 48
        });
        self.data.len() + tags + from + 48
    }
}

/// A person present in a room.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Presence {
    /// The room.
    #[prost(message, required, tag = "1")]
    pub room: RoomRef,
    /// Who.
    #[prost(message, required, tag = "2")]
    pub person: Person,
}

/// A part of the set of people that an edge has present in a shard.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PresenceSet {
    /// People of this part.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Presence>,
    /// Whether this is the last part: who was not named is gone.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// Asks who is present.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PresenceQuery {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// Whether the people are wanted, not only their number.
    #[prost(bool, tag = "3")]
    pub entries: bool,
}

/// Who is present.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PresenceAnswer {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// People, at most `gb6_core_model::limits::PRESENCE_ENTRIES_MAX`.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<Person>,
    /// Connections present.
    #[prost(uint32, tag = "3")]
    pub clients: u32,
    /// Different users among them.
    #[prost(uint32, tag = "4")]
    pub users: u32,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "5")]
    pub error: u32,
}

/// Renews a lease.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Renew {
    /// The edge's number of the renewal, returned in the answer.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
}

/// A session has ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SessionEnded {
    /// The session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

/// Asks where a record lies.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TraceQuery {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// Where a record lies and how it got there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Traced {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The shard's number.
    #[prost(uint32, tag = "2")]
    pub shard: u32,
    /// The shard epoch of the current owner.
    #[prost(uint64, tag = "3")]
    pub shard_epoch: u64,
    /// How long the record's batch took from the append to the end of its sync, in µs; 0: no
    /// longer known.
    #[prost(uint64, tag = "4")]
    pub sync_us: u64,
    /// How many records shared that sync; 0: no longer known.
    #[prost(uint32, tag = "5")]
    pub batch: u32,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "6")]
    pub error: u32,
}

/// Asks for a page of history, on the catch-up stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HistoryRequest {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// Read after this offset (before it when `reverse`); see `from_end`.
    #[prost(uint64, tag = "3")]
    pub since: u64,
    /// `since` is not given: read from the first kept offset, or the newest when `reverse`.
    #[prost(bool, tag = "4")]
    pub from_end: bool,
    /// Newest first.
    #[prost(bool, tag = "5")]
    pub reverse: bool,
    /// At most so many publications; 0: only the position is wanted.
    #[prost(uint32, tag = "6")]
    pub limit: u32,
    /// At most so many bytes of publications; the first one always counts as fitting.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
}

/// A page of history.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HistoryPage {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The publications, in the order asked for, without holes.
    #[prost(message, repeated, tag = "2")]
    pub publications: Vec<Publication>,
    /// The newest committed offset; 0: empty.
    #[prost(uint64, tag = "3")]
    pub top: u64,
    /// The oldest kept offset.
    #[prost(uint64, tag = "4")]
    pub first: u64,
    /// The room's generation.
    #[prost(uint32, tag = "5")]
    pub generation: u32,
    /// A code of `gb6_core_model::ErrorCode`; 0: none. 112 when `since` lies below `first - 1`.
    #[prost(uint32, tag = "6")]
    pub error: u32,
}
