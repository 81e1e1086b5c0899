//! A region process: the shard machine on the segmented log.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_ports::{Acquire, Fence, Page, StoreError};
use gb6_core_wire::mesh::{HistoryPage, Publication, ShardRef};
use gb6_core_wire::record::Record;
use gb6_region_shard::{AppendFailure, HistoryRead, Shard, ShardConfig, SyncStats};
use gb6_region_stores_embedded::sim_disk::{SimDisk, SimVfs};
use gb6_region_stores_embedded::{LogConfig, SegmentedLog};

/// Where the shard's log lies on the disk.
pub(crate) const DIRECTORY: &str = "shard";

/// Small segments, so that every run seals some.
pub(crate) fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 64 * 1024,
        index_every: 2 * 1024,
        batch_bytes_max: 8 * 1024,
        batch_records_max: 64,
        ..LogConfig::default()
    }
}

pub(crate) fn shard_config(shard: u32) -> ShardConfig {
    let mut config = ShardConfig::new(ShardRef {
        region: "eu".into(),
        shard,
    });
    config.batch_records_max = 16;
    config.batch_bytes_max = 6 * 1024;
    config
}

/// What a region process holds while it runs.
pub(crate) struct Region {
    /// Raised by every start: events of an earlier life are void.
    pub(crate) life: u64,
    /// The process is gone.
    pub(crate) down: bool,
    /// The newest placement that it was given: kept on its disk.
    pub(crate) kept: Arc<Snapshot>,
    /// The shard, while it serves it.
    pub(crate) up: Option<Owner>,
}

/// A shard that is served.
pub(crate) struct Owner {
    pub(crate) shard: Shard,
    log: SegmentedLog<SimVfs>,
    /// Room → offset → position: what the index would hold.
    index: BTreeMap<(String, String), BTreeMap<u64, u64>>,
    in_flight: Option<Arc<Vec<Record>>>,
}

/// What became of an append.
pub(crate) enum Append {
    Nothing,
    /// Written; the sync is to end later.
    Writing,
    /// Answered at once: the machine knows.
    Failed,
}

impl Owner {
    /// Opens the log, replays, acquires, serves.
    pub(crate) fn start(
        disk: &SimDisk,
        number: u32,
        snapshot: &Arc<Snapshot>,
        now_ms: u64,
        unix_ms: i64,
        incarnation: u64,
    ) -> Result<Self, StoreError> {
        let mut log = SegmentedLog::open(disk.dir(DIRECTORY), log_config())?;
        let mut shard = Shard::new(shard_config(number), snapshot.clone());
        let reader = log.reader();
        let mut from = log.range().first;
        if let Some((_, state)) = reader.load_checkpoint()?
            && let Ok(next) = shard.restore(&state)
        {
            from = next.max(from);
        }
        let mut index = BTreeMap::new();
        // The index is rebuilt from the whole log, the state from the checkpoint on.
        let mut at = log.range().first;
        read_all(&log, &mut at, |record| {
            note(&mut index, record);
            if record.position >= from {
                shard.replay(record);
            }
        })?;
        let (_, served_ms, _) = shard.log_state();
        let fence = Fence {
            region: Arc::from("eu"),
            shard: ShardId(number),
            shard_epoch: ShardEpoch(log.epoch().0 + 1),
            owner_incarnation: Incarnation(incarnation),
        };
        let wanted = Acquire {
            time: unix_ms,
            served_ms,
        };
        let acquired = log.acquire(&fence, wanted)?;
        read_all(&log, &mut at, |record| {
            note(&mut index, record);
            shard.replay(record);
        })?;
        shard.serve(
            now_ms,
            fence.shard_epoch.0,
            incarnation,
            acquired.range.next,
        );
        Ok(Self {
            shard,
            log,
            index,
            in_flight: None,
        })
    }

    /// Forms and writes a batch, unless one is in flight.
    pub(crate) fn append(&mut self, now_ms: u64, unix_ms: i64) -> Append {
        if self.in_flight.is_some() {
            return Append::Nothing;
        }
        let Some(batch) = self.shard.next_batch(now_ms, unix_ms) else {
            return Append::Nothing;
        };
        let records: Vec<Record> = batch.records.to_vec();
        let written = self.log.stage(records).and_then(|()| self.log.write());
        self.in_flight = Some(batch.records);
        match written {
            Ok(()) => Append::Writing,
            Err(error) => {
                self.failed(now_ms, &error);
                Append::Failed
            }
        }
    }

    /// The sync of the batch in flight ends.
    pub(crate) fn sync(&mut self, now_ms: u64) {
        if self.in_flight.is_none() {
            return;
        }
        match self.log.sync() {
            Ok(commit) => {
                let batch = self.in_flight.take().unwrap_or_default();
                for record in batch.iter() {
                    note(&mut self.index, record);
                }
                let stats = SyncStats {
                    sync_us: 1,
                    records: commit.shared,
                };
                self.shard.committed(now_ms, stats);
                // What a job could not do, the log does again before it needs it.
                let _ = self.log.run_jobs();
            }
            Err(error) => self.failed(now_ms, &error),
        }
    }

    fn failed(&mut self, now_ms: u64, error: &StoreError) {
        self.in_flight = None;
        let failure = match error {
            StoreError::Fenced { .. } => AppendFailure::Fenced,
            e if e.retryable() => AppendFailure::StorageFull,
            _ => AppendFailure::OutcomeUnknown,
        };
        self.shard.failed(now_ms, failure);
    }

    /// Saves a checkpoint; a disk that refuses leaves the older one.
    pub(crate) fn checkpoint(&self) {
        let (position, state) = self.shard.checkpoint();
        let _ = self.log.reader().save_checkpoint(position, &state);
    }

    /// Reads committed records from a position on, as somebody who follows the log does.
    pub(crate) fn follow(&self, at: u64, records: usize) -> Result<Page, StoreError> {
        self.log.reader().read(at, records, 4 * 1024)
    }

    /// Fills a page as the driver does: through the index, from the log.
    pub(crate) fn read(&self, read: &HistoryRead) -> HistoryPage {
        let mut page = read.page.clone();
        let key = (read.room.instance.clone(), read.room.channel.clone());
        let Some(room) = self.index.get(&key) else {
            return page;
        };
        let mut positions: Vec<u64> = room.range(read.low..=read.high).map(|(_, p)| *p).collect();
        if read.reverse {
            positions.reverse();
        }
        let Ok(records) = self.log.reader().read_at(&positions) else {
            page.error = gb6_core_model::ErrorCode::Internal.code();
            return page;
        };
        let mut bytes = 0;
        for record in records.into_iter().flatten() {
            let publication = Publication::of(&record);
            bytes += publication.size() as u64;
            if bytes > read.bytes && !page.publications.is_empty() {
                break;
            }
            page.publications.push(publication);
        }
        page
    }
}

fn note(index: &mut BTreeMap<(String, String), BTreeMap<u64, u64>>, record: &Record) {
    if record.takes_offset() {
        let room = (record.instance.clone(), record.channel.clone());
        let before = index
            .entry(room)
            .or_default()
            .insert(record.offset, record.position);
        assert!(
            before.is_none_or(|p| p == record.position),
            "offset {} of {} lies at two positions",
            record.offset,
            record.channel
        );
    }
}

/// Reads from `at` to the end of the log.
pub(crate) fn read_all(
    log: &SegmentedLog<SimVfs>,
    at: &mut u64,
    mut each: impl FnMut(&Record),
) -> Result<(), StoreError> {
    let reader = log.reader();
    loop {
        let page = reader.read(*at, 256, 64 * 1024)?;
        page.records.iter().for_each(&mut each);
        let done = page.next >= page.end || page.next == *at;
        *at = page.next;
        if done {
            return Ok(());
        }
    }
}
