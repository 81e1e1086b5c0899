//! The recent tail of a shard in memory: what live subscribers and short absences ask for is
//! served without touching the index or the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gb6_core_wire::mesh::{Publication, RoomRef};
use gb6_core_wire::record::Record;

use crate::checks;

/// Bytes of records kept for one shard: some seconds of a busy one, and little enough that memory
/// which goes round stays in the processor's cache.
const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records of one room that follow each other in a batch: consecutive offsets, consecutive indexes.
#[derive(Debug)]
struct Span {
    first: u64,
    batch: Arc<Vec<Record>>,
    index: usize,
    len: usize,
}

/// Committed records, newest batches first to be found, oldest first to go.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Instance → channel → spans, offsets consecutive over all of them.
    rooms: HashMap<String, HashMap<String, VecDeque<Span>>>,
    batches: VecDeque<(Arc<Vec<Record>>, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds a committed batch; its bodies are clear. Whether it continues its rooms is checked here,
    /// where the record before each is at hand.
    pub(crate) fn push(&mut self, batch: Arc<Vec<Record>>) {
        for (index, len) in spans(&batch) {
            let records = &batch[index..index + len];
            let span = Span {
                first: records[0].offset,
                batch: batch.clone(),
                index,
                len,
            };
            let spans = self.room_mut(&records[0]);
            let before = spans.back().map(|s| &s.batch[s.index + s.len - 1]);
            if before.is_some_and(|before| !checks::continues(before, &records[0])) {
                // What was asked for by offset would be found at the wrong place.
                spans.clear();
            }
            for pair in records.windows(2) {
                checks::continues(&pair[0], &pair[1]);
            }
            spans.push_back(span);
        }
        let bytes = batch.iter().map(size).sum();
        self.bytes += bytes;
        self.batches.push_back((batch, bytes));
        while self.bytes > TAIL_BYTES_MAX && self.batches.len() > 1 {
            self.drop_oldest();
        }
    }

    fn room_mut(&mut self, record: &Record) -> &mut VecDeque<Span> {
        // Names are copied only for a room that is not here yet.
        let known = self.rooms.get(&record.instance);
        if !known.is_some_and(|rooms| rooms.contains_key(&record.channel)) {
            let rooms = self.rooms.entry(record.instance.clone()).or_default();
            rooms.insert(record.channel.clone(), VecDeque::new());
        }
        let rooms = self.rooms.get_mut(&record.instance);
        rooms
            .and_then(|rooms| rooms.get_mut(&record.channel))
            .expect("it was put there")
    }

    fn drop_oldest(&mut self) {
        let Some((batch, bytes)) = self.batches.pop_front() else {
            return;
        };
        self.bytes -= bytes;
        for (index, _) in spans(&batch) {
            let record = &batch[index];
            let Some(rooms) = self.rooms.get_mut(&record.instance) else {
                continue;
            };
            if let Some(spans) = rooms.get_mut(&record.channel) {
                spans.pop_front();
                if spans.is_empty() {
                    rooms.remove(&record.channel);
                }
            }
            if rooms.is_empty() {
                self.rooms.remove(&record.instance);
            }
        }
    }

    fn spans_of(&self, room: &RoomRef) -> Option<&VecDeque<Span>> {
        self.rooms.get(&room.instance)?.get(&room.channel)
    }

    /// The lowest offset of the room from which on everything committed is here.
    pub(crate) fn first(&self, room: &RoomRef) -> Option<u64> {
        self.spans_of(room)?.front().map(|span| span.first)
    }

    /// The publication at `offset`, if it is here.
    pub(crate) fn get(&self, room: &RoomRef, offset: u64) -> Option<Publication> {
        let spans = self.spans_of(room)?;
        let behind = spans.partition_point(|span| span.first <= offset);
        let span = spans.get(behind.checked_sub(1)?)?;
        let at = usize::try_from(offset - span.first).ok()?;
        let record = (at < span.len).then(|| &span.batch[span.index + at])?;
        debug_assert_eq!(record.offset, offset, "a span has no holes");
        Some(Publication::of(record))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The spans of a batch: (index of the first record, records). A room's name is then looked up
/// once for all that one client published in a row.
fn spans(batch: &[Record]) -> impl Iterator<Item = (usize, usize)> {
    let mut index = 0;
    std::iter::from_fn(move || {
        while !batch.get(index)?.takes_offset() {
            index += 1;
        }
        let begin = index;
        index += 1;
        while batch
            .get(index)
            .is_some_and(|next| follows(&batch[index - 1], next))
        {
            index += 1;
        }
        Some((begin, index - begin))
    })
}

fn follows(record: &Record, next: &Record) -> bool {
    next.takes_offset()
        && next.offset == record.offset + 1
        && next.channel == record.channel
        && next.instance == record.instance
}

fn size(record: &Record) -> usize {
    record.body.len() + record.channel.len() + record.instance.len() + 320
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::record::Kind;

    fn record(channel: &str, offset: u64, bytes: usize) -> Record {
        Record {
            kind: Kind::Message.into(),
            instance: "demo".into(),
            channel: channel.into(),
            offset,
            body: vec![b'x'; bytes].into(),
            ..Record::default()
        }
    }

    fn room(channel: &str) -> RoomRef {
        RoomRef {
            instance: "demo".into(),
            channel: channel.into(),
        }
    }

    #[test]
    fn old_batches_go_and_new_ones_are_found() {
        let mut tail = Tail::default();
        tail.push(Arc::new(vec![record("room:b", 1, 10)]));
        for n in 1..=40 {
            tail.push(Arc::new(vec![record("room:a", n, TAIL_BYTES_MAX / 16)]));
        }
        assert!(tail.bytes() <= TAIL_BYTES_MAX);
        assert_eq!(tail.first(&room("room:b")), None);
        let first = tail.first(&room("room:a")).expect("some are kept");
        assert!(first > 20);
        assert_eq!(tail.get(&room("room:a"), first - 1), None);
        assert_eq!(tail.get(&room("room:a"), 40).map(|p| p.offset), Some(40));
        assert_eq!(tail.get(&room("room:a"), 41), None);
    }

    #[test]
    fn rooms_that_share_batches_are_found_record_by_record() {
        let control = Record {
            kind: Kind::Seal.into(),
            offset: 0,
            ..record("room:a", 0, 0)
        };
        let mut tail = Tail::default();
        tail.push(Arc::new(vec![
            record("room:a", 1, 1),
            record("room:a", 2, 2),
            record("room:b", 1, 3),
            record("room:a", 3, 4),
            control.clone(),
            record("room:a", 4, 5),
        ]));
        tail.push(Arc::new(vec![control]));
        tail.push(Arc::new(vec![
            record("room:b", 2, 6),
            record("room:b", 3, 7),
        ]));
        for (name, sizes) in [("room:a", &[1, 2, 4, 5][..]), ("room:b", &[3, 6, 7])] {
            assert_eq!(tail.first(&room(name)), Some(1));
            for (offset, size) in (1..).zip(sizes) {
                let found = tail.get(&room(name), offset).expect("it is there");
                assert_eq!((found.offset, found.data.len()), (offset, *size));
            }
            assert_eq!(tail.get(&room(name), 0), None);
            assert_eq!(tail.get(&room(name), sizes.len() as u64 + 1), None);
        }
    }
}
