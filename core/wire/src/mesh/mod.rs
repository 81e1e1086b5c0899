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
//! changes. **Relay stream** (edge ↔ a node of a region): [`ToRelay`] and [`FromRelay`], by which
//! edges ask each other. **Limits stream** (edge ↔ owner of an instance's home shard):
//! [`LimitsWanted`] and [`LimitsShared`]. **Owners stream** (edge ↔ a node of a region that decides
//! itself who owns its shards): [`OwnersNow`] at once and on changes.
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
//! - `history_removed` says that nothing of a room below `first` is shown any more: with a `request`
//!   it answers one, without it tells an edge with interest in the room.
//! - A `signal` to an owner counts against the same credit and has no number: it is answered by a
//!   `published` without an offset and never sent again. One to an edge has no offset either, and
//!   may be missing. In a stream it stands between publications and moves nobody's position.
//! - `users_here` names the users that have sessions at an edge; the owner forgets them with the link.
//!   Whoever asks for a user's edges goes to them alone only if every edge that it knows has
//!   reported by the same snapshot.
//! - `user_status` to an owner is answered by a `user_status_answer`; what was lost may be sent again,
//!   because to change it twice is to change it once. An owner that does not know the frame passes it
//!   over, and its edge answers that it got no answer.
//! - `follow_prefix` is answered by `prefix_followed`. From then on the owner sends every publication
//!   and signal of a room whose name begins with the prefix, other than lists of users, once to the
//!   edge, whether or not that has interest in the room. It ends with `unfollow_prefix` or the stream;
//!   what is missed then is not made up for.
//! - A refused or ended stream says nothing about the fate of publishes in flight.

mod history;
mod limits;
mod owners;
mod people;
mod prefix;
mod presence;
mod publication;
mod relay;
mod sessions;
mod shard;
mod signal;
mod users;

use bytes::Bytes;

pub use history::*;
pub use limits::*;
pub use owners::*;
pub use people::*;
pub use prefix::*;
pub use presence::*;
pub use publication::*;
pub use relay::*;
pub use sessions::*;
pub use shard::*;
pub use signal::*;
pub use users::*;

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
    /// Over how long peers that lose the link should spread their first dials, in ms; 0: at once.
    #[prost(uint32, tag = "7")]
    pub retry_ms: u32,
}

/// The first frame of every stream after the first: what it is for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StreamOpen {
    /// The purpose.
    #[prost(oneof = "Purpose", tags = "1, 2, 3, 4, 5, 6")]
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
    /// Questions between edges.
    #[prost(message, tag = "4")]
    Relay(RelayOpen),
    /// Shares of limits.
    #[prost(message, tag = "5")]
    Limits(LimitsOpen),
    /// Who owns the shards of a region.
    #[prost(message, tag = "6")]
    Owners(OwnersOpen),
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
