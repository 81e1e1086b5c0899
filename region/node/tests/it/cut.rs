//! A log as one node reaches it, or does not, and the index that nodes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::memory::MemoryRooms;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, ConsumerState, Fence, LogCaps, LogRange, Page, Retain,
    RetentionPlan, RoomEntry, RoomStore, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;
use parking_lot::Mutex;

pub(crate) struct CutLog {
    log: Arc<dyn ShardLog>,
    cut: Arc<AtomicBool>,
    /// What was last known of its range: an engine that is cut off goes on saying that.
    known: Mutex<Option<LogRange>>,
    /// When it was last seen to be reached.
    heard: Mutex<Instant>,
    /// What is done when it is closed.
    closing: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Drop for CutLog {
    fn drop(&mut self) {
        if let Some(closing) = &self.closing {
            closing();
        }
    }
}

impl CutLog {
    pub(crate) fn new(log: Arc<dyn ShardLog>, cut: Arc<AtomicBool>) -> Self {
        Self {
            log,
            cut,
            known: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            closing: None,
        }
    }

    /// One that does this when it is closed.
    pub(crate) fn closing(
        log: Arc<dyn ShardLog>,
        closing: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let mut closed = Self::new(log, Arc::default());
        closed.closing = Some(Box::new(closing));
        closed
    }

    fn reached(&self) -> Result<&dyn ShardLog, StoreError> {
        if self.cut.load(Ordering::SeqCst) {
            let cause = "it is cut off".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        Ok(&*self.log)
    }
}

impl ShardLog for CutLog {
    fn caps(&self) -> LogCaps {
        self.log.caps()
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        match self.reached() {
            Ok(log) => log.acquire(fence, acquire, done),
            Err(error) => done.finish(Err(error)),
        }
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        match self.reached() {
            Ok(log) => log.append(fence, batch, done),
            Err(error) => done.finish(Err(error)),
        }
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.reached()?.confirm(fence)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        let mut known = self.known.lock();
        match (self.reached(), &*known) {
            (Ok(log), _) => Ok(*known.insert(log.range()?)),
            (Err(_), Some(known)) => Ok(*known),
            (Err(error), None) => Err(error),
        }
    }

    fn silence(&self) -> Duration {
        let mut heard = self.heard.lock();
        if self.reached().is_ok() {
            *heard = Instant::now();
        }
        heard.elapsed()
    }

    fn read(&self, from: Position, records: usize, bytes: usize) -> Result<Page, StoreError> {
        self.reached()?.read(from, records, bytes)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        self.reached()?.read_at(positions)
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        self.reached()?.trim(fence, to)
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.reached()?.rewrite(fence, segment, retain)
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        self.reached()?.seal_around(fence, position)
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.reached()?.plan_retention(first_kept, settled)
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        self.reached()?.register_consumer(name, position)
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        self.reached()?.set_consumer(name, position)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.reached()?.remove_consumer(name)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.reached()?.consumers()
    }

    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        self.reached()?.save_checkpoint(position, state)
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.reached()?.load_checkpoint_before(before)
    }
}

/// The index that all nodes of a region share.
#[derive(Default)]
pub(crate) struct SharedRooms {
    rooms: MemoryRooms,
    /// How often somebody removed all of a shard.
    pub(crate) clears: AtomicU64,
}

impl RoomStore for SharedRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        self.rooms.put(shard, entries, from, applied)
    }

    fn applied(&self, shard: ShardId) -> Result<Position, StoreError> {
        self.rooms.applied(shard)
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        self.rooms.forward(shard, room, from, limit)
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        self.rooms.reverse(shard, room, from, limit)
    }

    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        self.rooms.delete_below(shard, room, below)
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        self.clears.fetch_add(1, Ordering::SeqCst);
        self.rooms.clear(shard)
    }
}
