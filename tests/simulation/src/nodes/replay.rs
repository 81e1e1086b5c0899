//! The state of a shard as far as its log has been read: by whoever follows it, or is to own it.

use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::ShardLog;
use gb6_core_ports::memory::MemoryLog;
use gb6_core_wire::mesh::{HistoryPage, Publication};
use gb6_core_wire::record::Record;
use gb6_region_shard::{HistoryRead, Shard};

use crate::region::shard_config;

/// Records read at once.
const PAGE_RECORDS: usize = 256;
/// Bytes read at once.
const PAGE_BYTES: usize = 64 * 1024;

/// A shard's machine that has been told everything before a position.
pub(crate) struct Replay {
    pub(crate) shard: Shard,
    /// The position that is read next.
    pub(crate) next: u64,
    /// The positions of the room's messages: that of offset 1 first.
    positions: Vec<u64>,
}

impl Replay {
    /// Restores the newest checkpoint; nothing behind it is read yet.
    pub(crate) fn begin(log: &MemoryLog, number: usize, snapshot: &Arc<Snapshot>) -> Self {
        let mut shard = Shard::new(shard_config(number as u32), snapshot.clone());
        let checkpoint = match log.load_checkpoint() {
            Ok(checkpoint) => checkpoint,
            Err(error) => panic!("shard {number}: no checkpoint can be looked for: {error}"),
        };
        let from = checkpoint.map(|(position, state)| match shard.restore(&state) {
            Ok(next) => next,
            Err(error) => panic!("shard {number}: the checkpoint at {position}: {error}"),
        });
        let mut replay = Self {
            shard,
            next: 0,
            positions: Vec::new(),
        };
        // The index is made from the whole log.
        replay.read(log, from.unwrap_or(0), from);
        replay
    }

    /// Reads on to the log's end.
    pub(crate) fn read_on(&mut self, log: &MemoryLog) {
        self.read(log, 0, None);
        // It concerns the index, which is made here.
        while self.shard.poll_output().is_some() {}
    }

    /// Reads up to `end`; the machine knows everything before `from`.
    fn read(&mut self, log: &MemoryLog, from: u64, end: Option<u64>) {
        loop {
            let page = match log.read(self.next, PAGE_RECORDS, PAGE_BYTES) {
                Ok(page) => page,
                Err(error) => panic!("a log can not be read at {}: {error}", self.next),
            };
            for record in &page.records {
                if end.is_some_and(|end| record.position >= end) {
                    self.next = record.position;
                    return;
                }
                self.note(record);
                if record.position >= from {
                    self.shard.replay(record);
                }
            }
            let done = page.next >= page.end || page.next == self.next;
            self.next = page.next;
            if done {
                return;
            }
        }
    }

    /// A record is committed: it can be read.
    pub(crate) fn note(&mut self, record: &Record) {
        if record.takes_offset() {
            self.positions.push(record.position);
            let offset = self.positions.len() as u64;
            assert_eq!(record.offset, offset, "offsets are consecutive");
        }
    }

    /// Fills a page as the driver does: through the index, from the log.
    pub(crate) fn page(&self, log: &MemoryLog, read: &HistoryRead) -> HistoryPage {
        let mut page = read.page.clone();
        let mut offsets: Vec<u64> = (read.low..=read.high).collect();
        if read.reverse {
            offsets.reverse();
        }
        let positions = offsets.iter().map(|o| self.positions[*o as usize - 1]);
        let positions: Vec<u64> = positions.collect();
        let Ok(records) = log.read_at(&positions) else {
            page.error = ErrorCode::Internal.code();
            return page;
        };
        let records = records.into_iter().flatten();
        page.publications = records.map(|record| Publication::of(&record)).collect();
        page
    }
}
