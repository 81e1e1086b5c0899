//! The last records of a log, kept while it is replayed: they fill the tail of a shard that begins
//! to serve, so that what the index may not know yet (it is behind by a moment, or the disk is full)
//! is served at once.

use std::collections::VecDeque;
use std::sync::Arc;

use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::Record;
use gb6_region_shard::Shard;
use prost::Message;

use crate::bodies::RecordKeys;
use crate::tail::Tail;

/// Bytes of records kept.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Records of one batch of the tail: they are forgotten together.
const BATCH: usize = 64;

/// The newest publications, oldest first.
#[derive(Default)]
pub(crate) struct Recent {
    records: VecDeque<(Record, usize)>,
    bytes: usize,
}

impl Recent {
    /// Takes the next record of the log.
    pub(crate) fn push(&mut self, record: Record) {
        if !record.takes_offset() {
            return;
        }
        let bytes = record.encoded_len();
        self.bytes += bytes;
        self.records.push_back((record, bytes));
        while self.bytes > BYTES_MAX {
            match self.records.pop_front() {
                Some((_, bytes)) => self.bytes -= bytes,
                None => return,
            }
        }
    }

    /// The tail of a shard that has replayed these records, their bodies clear.
    pub(crate) fn into_tail(self, shard: &Shard, keys: &RecordKeys) -> Tail {
        let kept = self.records.into_iter().filter_map(|(mut record, _)| {
            let room = RoomRef {
                instance: record.instance.clone(),
                channel: record.channel.clone(),
            };
            // Below it the log may have holes, which a tail must not.
            if record.offset < shard.first_offset(&room) {
                return None;
            }
            if let Err(error) = keys.open(&mut record) {
                tracing::warn!(position = record.position, %error, "a message can not be shown");
                gb6_core_ports::retention::erase(&mut record);
            }
            Some(record)
        });
        let kept: Vec<Record> = kept.collect();
        let mut tail = Tail::default();
        for batch in kept.chunks(BATCH) {
            tail.push(Arc::new(batch.to_vec()));
        }
        tail
    }
}
