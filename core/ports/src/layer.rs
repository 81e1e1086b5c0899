//! Logs over other logs, and maps over other maps: what adds something to one, or takes something from it,
//! and passes the rest on.

use std::time::Duration;

use gb6_core_model::Position;
use gb6_core_wire::record::Record;

use crate::completion::Completion;
use crate::error::StoreError;
use crate::fence::Fence;
use crate::log::{
    Acquire, Acquired, Commit, ConsumerState, FirstKept, LogCaps, LogRange, Page, Retain,
    RetentionPlan, ShardLog,
};
use crate::map::{Expect, MapEntry, MapPage, MapStore};

/// A log over another one, which is a [`ShardLog`] by that. It says what it does otherwise; everything else
/// goes to the log below, methods that the port gets later too, so that no layer answers for its log with
/// a default.
pub trait LogLayer: Send + Sync {
    /// The log below.
    fn below(&self) -> &dyn ShardLog;

    /// The log below, for a call that may fail.
    ///
    /// # Errors
    /// It is out of reach: what every such call answers then.
    fn reach(&self) -> Result<&dyn ShardLog, StoreError> {
        Ok(self.below())
    }

    /// As [`ShardLog::caps`].
    fn caps(&self) -> LogCaps {
        self.below().caps()
    }

    /// As [`ShardLog::acquire`].
    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        match self.reach() {
            Ok(log) => log.acquire(fence, acquire, done),
            Err(error) => done.finish(Err(error)),
        }
    }

    /// As [`ShardLog::append`].
    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        match self.reach() {
            Ok(log) => log.append(fence, batch, done),
            Err(error) => done.finish(Err(error)),
        }
    }

    /// As [`ShardLog::confirm`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.reach()?.confirm(fence)
    }

    /// As [`ShardLog::range`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn range(&self) -> Result<LogRange, StoreError> {
        self.reach()?.range()
    }

    /// As [`ShardLog::silence`].
    fn silence(&self) -> Duration {
        self.below().silence()
    }

    /// As [`ShardLog::archived_before`].
    fn archived_before(&self) -> Position {
        self.below().archived_before()
    }

    /// As [`ShardLog::read`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.reach()?.read(from, max_records, max_bytes)
    }

    /// As [`ShardLog::read_at`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        self.reach()?.read_at(positions)
    }

    /// As [`ShardLog::trim`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        self.reach()?.trim(fence, to)
    }

    /// As [`ShardLog::rewrite`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.reach()?.rewrite(fence, segment, retain)
    }

    /// As [`ShardLog::seal_around`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        self.reach()?.seal_around(fence, position)
    }

    /// As [`ShardLog::plan_retention`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.reach()?.plan_retention(first_kept, settled)
    }

    /// As [`ShardLog::register_consumer`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        self.reach()?.register_consumer(name, position)
    }

    /// As [`ShardLog::set_consumer`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        self.reach()?.set_consumer(name, position)
    }

    /// As [`ShardLog::set_consumers`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        self.reach()?.set_consumers(positions)
    }

    /// As [`ShardLog::remove_consumer`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.reach()?.remove_consumer(name)
    }

    /// As [`ShardLog::consumers`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.reach()?.consumers()
    }

    /// As [`ShardLog::save_checkpoint`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        self.reach()?.save_checkpoint(position, state)
    }

    /// As [`ShardLog::load_checkpoint`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn load_checkpoint(&self) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.reach()?.load_checkpoint()
    }

    /// As [`ShardLog::load_checkpoint_before`].
    ///
    /// # Errors
    /// Those of the log, and of [`LogLayer::reach`].
    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.reach()?.load_checkpoint_before(before)
    }
}

impl<L: LogLayer> ShardLog for L {
    fn caps(&self) -> LogCaps {
        LogLayer::caps(self)
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        LogLayer::acquire(self, fence, acquire, done)
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        LogLayer::append(self, fence, batch, done)
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        LogLayer::confirm(self, fence)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        LogLayer::range(self)
    }

    fn silence(&self) -> Duration {
        LogLayer::silence(self)
    }

    fn archived_before(&self) -> Position {
        LogLayer::archived_before(self)
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        LogLayer::read(self, from, max_records, max_bytes)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        LogLayer::read_at(self, positions)
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        LogLayer::trim(self, fence, to)
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        LogLayer::rewrite(self, fence, segment, retain)
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        LogLayer::seal_around(self, fence, position)
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        LogLayer::plan_retention(self, first_kept, settled)
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        LogLayer::register_consumer(self, name, position)
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        LogLayer::set_consumer(self, name, position)
    }

    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        LogLayer::set_consumers(self, positions)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        LogLayer::remove_consumer(self, name)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        LogLayer::consumers(self)
    }

    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        LogLayer::save_checkpoint(self, position, state)
    }

    fn load_checkpoint(&self) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        LogLayer::load_checkpoint(self)
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        LogLayer::load_checkpoint_before(self, before)
    }
}

/// A map over another one, which is a [`MapStore`] by that. As with [`LogLayer`]: it says what it does
/// otherwise; everything else goes to the map below, methods that the port gets later too.
pub trait MapLayer: Send + Sync {
    /// The map below.
    fn below(&self) -> &dyn MapStore;

    /// The map below, for a call that may fail.
    ///
    /// # Errors
    /// It is out of reach: what every call answers then.
    fn reach(&self) -> Result<&dyn MapStore, StoreError> {
        Ok(self.below())
    }

    /// As [`MapStore::get`].
    ///
    /// # Errors
    /// Those of the map, and of [`MapLayer::reach`].
    fn get(&self, key: &str) -> Result<Option<MapEntry>, StoreError> {
        self.reach()?.get(key)
    }

    /// As [`MapStore::put`].
    ///
    /// # Errors
    /// Those of the map, and of [`MapLayer::reach`].
    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        self.reach()?.put(key, value, expect)
    }

    /// As [`MapStore::delete`].
    ///
    /// # Errors
    /// Those of the map, and of [`MapLayer::reach`].
    fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        self.reach()?.delete(key, expect)
    }

    /// As [`MapStore::list`].
    ///
    /// # Errors
    /// Those of the map, and of [`MapLayer::reach`].
    fn list(&self, prefix: &str, limit: usize) -> Result<MapPage, StoreError> {
        self.reach()?.list(prefix, limit)
    }

    /// As [`MapStore::changes`].
    ///
    /// # Errors
    /// Those of the map, and of [`MapLayer::reach`].
    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError> {
        self.reach()?.changes(prefix, after, limit, wait)
    }
}

impl<M: MapLayer> MapStore for M {
    fn get(&self, key: &str) -> Result<Option<MapEntry>, StoreError> {
        MapLayer::get(self, key)
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        MapLayer::put(self, key, value, expect)
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        MapLayer::delete(self, key, expect)
    }

    fn list(&self, prefix: &str, limit: usize) -> Result<MapPage, StoreError> {
        MapLayer::list(self, prefix, limit)
    }

    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError> {
        MapLayer::changes(self, prefix, after, limit, wait)
    }
}
