//! The last records of a log, kept while it is replayed: they fill the tail of a shard that begins
//! to serve, so that what the index may not know yet (it is behind by a moment, or the disk is full)
//! is served at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::{BodyError, Record};
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
        // The first offsets behind what can not be opened here yet, by room: it is no tail's, which must
        // have no holes.
        let mut begins: HashMap<RoomRef, u64> = HashMap::new();
        let opened = self.records.into_iter().filter_map(|(mut record, _)| {
            let room = room_of(&record);
            // Below it the log may have holes, which a tail must not.
            if record.offset < shard.first_offset(&room) {
                return None;
            }
            if let Err(error) = keys.open(&mut record) {
                tracing::warn!(position = record.position, %error, "a message can not be shown");
                if let BodyError::KeyDestroyed { .. } = error {
                    begins.insert(room, record.offset + 1);
                    return None;
                }
                gb6_core_ports::retention::erase(&mut record);
            }
            Some(record)
        });
        let mut kept: Vec<Record> = opened.collect();
        if !begins.is_empty() {
            kept.retain(|record| {
                let begin = begins.get(&room_of(record));
                begin.is_none_or(|begin| record.offset >= *begin)
            });
        }
        let mut tail = Tail::default();
        for batch in kept.chunks(BATCH) {
            tail.push(Arc::new(batch.to_vec()));
        }
        tail
    }
}

fn room_of(record: &Record) -> RoomRef {
    RoomRef {
        instance: record.instance.clone(),
        channel: record.channel.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::mesh::ShardRef;
    use gb6_core_wire::record::Kind;
    use gb6_region_shard::ShardConfig;

    #[test]
    fn a_message_whose_key_is_not_here_yet_is_not_shown_as_erased() {
        let all = RecordKeys::default();
        all.add("demo", 2, [3; 32]);
        all.add("other", 1, [2; 32]);
        let of = |instance: &str, offset: u64| Record {
            kind: Kind::Message.into(),
            instance: instance.into(),
            channel: "room:1".into(),
            offset,
            body: format!("{instance} {offset}").into(),
            ..Record::default()
        };
        let seal = |instance: &str, offset: u64| {
            let sealed = all.for_log(&[of(instance, offset)]).expect("sealed");
            sealed.into_iter().next().expect("a record")
        };
        let mut recent = Recent::default();
        // Here the key with which the second one was sealed is not known.
        recent.push(of("demo", 1));
        recent.push(seal("demo", 2));
        recent.push(of("demo", 3));
        recent.push(seal("other", 1));
        let here = RecordKeys::default();
        here.add("demo", 1, [1; 32]);
        here.add("other", 1, [2; 32]);
        let config = ShardConfig::new(ShardRef {
            region: "eu".into(),
            shard: 0,
        });
        let tail = recent.into_tail(&Shard::new(config, Arc::default()), &here);
        let room = |instance: &str| room_of(&of(instance, 1));
        assert_eq!(
            tail.first(&room("demo")),
            Some(3),
            "no holes, nothing erased"
        );
        let other = tail.get(&room("other"), 1).expect("it is there");
        assert_eq!(other.data, "other 1");
    }
}
