//! The smallest log engine on an archive: a live part in memory, which several handles share, and what is
//! sealed of it in a `BlobStore`.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Position, ShardEpoch, ShardId};
use gb6_core_obs::Metrics;
use gb6_core_ports::contract::log::LogFixture;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{
    Acquire, Acquired, BlobStore, Commit, Completion, ConsumerState, Durability, Fence, LogCaps,
    LogRange, Page, Retain, RetentionPlan, ShardLog, StoreError,
};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use gb6_region_archive::{Archive, ArchiveConfig, Archives, Live};
use parking_lot::Mutex;
use prost::Message;

const BATCH_RECORDS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What a log's handles share, the place of a broker.
#[derive(Default)]
struct Tail {
    /// What is not archived.
    records: Vec<Record>,
    next: Position,
    owner: Option<Fence>,
    served_ms: u64,
}

/// The storage of one shard.
pub(crate) struct TailStorage {
    tail: Arc<Mutex<Tail>>,
    blobs: Arc<dyn BlobStore>,
    seal_after: usize,
    merges: bool,
}

impl TailStorage {
    /// One that seals what it holds beyond `seal_after` records, and `merges` what it seals so with what
    /// it has sealed before.
    pub(crate) fn new(seal_after: usize, merges: bool) -> Self {
        Self {
            tail: Arc::default(),
            blobs: Arc::new(MemoryBlobs::new()),
            seal_after,
            merges,
        }
    }
}

/// Small segments and caches, so that a test has many of the first and misses the second.
pub(crate) fn small() -> ArchiveConfig {
    ArchiveConfig {
        segment_bytes_max: 8 * 1024,
        index_every: 512,
        cache_bytes_max: 1024 * 1024,
        ..ArchiveConfig::default()
    }
}

/// The archive of the shard that the contract's fences name.
pub(crate) fn archive(blobs: Arc<dyn BlobStore>) -> Result<Archive, StoreError> {
    Archives::new(blobs, "test", "r1", small(), &Metrics::bare()).open(ShardId(3))
}

impl LogFixture for TailStorage {
    fn open(&self) -> Arc<dyn ShardLog> {
        Arc::new(TailLog {
            tail: self.tail.clone(),
            archive: archive(self.blobs.clone()).expect("an archive"),
            fence: Mutex::new(None),
            seal_after: self.seal_after,
            merges: self.merges,
        })
    }
}

struct TailLog {
    tail: Arc<Mutex<Tail>>,
    archive: Archive,
    /// Under which this handle acquired last.
    fence: Mutex<Option<Fence>>,
    seal_after: usize,
    merges: bool,
}

impl Tail {
    fn first(&self) -> Position {
        self.records.first().map_or(self.next, |r| r.position)
    }

    fn live(&self) -> Live {
        Live {
            next: self.next,
            bytes: self.records.iter().map(|r| r.encoded_len() as u64).sum(),
        }
    }

    fn check(&self, fence: &Fence) -> Result<(), StoreError> {
        if self.owner.as_ref() == Some(fence) {
            return Ok(());
        }
        Err(StoreError::Fenced {
            held: fence.shard_epoch,
            current: self.epoch(),
        })
    }

    fn epoch(&self) -> ShardEpoch {
        self.owner.as_ref().map_or(ShardEpoch(0), |o| o.shard_epoch)
    }

    fn push(&mut self, record: Record) {
        self.next = record.position + 1;
        self.records.push(record);
    }
}

impl TailLog {
    /// Seals all of the live part. The lock is held as a partition's owner holds its own.
    fn seal(&self, tail: &mut Tail, fence: &Fence, about: u64) -> Result<(), StoreError> {
        self.archive.refresh()?;
        let mut sealer = self.archive.sealer(fence, about)?;
        for record in &tail.records {
            sealer.push(record)?;
        }
        sealer.finish(Bytes::from(tail.next.to_string()))?;
        tail.records.clear();
        Ok(())
    }

    /// Looks for a newer manifest where the live part begins behind what is known to be archived.
    fn follow(&self, tail: &Tail) -> Result<(), StoreError> {
        if self.archive.range().next != tail.first() {
            self.archive.refresh()?;
        }
        assert_eq!(self.archive.range().next, tail.first());
        Ok(())
    }

    fn fence(&self) -> Result<Fence, StoreError> {
        let fence = self.fence.lock().clone();
        fence.ok_or_else(|| StoreError::Fenced {
            held: ShardEpoch(0),
            current: self.tail.lock().epoch(),
        })
    }

    fn live(&self) -> Live {
        self.tail.lock().live()
    }

    fn try_acquire(&self, fence: Fence, acquire: Acquire) -> Result<Acquired, StoreError> {
        let mut tail = self.tail.lock();
        if fence.shard_epoch <= tail.epoch() {
            return Err(StoreError::Fenced {
                held: fence.shard_epoch,
                current: tail.epoch(),
            });
        }
        self.archive.begin(&fence)?;
        self.follow(&tail)?;
        tail.served_ms = tail.served_ms.max(acquire.served_ms);
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Acquire as i32,
            position: tail.next,
            shard_epoch: fence.shard_epoch.0,
            owner_incarnation: fence.owner_incarnation.0,
            time: acquire.time,
            served_ms: tail.served_ms,
            ..Record::default()
        };
        tail.push(record.clone());
        tail.owner = Some(fence.clone());
        *self.fence.lock() = Some(fence);
        let range = LogRange {
            first: self.archive.range().first,
            next: tail.next,
        };
        Ok(Acquired { record, range })
    }

    fn try_append(&self, fence: &Fence, mut batch: Vec<Record>) -> Result<Commit, StoreError> {
        let mut tail = self.tail.lock();
        tail.check(fence)?;
        let bytes: usize = batch.iter().map(Message::encoded_len).sum();
        if batch.len() > BATCH_RECORDS_MAX || (batch.len() > 1 && bytes > BATCH_BYTES_MAX) {
            return Err(StoreError::TooLarge {
                size: bytes as u64,
                limit: BATCH_BYTES_MAX as u64,
            });
        }
        let first = tail.next;
        for (record, position) in batch.iter_mut().zip(first..) {
            if record.position != position {
                return Err(StoreError::Conflict {
                    what: format!("{} is not {position}", record.position),
                });
            }
            record.shard_epoch = fence.shard_epoch.0;
            record.owner_incarnation = fence.owner_incarnation.0;
        }
        for record in batch {
            tail.push(record);
        }
        let next = tail.next;
        if tail.records.len() > self.seal_after {
            let about = if self.merges { tail.live().bytes } else { 0 };
            self.seal(&mut tail, fence, about)?;
        }
        Ok(Commit {
            first,
            next,
            bytes: bytes as u64,
            ..Commit::default()
        })
    }
}

impl ShardLog for TailLog {
    fn caps(&self) -> LogCaps {
        LogCaps {
            durability: Durability::Memory,
            batch_records_max: BATCH_RECORDS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            rewrite: true,
            exclusive: false,
        }
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        done.finish(self.try_acquire(fence, acquire));
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        done.finish(self.try_append(fence, batch));
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.tail.lock().check(fence)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        let tail = self.tail.lock();
        self.follow(&tail)?;
        Ok(LogRange {
            first: self.archive.range().first,
            next: tail.next,
        })
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        let tail = self.tail.lock();
        self.follow(&tail)?;
        let mut page = self.archive.read(from, max_records, max_bytes)?;
        let mut bytes: usize = page.records.iter().map(Message::encoded_len).sum();
        page.end = tail.next;
        for record in &tail.records {
            if page.next != record.position {
                continue;
            }
            bytes += record.encoded_len();
            let full = page.records.len() >= max_records || bytes > max_bytes;
            if full && !page.records.is_empty() {
                break;
            }
            page.next = record.position + 1;
            page.records.push(record.clone());
        }
        Ok(page)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        let tail = self.tail.lock();
        self.follow(&tail)?;
        let mut found = self.archive.read_at(positions)?;
        for (slot, position) in found.iter_mut().zip(positions) {
            if let Some(record) = tail.records.iter().find(|r| r.position == *position) {
                assert_eq!(*slot, None);
                *slot = Some(record.clone());
            }
        }
        Ok(found)
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        self.tail.lock().check(fence)?;
        self.archive.trim(fence, to, self.live())
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.tail.lock().check(fence)?;
        self.archive.rewrite(fence, segment, retain)
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        let mut tail = self.tail.lock();
        tail.check(fence)?;
        if position >= tail.first() && position < tail.next {
            self.seal(&mut tail, fence, 0)?;
        }
        Ok(self.archive.segment_of(position))
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.archive.plan_retention(first_kept, settled)
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        self.archive
            .register_consumer(&self.fence()?, name, position)
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        self.archive.set_consumer(&self.fence()?, name, position)
    }

    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        self.archive.set_consumers(&self.fence()?, positions)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.archive.remove_consumer(&self.fence()?, name)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.archive.consumers(self.live())
    }

    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        self.archive
            .save_checkpoint(&self.fence()?, position, state)
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.archive
            .load_checkpoint_before(self.tail.lock().next, before)
    }
}
