//! A log as one node reaches it, or does not, and the index that nodes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::memory::MemoryRooms;
use gb6_core_ports::{LogLayer, LogRange, RoomEntry, RoomStore, ShardLog, StoreError};
use parking_lot::Mutex;

use crate::clock::TestClock;

pub(crate) struct CutLog {
    log: Arc<dyn ShardLog>,
    cut: Arc<AtomicBool>,
    /// What was last known of its range: an engine that is cut off goes on saying that.
    known: Mutex<Option<LogRange>>,
    clock: TestClock,
    /// When it was last seen to be reached.
    heard: Mutex<Duration>,
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
            closing: None,
        }
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
