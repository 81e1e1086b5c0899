//! Signals: publications of channels that keep nothing, and those that a stream is not to keep. They go to the owner of the channel's
//! shard and from there to every edge with interest: at most once, in the order of each publisher.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Person, RoomRef};

/// A signal of a session. The owner answers `published` without an offset when it has handed it on,
/// which gives the credit back; it is never sent again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalPublish {
    /// The edge's number for the answer, unique on this attachment.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The room.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The instance epoch that the edge routed by.
    #[prost(uint64, tag = "3")]
    pub instance_epoch: u64,
    /// Who publishes.
    #[prost(message, required, tag = "4")]
    pub from: Person,
    /// The data.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
    /// `gb6_core_wire::record::ContentType`.
    #[prost(enumeration = "crate::record::ContentType", tag = "6")]
    pub content_type: i32,
    /// Tags to show to clients.
    #[prost(btree_map = "string, string", tag = "7")]
    pub tags: BTreeMap<String, String>,
    /// Hand it on in a stream too, where it gets no record and no offset. Without it a signal of a
    /// stream is answered 1002: the edge thinks that the channel keeps nothing.
    #[prost(bool, tag = "8")]
    pub unkept: bool,
}
