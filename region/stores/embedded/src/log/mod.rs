//! The segmented log of one shard: a machine without threads over a [`Vfs`], so that the same
//! code runs on a disk and in a simulation that crashes it at every step.
//!
//! Steps of a write: [`SegmentedLog::stage`] joins records to the open batch,
//! [`SegmentedLog::write`] hands it to the system, [`SegmentedLog::sync`] makes it durable, checks
//! that nobody else has taken the shard, and only then shows it to readers and answers a
//! [`Commit`]. [`SegmentedLog::commit`] does all three.
//!
//! Slow work that may go on beside writing (allocating the next segment, sealing the last one)
//! is handed out as a [`Job`]: run it anywhere, then give the result to
//! [`SegmentedLog::finish`]. A log whose jobs nobody runs works, only slower.

mod checkpoint;
mod claim;
mod consumers;
mod jobs;
mod load;
pub(crate) mod look;
mod owner;
mod reader;
mod retention;
mod rewrite;
mod segment;

use std::sync::Arc;

use gb6_core_model::{Position, ShardEpoch};
use gb6_core_ports::{Acquire, Acquired, Commit, Fence, LogRange, StoreError};
use gb6_core_wire::record::Record;

pub use gb6_region_archive::format;
pub use gb6_region_archive::summary::{RoomSpan, Summary};
pub use jobs::{Job, JobDone};
pub use load::{LoadNote, TailNote};
pub use reader::LogReader;
pub use rewrite::Rewritten;

pub(crate) use checkpoint::{name_of as checkpoint_name, stored as stored_checkpoints};
pub(crate) use consumers::FILE as CONSUMERS_FILE;
pub(crate) use segment::{Segment, SegmentError, read_index, segment_seq};

use crate::vfs::Vfs;
use consumers::Consumers;
use owner::Owner;
use reader::Shared;

/// Sizes and bounds of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Bytes of the first segment of an ownership; each further one is twice as large.
    pub segment_bytes_first: u64,
    /// Bytes of the largest segment.
    pub segment_bytes_max: u64,
    /// Bytes between two points of the sparse index.
    pub index_every: u64,
    /// Most encoded bytes that share one sync; a larger batch goes alone.
    pub batch_bytes_max: usize,
    /// Most records that share one sync.
    pub batch_records_max: usize,
    /// Bytes that a consumer may lag behind before retention stops waiting for it.
    pub consumer_lag_bytes_max: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes_first: 1024 * 1024,
            segment_bytes_max: 64 * 1024 * 1024,
            index_every: 64 * 1024,
            batch_bytes_max: 1024 * 1024,
            batch_records_max: 4096,
            consumer_lag_bytes_max: 16 * 1024 * 1024 * 1024,
        }
    }
}

/// The log of one shard, in one directory.
pub struct SegmentedLog<V: Vfs> {
    shared: Arc<Shared<V>>,
    /// The highest epoch that was seen in the directory.
    epoch: ShardEpoch,
    owner: Option<Owner<V>>,
    notes: Vec<LoadNote>,
}

impl<V: Vfs> SegmentedLog<V> {
    /// Reads what the directory holds, and writes nothing. Reading is possible at once; writing
    /// after [`SegmentedLog::acquire`].
    ///
    /// Errors: `Corrupt` where damage is found that no crash explains, `Format` for a newer one.
    pub fn open(vfs: V, config: LogConfig) -> Result<Self, StoreError> {
        let loaded = load::load(&vfs, &config)?;
        let consumers = Consumers::load(&vfs)?;
        Ok(Self {
            epoch: loaded.epoch,
            shared: Arc::new(Shared::new(vfs, config, loaded.segments, consumers)),
            owner: None,
            notes: loaded.notes,
        })
    }

    /// What the log holds: committed records.
    pub fn range(&self) -> LogRange {
        self.shared.range()
    }

    /// The highest epoch that was seen in the directory; 0 for a new log. The next owner acquires
    /// under a higher one.
    pub fn epoch(&self) -> ShardEpoch {
        self.epoch
    }

    /// What reading the directory found that is worth a line in the log: torn writes that were
    /// cut, batches of fenced owners that were passed over.
    pub fn notes(&self) -> &[LoadNote] {
        &self.notes
    }

    /// A reader for any thread. It stays valid when the shard is acquired again.
    pub fn reader(&self) -> LogReader<V> {
        LogReader {
            shared: self.shared.clone(),
        }
    }

    /// Begins an ownership: takes the next segment's name, reads the old tail and makes it
    /// durable, writes the acquire record and syncs it. Also how a log goes on after an error
    /// that left it unusable.
    ///
    /// Errors: `Fenced` when the epoch is not above every epoch in the log or somebody else
    /// acquires meanwhile; `StorageFull` (nothing is owned, and what can be read was made durable:
    /// only for a caller who holds the directory's lock); `Corrupt`; `Io`.
    pub fn acquire(&mut self, fence: &Fence, acquire: Acquire) -> Result<Acquired, StoreError> {
        self.owner = None;
        let (owner, loaded, acquired) = Owner::acquire(&self.shared, fence, acquire)?;
        self.epoch = fence.shard_epoch;
        self.notes = loaded;
        self.owner = Some(owner);
        Ok(acquired)
    }

    /// The fence under which this log writes; `None` before an acquisition.
    pub fn fence(&self) -> Option<&Fence> {
        self.owner.as_ref().map(Owner::fence)
    }

    fn owner(&mut self) -> Result<&mut Owner<V>, StoreError> {
        self.owner.as_mut().ok_or(StoreError::Fenced {
            held: ShardEpoch(0),
            current: self.epoch,
        })
    }

    /// Joins records to the open batch; their positions follow the last staged one. They become
    /// part of the next write. Sets their shard epoch and owner incarnation. All or none of them.
    ///
    /// Errors: `Conflict` (positions do not follow), `TooLarge` (nothing staged; the open batch
    /// with these would exceed the bound: write first), `Fenced`, `OutcomeUnknown` (acquire again).
    pub fn stage(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        self.owner()?.stage(records)
    }

    /// The position that the next staged record takes.
    pub fn staged_end(&self) -> Position {
        match &self.owner {
            Some(owner) => owner.staged_end(),
            None => self.range().next,
        }
    }

    /// Writes the open batch, which is then neither durable nor visible. Nothing to do when it is
    /// empty or written.
    ///
    /// Errors: `StorageFull` (the open batch is dropped, nothing of it stays, and the log goes on
    /// when there is space), `Fenced`, `OutcomeUnknown` (acquire again).
    pub fn write(&mut self) -> Result<(), StoreError> {
        self.owner()?.write()
    }

    /// Makes what was written durable, checks that the shard was not acquired by somebody else
    /// since, shows the records to readers and answers what was committed.
    ///
    /// Errors: `Fenced` (never acknowledge), `OutcomeUnknown` (the sync failed: acquire again).
    pub fn sync(&mut self) -> Result<Commit, StoreError> {
        let commit = self.owner()?.sync();
        if let Err(StoreError::Fenced { current, .. }) = &commit {
            self.epoch = self.epoch.max(*current);
        }
        commit
    }

    /// Looks whether the shard is still owned under [`SegmentedLog::fence`]: nobody took the next
    /// segment's name.
    ///
    /// Errors: `Fenced`, `OutcomeUnknown` (acquire again).
    pub fn confirm(&mut self) -> Result<(), StoreError> {
        let looked = self.owner()?.confirm();
        if let Err(StoreError::Fenced { current, .. }) = &looked {
            self.epoch = self.epoch.max(*current);
        }
        looked
    }

    /// Stages, writes and syncs one batch.
    pub fn commit(&mut self, records: Vec<Record>) -> Result<Commit, StoreError> {
        self.stage(records)?;
        self.write()?;
        self.sync()
    }

    /// Work that should be done beside writing; ask again after every commit.
    pub fn take_job(&mut self) -> Option<Job<V>> {
        self.owner.as_mut().and_then(Owner::take_job)
    }

    /// Takes the result of a job. One of an earlier ownership is dropped. An error here harms
    /// nothing that was committed; it is answered to be counted and logged.
    pub fn finish(&mut self, done: JobDone<V>) -> Result<(), StoreError> {
        match &mut self.owner {
            Some(owner) => owner.finish(done),
            None => done.discard(),
        }
    }

    /// Runs all jobs on this thread, for callers without another one.
    pub fn run_jobs(&mut self) -> Result<(), StoreError> {
        while let Some(job) = self.take_job() {
            self.finish(job.run())?;
        }
        Ok(())
    }

    /// Seals the open segment, when it has records, and goes on in the next one: so that what it
    /// holds can be rewritten. No batch may be staged.
    pub fn seal_open(&mut self) -> Result<(), StoreError> {
        self.owner()?.seal_open()
    }

    /// As [`gb6_core_ports::ShardLog::seal_around`].
    pub fn seal_around(&mut self, position: Position) -> Result<Option<u64>, StoreError> {
        self.owner()?.check_ownership()?;
        match self.shared.segment_at(position) {
            Some((_, true)) => self.seal_open()?,
            Some((seq, false)) => return Ok(Some(seq)),
            None => return Ok(None),
        }
        Ok(self.shared.segment_at(position).map(|(seq, _)| seq))
    }

    /// As [`gb6_core_ports::ShardLog::trim`].
    pub fn trim(&mut self, to: Position) -> Result<Position, StoreError> {
        loop {
            if let Some(first) = self.trim_oldest(to)? {
                return Ok(first);
            }
        }
    }

    /// One step of [`SegmentedLog::trim`]: at most one segment goes. Answers the first position
    /// kept once there is nothing left to do.
    pub fn trim_oldest(&mut self, to: Position) -> Result<Option<Position>, StoreError> {
        self.owner()?.check_ownership()?;
        self.shared.remove_oldest(self.shared.trim_bound(to)?)
    }

    /// Lets a segment's new generation ([`LogReader::prepare_rewrite`]) take its place. Answers
    /// the bytes that were freed.
    pub fn install(&mut self, rewritten: Rewritten<V>) -> Result<u64, StoreError> {
        self.owner()?.check_ownership()?;
        self.shared.install(&rewritten)?;
        Ok(rewritten.freed())
    }
}
