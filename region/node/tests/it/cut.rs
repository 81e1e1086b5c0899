//! A log as one node reaches it, or does not, and the index that nodes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::memory::MemoryRooms;
use gb6_core_ports::{
    Commit, Completion, Fence, LogLayer, LogRange, RoomEntry, RoomStore, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;
use parking_lot::{Condvar, Mutex};

use crate::clock::TestClock;
use crate::edge::PATIENCE;

pub(crate) struct CutLog {
    log: Arc<dyn ShardLog>,
    cut: Arc<AtomicBool>,
    /// What was last known of its range: an engine that is cut off goes on saying that.
    known: Mutex<Option<LogRange>>,
    clock: TestClock,
    /// When it was last seen to be reached.
    heard: Mutex<Duration>,
    /// The next batch gets no answer.
    loses: Arc<AtomicBool>,
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
    pub(crate) fn new(log: Arc<dyn ShardLog>, cut: Arc<AtomicBool>, clock: TestClock) -> Self {
        Self {
            log,
            cut,
            known: Mutex::default(),
            heard: Mutex::new(clock.now()),
            clock,
            loses: Arc::default(),
            closing: None,
        }
    }

    /// As [`CutLog::new`], whose next batch gets no answer once `loses` is set.
    pub(crate) fn losing(mut self, loses: Arc<AtomicBool>) -> Self {
        self.loses = loses;
        self
    }

    /// One that does this when it is closed.
    pub(crate) fn closing(
        log: Arc<dyn ShardLog>,
        closing: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let mut closed = Self::new(log, Arc::default(), TestClock::new());
        closed.closing = Some(Box::new(closing));
        closed
    }
}

impl LogLayer for CutLog {
    fn below(&self) -> &dyn ShardLog {
        &*self.log
    }

    fn reach(&self) -> Result<&dyn ShardLog, StoreError> {
        if self.cut.load(Ordering::SeqCst) {
            let cause = "it is cut off".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        Ok(&*self.log)
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        if self.loses.swap(false, Ordering::SeqCst) {
            return drop(done);
        }
        match self.reach() {
            Ok(log) => log.append(fence, batch, done),
            Err(error) => done.finish(Err(error)),
        }
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        let mut known = self.known.lock();
        match (self.reach(), &*known) {
            (Ok(log), _) => Ok(*known.insert(log.range()?)),
            (Err(_), Some(known)) => Ok(*known),
            (Err(error), None) => Err(error),
        }
    }

    fn silence(&self) -> Duration {
        let mut heard = self.heard.lock();
        if self.reach().is_ok() {
            *heard = self.clock.now();
        }
        self.clock.now().saturating_sub(*heard)
    }
}

/// The index that all nodes of a region share.
#[derive(Default)]
pub(crate) struct SharedRooms {
    rooms: MemoryRooms,
    /// How often somebody removed all of a shard.
    pub(crate) clears: AtomicU64,
    holds: Mutex<bool>,
    let_go: Condvar,
}

impl SharedRooms {
    /// From now on whoever writes waits, or no longer does.
    pub(crate) fn hold(&self, holds: bool) {
        *self.holds.lock() = holds;
        self.let_go.notify_all();
    }
}

impl RoomStore for SharedRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        let mut holds = self.holds.lock();
        self.let_go
            .wait_while_for(&mut holds, |holds| *holds, 2 * PATIENCE);
        drop(holds);
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
