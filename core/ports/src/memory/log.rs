//! `ShardLog` in memory: storage that several handles (owners) contend for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gb6_core_model::{Position, ShardEpoch};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use prost::Message;

use crate::completion::Completion;
use crate::error::StoreError;
use crate::fence::Fence;
use crate::log::{
    Acquire, Acquired, Commit, ConsumerState, Durability, FirstKept, LogCaps, LogRange, Page,
    Retain, RetentionPlan, SegmentPlan, ShardLog,
};
use crate::retention::{RetentionOffset, erase, retention_offset};

/// Bounds of a [`MemoryStorage`].
#[derive(Clone, Copy, Debug)]
pub struct MemoryLogConfig {
    /// Records after which a segment is sealed.
    pub segment_records: u64,
    /// Bytes that a consumer may lag behind before retention stops waiting for it.
    pub consumer_lag_bytes_max: u64,
    /// Bytes of records after which appends answer `StorageFull`.
    pub capacity_bytes: u64,
    /// What its caps say: whoever opens one takes care that nobody else has it open.
    pub exclusive: bool,
}

impl Default for MemoryLogConfig {
    fn default() -> Self {
        Self {
            segment_records: 256,
            consumer_lag_bytes_max: 1 << 30,
            capacity_bytes: 1 << 32,
            exclusive: false,
        }
    }
}

#[derive(Clone)]
struct State {
    config: MemoryLogConfig,
    records: BTreeMap<Position, Record>,
    /// First positions of the segments, ascending; the last one is open.
    segments: Vec<Position>,
    bytes: u64,
    next: Position,
    owner: Option<Fence>,
    served_ms: u64,
    consumers: BTreeMap<String, (Position, bool)>,
    checkpoints: Vec<(Position, Vec<u8>)>,
    refuses_checkpoints: bool,
}

/// What the handles of one shard share: the place of a disk.
#[derive(Clone)]
pub struct MemoryStorage(Arc<Mutex<State>>);

impl MemoryStorage {
    /// Empty storage.
    pub fn new(config: MemoryLogConfig) -> Self {
        Self(Arc::new(Mutex::new(State {
            config,
            records: BTreeMap::new(),
            segments: vec![0],
            bytes: 0,
            next: 0,
            owner: None,
            served_ms: 0,
            consumers: BTreeMap::new(),
            checkpoints: Vec::new(),
            refuses_checkpoints: false,
        })))
    }

    /// Changes the capacity: how a test fills the storage and makes space again.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().config.capacity_bytes = bytes;
    }

    /// What a copy of the storage made at this moment holds; its owner's process does not live on.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Damages the newest checkpoint beyond use, and answers its position.
    pub fn damage_newest_checkpoint(&self) -> Option<Position> {
        self.state().checkpoints.pop().map(|(position, _)| position)
    }

    /// Lets every attempt to save a checkpoint fail, or no longer.
    pub fn refuse_checkpoints(&self, refuse: bool) {
        self.state().refuses_checkpoints = refuse;
    }

    /// A handle, as a process that starts would have it.
    pub fn open(&self) -> MemoryLog {
        MemoryLog(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new(MemoryLogConfig::default())
    }
}

/// One handle of a [`MemoryStorage`]. It answers every completion before the call returns.
#[derive(Clone)]
pub struct MemoryLog(MemoryStorage);

const BATCH_RECORDS_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

impl State {
    fn epoch(&self) -> ShardEpoch {
        self.owner.as_ref().map_or(ShardEpoch(0), |o| o.shard_epoch)
    }

    fn first(&self) -> Position {
        self.segments.first().copied().unwrap_or(self.next)
    }

    fn range(&self) -> LogRange {
        LogRange {
            first: self.first(),
            next: self.next,
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

    fn push(&mut self, record: Record) {
        let open = self.segments.last().copied().unwrap_or(0);
        if self.next - open >= self.config.segment_records {
            self.segments.push(self.next);
        }
        self.bytes += record.encoded_len() as u64;
        self.next = record.position + 1;
        self.records.insert(record.position, record);
    }

    fn check_space(&self, more: usize) -> Result<(), StoreError> {
        if self.bytes + more as u64 <= self.config.capacity_bytes {
            return Ok(());
        }
        Err(StoreError::StorageFull {
            path: "memory".into(),
        })
    }

    fn acquire(&mut self, fence: Fence, acquire: Acquire) -> Result<Acquired, StoreError> {
        if fence.shard_epoch <= self.epoch() {
            return Err(StoreError::Fenced {
                held: fence.shard_epoch,
                current: self.epoch(),
            });
        }
        self.served_ms = self.served_ms.max(acquire.served_ms);
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Acquire as i32,
            position: self.next,
            shard_epoch: fence.shard_epoch.0,
            owner_incarnation: fence.owner_incarnation.0,
            time: acquire.time,
            served_ms: self.served_ms,
            ..Record::default()
        };
        self.check_space(record.encoded_len())?;
        self.owner = Some(fence);
        if self.segments.last() != Some(&self.next) {
            self.segments.push(self.next);
        }
        self.push(record.clone());
        Ok(Acquired {
            record,
            range: self.range(),
        })
    }

    fn append(&mut self, fence: &Fence, mut batch: Vec<Record>) -> Result<Commit, StoreError> {
        self.check(fence)?;
        if batch.len() > BATCH_RECORDS_MAX {
            return Err(StoreError::TooLarge {
                size: batch.len() as u64,
                limit: BATCH_RECORDS_MAX as u64,
            });
        }
        for (record, position) in batch.iter_mut().zip(self.next..) {
            if record.position != position {
                return Err(StoreError::Conflict {
                    what: format!(
                        "a record has position {}, the log goes on at {position}",
                        record.position
                    ),
                });
            }
            record.shard_epoch = fence.shard_epoch.0;
            record.owner_incarnation = fence.owner_incarnation.0;
        }
        let size: usize = batch.iter().map(Message::encoded_len).sum();
        if batch.len() > 1 && size > BATCH_BYTES_MAX {
            return Err(StoreError::TooLarge {
                size: size as u64,
                limit: BATCH_BYTES_MAX as u64,
            });
        }
        self.check_space(size)?;
        let (first, shared) = (self.next, batch.len() as u32);
        for record in batch {
            self.push(record);
        }
        Ok(Commit {
            first,
            next: self.next,
            shared,
            bytes: size as u64,
            ..Commit::default()
        })
    }

    /// The bounds of the segment that begins at `self.segments[index]`.
    fn bounds(&self, index: usize) -> (Position, Position) {
        let end = self.segments.get(index + 1).copied().unwrap_or(self.next);
        (self.segments[index], end)
    }

    fn lapse(&mut self) {
        let bound = self.config.consumer_lag_bytes_max;
        for (position, lapsed) in self.consumers.values_mut() {
            let behind: u64 = self
                .records
                .range(*position..)
                .map(|(_, r)| r.encoded_len() as u64)
                .sum();
            *lapsed |= behind > bound;
        }
    }

    fn waits_for(&self, to: Position) -> impl Iterator<Item = (&String, Position)> {
        self.consumers
            .iter()
            .filter(move |(_, (position, lapsed))| !lapsed && *position < to)
            .map(|(name, (position, _))| (name, *position))
    }

    fn trim(&mut self, to: Position) -> Position {
        self.lapse();
        let to = self.waits_for(to).map(|(_, p)| p).fold(to, Position::min);
        while self.segments.len() > 1 && self.segments[1] <= to {
            let (begin, end) = self.bounds(0);
            self.segments.remove(0);
            for (_, record) in self.records.extract_if(begin..end, |_, _| true) {
                self.bytes -= record.encoded_len() as u64;
            }
        }
        self.first()
    }

    fn rewrite(
        &mut self,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        let sealed = self.segments.len().saturating_sub(1);
        let Some(index) = self.segments[..sealed].iter().position(|s| *s == segment) else {
            return Err(StoreError::Conflict {
                what: format!("segment {segment} is not a sealed segment of this log"),
            });
        };
        let (begin, end) = self.bounds(index);
        let before = self.bytes;
        let inside: Vec<Position> = self.records.range(begin..end).map(|(p, _)| *p).collect();
        for position in inside {
            let Some(record) = self.records.get_mut(&position) else {
                continue;
            };
            let size = record.encoded_len() as u64;
            match retain(record) {
                Retain::Keep => {}
                Retain::Drop => {
                    self.records.remove(&position);
                    self.bytes -= size;
                }
                Retain::Erase => {
                    erase(record);
                    self.bytes = self.bytes - size + record.encoded_len() as u64;
                }
            }
        }
        Ok(before.saturating_sub(self.bytes))
    }

    fn plan(&self, first_kept: &FirstKept<'_>, settled: Position) -> RetentionPlan {
        let mut plan = RetentionPlan {
            trim_to: self.first(),
            ..RetentionPlan::default()
        };
        let held = self.waits_for(Position::MAX).map(|(_, p)| p);
        let held = held.min().unwrap_or(Position::MAX);
        let mut prefix = true;
        for index in 0..self.segments.len().saturating_sub(1) {
            let (begin, end) = self.bounds(index);
            if end > settled {
                break;
            }
            let (mut bytes, mut dead, mut pinned) = (0, 0, false);
            for (_, record) in self.records.range(begin..end) {
                let size = record.encoded_len() as u64;
                bytes += size;
                match retention_offset(record) {
                    RetentionOffset::Room(offset)
                        if offset < first_kept(&record.instance, &record.channel) =>
                    {
                        dead += size;
                    }
                    RetentionOffset::Room(_) | RetentionOffset::Pinned => pinned = true,
                    RetentionOffset::Settled => dead += size,
                }
            }
            if !pinned && prefix {
                plan.trim_to = end;
            } else {
                prefix = false;
                if dead > 0 && dead * 2 >= bytes && end <= held {
                    plan.rewrite.push(SegmentPlan {
                        segment: begin,
                        bytes,
                        dead_bytes: dead,
                    });
                }
            }
        }
        plan.waits_for = self
            .waits_for(plan.trim_to)
            .map(|(name, _)| name.clone())
            .collect();
        plan
    }
}

impl ShardLog for MemoryLog {
    fn caps(&self) -> LogCaps {
        LogCaps {
            durability: Durability::Memory,
            batch_records_max: BATCH_RECORDS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            rewrite: true,
            exclusive: self.0.state().config.exclusive,
        }
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        let answer = self.0.state().acquire(fence, acquire);
        done.finish(answer);
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        let answer = self.0.state().append(fence, batch);
        done.finish(answer);
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.0.state().check(fence)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        Ok(self.0.state().range())
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        let state = self.0.state();
        if from < state.first() {
            return Err(StoreError::Trimmed {
                first: state.first(),
            });
        }
        let mut page = Page {
            next: from.max(state.next),
            end: state.next,
            ..Page::default()
        };
        let mut bytes = 0;
        for (position, record) in state.records.range(from..) {
            bytes += record.encoded_len();
            if !page.records.is_empty() && (page.records.len() >= max_records || bytes > max_bytes)
            {
                page.next = *position;
                break;
            }
            page.records.push(record.clone());
        }
        Ok(page)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        let state = self.0.state();
        Ok(positions
            .iter()
            .map(|p| state.records.get(p).cloned())
            .collect())
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        let mut state = self.0.state();
        state.check(fence)?;
        Ok(state.trim(to))
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        let mut state = self.0.state();
        state.check(fence)?;
        state.rewrite(segment, retain)
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        let mut state = self.0.state();
        state.check(fence)?;
        if position < state.first() || position >= state.next {
            return Ok(None);
        }
        if state.segments.last().is_some_and(|open| position >= *open) {
            let next = state.next;
            state.segments.push(next);
        }
        Ok(state
            .segments
            .iter()
            .rev()
            .find(|s| **s <= position)
            .copied())
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        Ok(self.0.state().plan(first_kept, settled))
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let mut state = self.0.state();
        let entry = state
            .consumers
            .entry(name.to_owned())
            .or_insert((position, false));
        if entry.1 {
            *entry = (position, false);
        }
        Ok(ConsumerState {
            name: name.to_owned(),
            position: entry.0,
            lapsed: entry.1,
        })
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        match self.0.state().consumers.get_mut(name) {
            Some((stored, false)) => {
                *stored = position.max(*stored);
                Ok(())
            }
            Some((_, true)) => Err(StoreError::Conflict {
                what: format!("consumer {name} has lapsed: register it again from a snapshot"),
            }),
            None => Err(StoreError::Conflict {
                what: format!("consumer {name} is not registered"),
            }),
        }
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.0.state().consumers.remove(name);
        Ok(())
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        let mut state = self.0.state();
        state.lapse();
        Ok(state
            .consumers
            .iter()
            .map(|(name, (position, lapsed))| ConsumerState {
                name: name.clone(),
                position: *position,
                lapsed: *lapsed,
            })
            .collect())
    }

    fn save_checkpoint(&self, position: Position, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.0.state();
        if state.refuses_checkpoints {
            return Err(StoreError::Unavailable {
                cause: "checkpoints are refused".into(),
            });
        }
        let older = state.checkpoints.iter().map(|(p, _)| *p);
        let older = older.filter(|p| *p < position).max();
        let kept = |p: Position| p > position || Some(p) == older;
        state.checkpoints.retain(|(p, _)| kept(*p));
        state.checkpoints.push((position, bytes.to_vec()));
        state.checkpoints.sort_by_key(|(p, _)| *p);
        Ok(())
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        let state = self.0.state();
        Ok(state
            .checkpoints
            .iter()
            .rev()
            .find(|(p, _)| *p <= state.next && *p < before)
            .cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{self, log::LogFixture};

    impl LogFixture for MemoryStorage {
        fn open(&self) -> Arc<dyn ShardLog> {
            Arc::new(MemoryStorage::open(self))
        }
    }

    #[test]
    fn keeps_the_contract() {
        contract::log::all(MemoryStorage::default);
        for seed in 0..20 {
            contract::log_model::matches_the_reference(&MemoryStorage::default(), seed, 200);
        }
    }

    #[test]
    fn full_storage_takes_appends_again_when_there_is_space() {
        let storage = MemoryStorage::default();
        let log = MemoryStorage::open(&storage);
        let fence = contract::log::fence(1);
        contract::log::acquire(&log, &fence).unwrap();
        storage.set_capacity(500);
        let batch = contract::log::messages(1, "room:a", 20);
        let error = contract::log::append(&log, &fence, batch.clone()).unwrap_err();
        assert!(matches!(error, StoreError::StorageFull { .. }));
        storage.set_capacity(0);
        let next = MemoryStorage::open(&storage);
        let error = contract::log::acquire(&next, &contract::log::fence(2)).unwrap_err();
        assert!(matches!(error, StoreError::StorageFull { .. }));
        storage.set_capacity(u64::MAX);
        contract::log::append(&log, &fence, batch).unwrap();
    }

    #[test]
    fn a_consumer_beyond_the_bound_lapses() {
        let config = MemoryLogConfig {
            consumer_lag_bytes_max: 1000,
            segment_records: 10,
            ..MemoryLogConfig::default()
        };
        let storage = MemoryStorage::new(config);
        let log = MemoryStorage::open(&storage);
        let fence = contract::log::fence(1);
        contract::log::acquire(&log, &fence).unwrap();
        log.register_consumer("slow", 0).unwrap();
        let batch = contract::log::messages(1, "room:a", 5);
        contract::log::append(&log, &fence, batch).unwrap();
        assert!(!log.consumers().unwrap()[0].lapsed);
        let batch = contract::log::messages(6, "room:a", 50);
        contract::log::append(&log, &fence, batch).unwrap();
        assert!(log.consumers().unwrap()[0].lapsed);
        assert!(log.trim(&fence, 30).unwrap() > 0);
        assert!(log.set_consumer("slow", 40).is_err());
        assert!(!log.register_consumer("slow", 40).unwrap().lapsed);
    }
}
