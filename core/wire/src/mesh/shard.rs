//! The shard stream: what an edge and the owner of a shard say to each other.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Class, Deliver, PrefixFollowed, PrefixRef, Presence, PresenceAnswer, PresenceQuery,
    PresenceSet, SessionsReport, SessionsWritten, SignalPublish, UserAnswer, UserQuery,
    UserStatusAnswer, UserStatusQuery, UsersHere,
};

/// A frame from an edge to a shard's owner.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToOwner {
    /// The frame.
    #[prost(
        oneof = "OwnerFrame",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 17, 18, 19, 20, 40, 41"
    )]
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
    /// Nothing that a room has now is to be shown any more.
    #[prost(message, tag = "20")]
    RemoveHistory(RemoveHistory),
    /// A publish of a session that is kept nowhere.
    #[prost(message, tag = "15")]
    Signal(SignalPublish),
    /// Which users have sessions at the edge.
    #[prost(message, tag = "16")]
    UsersHere(UsersHere),
    /// Asks which edges have a user.
    #[prost(message, tag = "17")]
    UserQuery(UserQuery),
    /// The edge has subscribers of all rooms whose names begin alike.
    #[prost(message, tag = "40")]
    FollowPrefix(PrefixRef),
    /// The edge has none any more.
    #[prost(message, tag = "41")]
    UnfollowPrefix(PrefixRef),
    /// Which sessions there are at the edge, and which have ended.
    #[prost(message, tag = "18")]
    Sessions(SessionsReport),
    /// Asks for the status of a user, or changes it.
    #[prost(message, tag = "19")]
    UserStatus(UserStatusQuery),
}

/// A frame from a shard's owner to an edge.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToEdge {
    /// The frame.
    #[prost(
        oneof = "EdgeFrame",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 17, 18, 19, 20, 40"
    )]
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
    /// The answer to `remove_history`, and what other edges hear of it.
    #[prost(message, tag = "20")]
    HistoryRemoved(HistoryRemoved),
    /// A publication that is kept nowhere.
    #[prost(message, tag = "15")]
    Signal(Deliver),
    /// The answer to a user query.
    #[prost(message, tag = "17")]
    UserAnswer(UserAnswer),
    /// The answer to `follow_prefix`.
    #[prost(message, tag = "40")]
    PrefixFollowed(PrefixFollowed),
    /// The answer to ends of sessions.
    #[prost(message, tag = "18")]
    SessionsWritten(SessionsWritten),
    /// The answer to `user_status`.
    #[prost(message, tag = "19")]
    UserStatusAnswer(UserStatusAnswer),
}

impl ToEdge {
    /// The class of this frame.
    pub fn class(&self) -> Class {
        match &self.frame {
            Some(EdgeFrame::Published(_) | EdgeFrame::SessionsWritten(_)) => Class::Acknowledgement,
            Some(
                EdgeFrame::Deliver(_)
                | EdgeFrame::Join(_)
                | EdgeFrame::Leave(_)
                | EdgeFrame::Erased(_)
                | EdgeFrame::Signal(_),
            ) => Class::Live,
            // The answer needs not wait for what it says; a notice must not overtake deliveries.
            Some(EdgeFrame::HistoryRemoved(removed)) if removed.request == 0 => Class::Live,
            Some(
                EdgeFrame::HistoryRemoved(_)
                | EdgeFrame::UserAnswer(_)
                | EdgeFrame::UserStatusAnswer(_),
            ) => Class::Acknowledgement,
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
    /// Write it only if this is above the version of the room's newest versioned publication; else
    /// the answer names the newest publication. 0: write it.
    #[prost(uint64, tag = "13")]
    pub version: u64,
    /// The epoch of `version`: versions of different epochs are not compared. Empty: any.
    #[prost(string, tag = "14")]
    pub version_epoch: String,
    /// One more than the offset behind which it is to be written: if the room's newest publication
    /// is another one then, it is answered 112. 0: it is written wherever the room is.
    #[prost(uint64, tag = "15")]
    pub next_after: u64,
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

/// Asks that nothing which the room has now be shown any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RemoveHistory {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The instance epoch that the edge routed by.
    #[prost(uint64, tag = "3")]
    pub instance_epoch: u64,
    /// The first offset that is to stay, if the room has so many; 0: none stays that is there.
    #[prost(uint64, tag = "4")]
    pub first: u64,
}

/// Nothing of a room below `first` is shown any more.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HistoryRemoved {
    /// The edge's request number; 0: another edge asked for it.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The first offset that is still shown; 0 on error.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "4")]
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
