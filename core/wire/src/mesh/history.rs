//! The catch-up stream: pages of history.

use super::{Publication, RoomRef};

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
