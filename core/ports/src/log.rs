//! The port `ShardLog`: the one ordered, durable log of a shard.
//!
//! Rules that every engine keeps:
//! - Positions are consecutive from 0. The owner assigns them: a batch begins at the log's
//!   [`LogRange::next`] as the owner knows it and is refused with `Conflict` otherwise.
//! - Ownership begins with an acquire record (`Kind::Acquire`) that the engine writes itself; it
//!   takes the position that was the log's end. Of two with one epoch the first in the log wins.
//! - A commit means: durable as [`LogCaps::durability`] says, and observed in the log under the
//!   newest ownership. An owner whose shard was acquired by another is answered `Fenced`, even
//!   when its bytes reached the disk; readers never see them.
//! - Batches are answered in the order in which they were given. After a failure everything that
//!   was given behind it fails too.
//! - Readers see committed records only. A record that retention dropped leaves a hole: positions
//!   never change.

use std::time::Duration;

use gb6_core_model::{Offset, Position};
use gb6_core_wire::record::Record;

use crate::completion::Completion;
use crate::error::StoreError;
use crate::fence::Fence;

/// What survives once a commit was answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Durability {
    /// Nothing: it lives in this process' memory (tests).
    Memory,
    /// The end of the process, and of its machine where the engine syncs the machine's disk before it
    /// answers: the embedded log does. Kafka with one copy does not: a power cut takes what it had not
    /// written yet.
    Disk,
    /// The loss of the machine: held by several.
    Replicated,
}

/// What an engine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogCaps {
    /// What survives a commit.
    pub durability: Durability,
    /// Most records in one batch.
    pub batch_records_max: usize,
    /// Most encoded bytes in one batch; a single record always fits.
    pub batch_bytes_max: usize,
    /// Whether records can be erased and dropped in place ([`ShardLog::rewrite`]).
    pub rewrite: bool,
    /// Whether no other process can write the log while this one has it open, as where it lies in a
    /// directory that is locked. What it holds can be shown then without owning it.
    pub exclusive: bool,
}

/// What begins an ownership, beside the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Acquire {
    /// The acquire record's time, Unix ms.
    pub time: i64,
    /// The shard's served time in ms as the caller last knew it, if it did. The engine writes the
    /// larger of this and what the log's last acquire record says.
    pub served_ms: u64,
}

/// An ownership that began.
#[derive(Clone, PartialEq, Debug)]
pub struct Acquired {
    /// The acquire record as written: its position is the end that was found.
    pub record: Record,
    /// What the log holds now; [`LogRange::next`] is where the first batch begins.
    pub range: LogRange,
}

/// The positions that a log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogRange {
    /// The first kept position (equal to `next` when the log is empty).
    pub first: Position,
    /// The position that the next record takes.
    pub next: Position,
}

/// A batch that is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commit {
    /// The batch's first position.
    pub first: Position,
    /// The position after its last record.
    pub next: Position,
    /// From the call of `append` to the end of the sync, in µs; 0 where the engine has no clock.
    pub elapsed_us: u64,
    /// The sync itself (write and flush), in µs; 0 where the engine has no clock.
    pub sync_us: u64,
    /// Records that shared the sync.
    pub shared: u32,
    /// Bytes of log that the batch took, to within some bytes for each record.
    pub bytes: u64,
}

/// Records in the order of the log.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Page {
    /// The records; positions ascend, holes are possible where retention dropped some.
    pub records: Vec<Record>,
    /// Where to read on.
    pub next: Position,
    /// The log's end when the page was read: nothing is left when `next` has reached it.
    pub end: Position,
}

/// What a rewrite does with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retain {
    /// It stays.
    Keep,
    /// It goes; its position becomes a hole.
    Drop,
    /// It keeps its position, room offset, time, origin and message id; body and tags go, and
    /// `flags::ERASED` is set.
    Erase,
}

/// A consumer of the log as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerState {
    /// Its name.
    pub name: String,
    /// The first position that it has not consumed.
    pub position: Position,
    /// It fell behind by more than the bound: retention no longer waits for it, and it must start
    /// again from a snapshot.
    pub lapsed: bool,
}

/// What retention could do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RetentionPlan {
    /// The log may be trimmed to this position: everything before it is dead.
    pub trim_to: Position,
    /// Sealed segments that are worth rewriting: at least half of their bytes are dead.
    pub rewrite: Vec<SegmentPlan>,
    /// Consumers that retention waits for, and would lapse at their bound.
    pub waits_for: Vec<String>,
}

/// A segment that is worth rewriting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentPlan {
    /// The segment's number, for [`ShardLog::rewrite`].
    pub segment: u64,
    /// Its bytes.
    pub bytes: u64,
    /// About how many of them are dead.
    pub dead_bytes: u64,
}

/// Says for a room which offset is the first to keep; asked for every room of a segment.
pub type FirstKept<'a> = dyn Fn(&str, &str) -> Offset + 'a;

/// The log of one shard. Handles are shared between threads; writes queue and answer through
/// their completion, everything else blocks the calling thread.
pub trait ShardLog: Send + Sync {
    /// What this engine can do.
    fn caps(&self) -> LogCaps;

    /// Begins an ownership: makes the tail durable, fences older owners and writes the acquire
    /// record. `fence.shard_epoch` must be above every epoch in the log, else `Fenced` tells the
    /// highest. Also how a log goes on after `OutcomeUnknown`; after `Closed` it does not.
    ///
    /// `StorageFull`: nothing is owned or written, and what can be read has been made durable all
    /// the same, so that it may be shown. (Only whoever knows that no other owner lives may do so:
    /// an engine's data directory is locked.)
    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>);

    /// Appends one batch under `fence` and answers when it is committed. The records' positions
    /// are consecutive and begin at the log's next one; the engine sets `shard_epoch` and
    /// `owner_incarnation`. Batches may be given before earlier ones are answered.
    ///
    /// Errors: `Fenced`, `Conflict` (positions), `TooLarge`, `Backpressure`, `StorageFull` (both:
    /// nothing written), `OutcomeUnknown` (acquire again), `Unavailable`, `Closed` (open again).
    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>);

    /// Proves now that no newer ownership exists, by looking at the log itself: when it answers, every
    /// acquisition that ended before the call is known to have been none but `fence`'s. How an owner that
    /// can not renew its lease elsewhere learns that it still owns the shard, and how a read is fenced.
    /// Blocks the calling thread, with a deadline of the engine's.
    ///
    /// Errors: `Fenced` (also for a fence that this handle never acquired), `Unavailable` (the log can
    /// not be reached: nothing is proved), `OutcomeUnknown` (a write failed: acquire again), `Closed`.
    fn confirm(&self, fence: &Fence) -> Result<(), StoreError>;

    /// What the log holds: committed records only.
    fn range(&self) -> Result<LogRange, StoreError>;

    /// For how long what keeps the log has not answered this handle, on the monotonic clock: so old may
    /// be what [`ShardLog::range`] says. Zero where the log lies in this process or on its disk. Does not
    /// block.
    fn silence(&self) -> Duration {
        Duration::ZERO
    }

    /// What lies before this position is read from an archive, which may be slow or away while the log
    /// itself answers. 0 where there is none. Does not block.
    fn archived_before(&self) -> Position {
        0
    }

    /// Reads from `from` on: at most `max_records`, at most `max_bytes` of encoded records, but
    /// always one where there is one. `Trimmed` when `from` lies before the first kept position;
    /// an empty page when it is at or behind the end.
    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError>;

    /// Reads the records at `positions`, in the order asked; `None` where it was dropped, trimmed
    /// or not yet committed.
    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Drops whole segments before `to`, never past a consumer that has not lapsed. Marks
    /// consumers as lapsed that are behind by more than their bound. Answers the first position
    /// kept, which may lie before `to`.
    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError>;

    /// Rewrites one sealed segment: same positions, new generation, `retain` decides for each
    /// record. Reading goes on meanwhile. Answers the bytes that were freed.
    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError>;

    /// The sealed segment that holds `position`, for [`ShardLog::rewrite`]; the open segment is
    /// sealed first when `position` lies in it. `None` where nothing is kept there.
    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError>;

    /// Which segments may go and which are worth rewriting, given each room's first kept offset.
    /// Looks only at sealed segments that end at or before `settled`: the older of the caller's
    /// two checkpoints, so that each of them alone still leads to the whole state.
    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError>;

    /// Registers a consumer at `position`, or returns it as stored. A lapsed one begins again at
    /// `position`.
    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError>;

    /// Stores a consumer's position; it never goes back. `Conflict` when it is not registered or
    /// has lapsed.
    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError>;

    /// Stores the positions of several consumers, each as [`ShardLog::set_consumer`] does. Answers the
    /// names of those that are not registered or have lapsed, of which it stores none. A log that keeps
    /// its consumers in one place writes it once.
    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        let mut refused = Vec::new();
        for (name, position) in positions {
            match self.set_consumer(name, *position) {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => refused.push(name.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Forgets a consumer.
    fn remove_consumer(&self, name: &str) -> Result<(), StoreError>;

    /// All consumers, by name.
    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError>;

    /// Stores the state of a machine that has applied everything before `position`, durably, and
    /// keeps the newest older one that is whole. Once retention has run they are the only copy of
    /// what it removed: who trims or rewrites does so only up to the older of the two
    /// ([`ShardLog::plan_retention`]).
    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError>;

    /// The newest checkpoint that is whole and not ahead of the log. Damaged ones are passed
    /// over.
    fn load_checkpoint(&self) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.load_checkpoint_before(Position::MAX)
    }

    /// As [`ShardLog::load_checkpoint`], among those at positions below `before`: what is used
    /// where a newer one can not be.
    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError>;
}
