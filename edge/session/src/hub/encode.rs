//! Encoding once per dialect.

use bytes::Bytes;
use gb6_core_wire::client::{self, Dialect};
use gb6_core_wire::mesh::{Person, Publication};

/// The frames of one event, made when the first subscriber of a dialect needs them.
#[derive(Default)]
pub(super) struct Frames {
    json: Option<Bytes>,
    protobuf: Option<Bytes>,
}

impl Frames {
    pub(super) fn get(&mut self, dialect: Dialect, encode: impl FnOnce(Dialect) -> Bytes) -> Bytes {
        let frame = match dialect {
            Dialect::Json => &mut self.json,
            Dialect::Protobuf => &mut self.protobuf,
        };
        frame.get_or_insert_with(|| encode(dialect)).clone()
    }

    /// Bytes of the longest.
    pub(super) fn longest(&self) -> usize {
        let length = |frame: &Option<Bytes>| frame.as_ref().map_or(0, Bytes::len);
        length(&self.json).max(length(&self.protobuf))
    }

    /// How many were made.
    pub(super) fn made(&self) -> u64 {
        u64::from(self.json.is_some()) + u64::from(self.protobuf.is_some())
    }
}

pub(super) fn publication(channel: &str, publication: &Publication, dialect: Dialect) -> Bytes {
    client::encode_publication_push(dialect, channel, publication)
}

pub(super) fn joined_or_left(channel: &str, who: &Person, joined: bool, dialect: Dialect) -> Bytes {
    if joined {
        client::encode_join_push(dialect, channel, who)
    } else {
        client::encode_leave_push(dialect, channel, who)
    }
}
