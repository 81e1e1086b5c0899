//! The recent tail of a shard in memory: what live subscribers and short absences ask for is
//! served without touching the index or the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gb6_core_wire::mesh::{Publication, RoomRef};
use gb6_core_wire::record::Record;

/// Bytes of records kept for one shard: some seconds of a busy one, and little enough that memory
/// which goes round stays in the processor's cache.
const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;

type Entry = (u64, Arc<Vec<Record>>, u32);

/// Committed records, newest batches first to be found, oldest first to go.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Instance → channel → (offset, batch, index), offsets consecutive.
    rooms: HashMap<String, HashMap<String, VecDeque<Entry>>>,
    batches: VecDeque<(Arc<Vec<Record>>, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds a committed batch; its bodies are clear.
    pub(crate) fn push(&mut self, batch: Arc<Vec<Record>>) {
        let mut bytes = 0;
        for (index, record) in batch.iter().enumerate() {
            bytes += size(record);
            if record.takes_offset() {
                let entry = (record.offset, batch.clone(), index as u32);
                self.room_mut(record).push_back(entry);
            }
        }
        self.bytes += bytes;
        self.batches.push_back((batch, bytes));
        while self.bytes > TAIL_BYTES_MAX && self.batches.len() > 1 {
            self.drop_oldest();
        }
    }

    fn room_mut(&mut self, record: &Record) -> &mut VecDeque<Entry> {
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
        for record in batch.iter().filter(|r| r.takes_offset()) {
            let Some(rooms) = self.rooms.get_mut(&record.instance) else {
                continue;
            };
            if let Some(entries) = rooms.get_mut(&record.channel) {
                entries.pop_front();
                if entries.is_empty() {
                    rooms.remove(&record.channel);
                }
            }
            if rooms.is_empty() {
                self.rooms.remove(&record.instance);
            }
        }
    }

    /// The lowest offset of the room from which on everything committed is here.
    pub(crate) fn first(&self, room: &RoomRef) -> Option<u64> {
        let entries = self.rooms.get(&room.instance)?.get(&room.channel)?;
        entries.front().map(|(offset, _, _)| *offset)
    }

    /// The publication at `offset`, if it is here.
    pub(crate) fn get(&self, room: &RoomRef, offset: u64) -> Option<Publication> {
        let entries = self.rooms.get(&room.instance)?.get(&room.channel)?;
        let first = entries.front()?.0;
        let at = usize::try_from(offset.checked_sub(first)?).ok()?;
        let (found, batch, index) = entries.get(at)?;
        debug_assert_eq!(*found, offset, "the tail has no holes");
        Some(Publication::of(batch.get(*index as usize)?))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
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
}
