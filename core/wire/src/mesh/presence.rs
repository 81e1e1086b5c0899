//! Who is present in the rooms of a shard.

use super::{Person, RoomRef};

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
