//! Publications and people on their way to clients: what they see of a record.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Person, RoomRef};
use crate::record::Record;

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
    /// erased one the message id is not part: the record keeps it for the dedupe window only. One of
    /// the server API is nobody's, and its id is between the API and its caller.
    pub fn of(record: &Record) -> Self {
        let mut tags = record.tags.clone();
        let erased = record.flags & crate::record::flags::ERASED != 0;
        let origin = record.origin.as_ref();
        let origin = origin.filter(|o| !(o.user.is_empty() && o.client.is_empty()));
        if !record.client_id.is_empty() && !erased && origin.is_some() {
            let id = String::from_utf8_lossy(&record.client_id).into_owned();
            tags.insert("id".to_owned(), id);
        }
        Self {
            offset: record.offset,
            generation: record.generation,
            time: record.time,
            from: origin.map(|o| Person {
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
