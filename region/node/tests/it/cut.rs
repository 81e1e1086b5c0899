//! A log as one node reaches it, or does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gb6_core_model::Position;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, ConsumerState, Fence, LogCaps, LogRange, Page, Retain,
    RetentionPlan, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;

pub(crate) struct CutLog {
    log: Arc<dyn ShardLog>,
    cut: Arc<AtomicBool>,
}

impl CutLog {
    pub(crate) fn new(log: Arc<dyn ShardLog>, cut: Arc<AtomicBool>) -> Self {
        Self { log, cut }
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
        self.reached()?.range()
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
