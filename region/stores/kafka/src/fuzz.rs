//! Entry points for fuzzers: every parser of what a topic, an archive or a configuration may hold, fed
//! with anything. Each must return. What a fuzzer finds becomes a file in `tests/corpus/`, which the
//! tests replay.

use bytes::Bytes;
use gb6_core_model::Position;

use crate::config::Config;
use crate::frame::{FrameHeader, encoded_records, records, served_ms_of};
use crate::tail::Tail;

/// Any bytes as a message of a shard's partition.
pub fn message(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    if let Ok(header) = FrameHeader::decode(&message) {
        let mut tail = Tail::default();
        tail.take(0, &header, served_ms_of(&header, &message).unwrap_or(0));
        let _ = encoded_records(&header, &message);
        for first in [0, header.first, Position::MAX] {
            // Any answer will do.
            let _ = records(&header, &message, first, 7);
        }
    }
    if let Some(tail) = Tail::decode(bytes) {
        assert_eq!(tail.encode(), bytes, "what is read is written again");
    }
}

/// Any text as the URI of a Kafka log.
pub fn uri(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Any answer will do.
        let _ = Config::parse(text);
    }
}
