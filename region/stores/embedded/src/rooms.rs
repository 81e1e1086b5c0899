//! `RoomStore` on fjall: one keyspace for all shards of a node, never synced, never the only copy.
//! An index that can not be opened in time, that fails later, or whose files are removed, is put
//! aside and begun again empty; its shards are then filled again from their logs.

use std::collections::HashMap;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fjall::{OwnedWriteBatch, PersistMode};
use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::runs::{self, Positions, RUN_MAX};
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use parking_lot::Mutex;

use crate::rooms_handle::{Handle, Open};

/// Removals that go into one batch.
const REMOVE_BATCH: usize = 4096;
const APPLIED: u8 = 0;
const ENTRY: u8 = 1;

/// Bounds of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomsConfig {
    /// How long opening may take before the index is put aside and begun again.
    pub open_timeout: Duration,
    /// Bytes of blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes of new entries kept in memory before they are written as a table.
    pub memtable_bytes: u64,
    /// How often a call looks whether the files are still there: they may be removed at any time.
    pub look_every: Duration,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(20),
            cache_bytes: 8 * 1024 * 1024,
            memtable_bytes: 4 * 1024 * 1024,
            look_every: Duration::from_secs(1),
        }
    }
}

/// The index of a node's rooms on disk.
pub struct FjallRooms {
    handle: Arc<Handle>,
    /// One writer at a time for each shard: what it reads before it writes must not change.
    writers: Mutex<HashMap<ShardId, Arc<Mutex<()>>>>,
}

impl FjallRooms {
    /// Opens the index at `path`, or begins it again where it can not be opened: then
    /// [`RoomStore::applied`] is 0 for every shard and they are to be filled from their logs.
    ///
    /// Errors: `Io` when not even an empty index can be made; `StorageFull`.
    pub fn open(path: &Path, config: RoomsConfig) -> Result<Self, StoreError> {
        Handle::open(path, config).map(Self::with)
    }

    /// As [`FjallRooms::open`], on a thread of its own: calls wait until it is open, so that a
    /// region can start meanwhile. What opening fails with, calls fail with; they try again.
    ///
    /// Errors: `Io` when the system gives no thread.
    pub fn open_beside(path: &Path, config: RoomsConfig) -> Result<Self, StoreError> {
        Handle::open_beside(path, config).map(Self::with)
    }

    fn with(handle: Arc<Handle>) -> Self {
        Self {
            handle,
            writers: Mutex::default(),
        }
    }

    /// How often the index was begun again since it was opened, for a metric and a line in the
    /// log: each time all of its shards are filled again.
    pub fn resets(&self) -> u64 {
        self.handle.resets()
    }

    fn read<T>(&self, work: impl FnOnce(&Open) -> fjall::Result<T>) -> Result<T, StoreError> {
        let (open, opened) = self.handle.reading()?;
        let done = work(&open);
        drop(open);
        done.map_err(|e| self.handle.failed(opened, "read", &e))
    }

    fn write<T>(
        &self,
        operation: &'static str,
        shard: ShardId,
        work: impl FnOnce(&Open) -> fjall::Result<T>,
    ) -> Result<T, StoreError> {
        let writer = self.writers.lock().entry(shard).or_default().clone();
        let _alone = writer.lock();
        let (open, opened) = self.handle.writing()?;
        let done = work(&open);
        drop(open);
        done.map_err(|e| self.handle.failed(opened, operation, &e))
    }

    fn remove_range(open: &Open, from: Vec<u8>, to: Vec<u8>) -> fjall::Result<()> {
        loop {
            let mut batch = open.database.batch().durability(Some(PersistMode::Buffer));
            for item in open
                .rooms
                .range(from.clone()..to.clone())
                .take(REMOVE_BATCH)
            {
                batch.remove(&open.rooms, item.key()?);
            }
            let removed = batch.len();
            if removed > 0 {
                batch.commit()?;
            }
            if removed < REMOVE_BATCH {
                return Ok(());
            }
        }
    }

    /// What `[low, high]` of a room holds of the offsets that `wanted` names, from its runs.
    fn positions(
        items: impl Iterator<Item = fjall::Guard>,
        wanted: impl RangeBounds<Offset>,
        limit: usize,
    ) -> fjall::Result<Positions> {
        let mut found = Positions::new();
        for item in items {
            let (key, value) = item.into_inner()?;
            let first = number(&key)?;
            let mut run = Positions::new();
            runs::decode(first, &value, &mut run).ok_or(fjall::Error::InvalidTrailer)?;
            for (offset, position) in run.range((wanted.start_bound(), wanted.end_bound())) {
                runs::add(&mut found, *offset, *position);
            }
            // A run that begins later may still hold newer positions of offsets seen here.
            if found.len() >= limit.saturating_add(RUN_MAX as usize) {
                break;
            }
        }
        Ok(found)
    }
}

/// Keys: shard (4 bytes, big-endian), then 0 for the applied position, or 1, instance, 0,
/// channel, 0 and the first offset of a run (8 bytes, big-endian). Neither name may contain a zero
/// byte.
fn room_prefix(shard: ShardId, room: &ChannelKey) -> Vec<u8> {
    let (instance, channel) = (room.instance.as_str(), room.channel.as_str());
    let mut key = Vec::with_capacity(4 + 1 + instance.len() + 1 + channel.len() + 1 + 8);
    key.extend_from_slice(&shard.0.to_be_bytes());
    key.push(ENTRY);
    key.extend_from_slice(instance.as_bytes());
    key.push(0);
    key.extend_from_slice(channel.as_bytes());
    key.push(0);
    key
}

fn entry_key(shard: ShardId, room: &ChannelKey, offset: Offset) -> Vec<u8> {
    let mut key = room_prefix(shard, room);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// Adds a run to a batch, together with what a run under the same key holds already.
fn insert_run(
    open: &Open,
    batch: &mut OwnedWriteBatch,
    key: Vec<u8>,
    first: Offset,
    run: &[Position],
) -> fjall::Result<()> {
    let Some(stored) = open.rooms.get(&key)? else {
        batch.insert(&open.rooms, key, runs::encode(run));
        return Ok(());
    };
    let mut both = Positions::new();
    runs::decode(first, &stored, &mut both).ok_or(fjall::Error::InvalidTrailer)?;
    for (n, position) in (0..).zip(run) {
        runs::add(&mut both, first + n, *position);
    }
    let both: Vec<Position> = both.into_values().collect();
    batch.insert(&open.rooms, key, runs::encode(&both));
    Ok(())
}

fn applied_key(shard: ShardId) -> Vec<u8> {
    let mut key = shard.0.to_be_bytes().to_vec();
    key.push(APPLIED);
    key
}

/// The number in the last 8 bytes; damage that no checksum caught is an invalid tag.
fn number(bytes: &[u8]) -> fjall::Result<u64> {
    match bytes.last_chunk::<8>() {
        Some(word) => Ok(u64::from_be_bytes(*word)),
        None => Err(fjall::Error::InvalidTrailer),
    }
}

fn read_applied(open: &Open, shard: ShardId) -> fjall::Result<Position> {
    match open.rooms.get(applied_key(shard))? {
        Some(value) => number(&value),
        None => Ok(0),
    }
}

impl RoomStore for FjallRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        let stored = self.write("put", shard, |open| {
            let stored = read_applied(open, shard)?;
            if from != stored || applied < from {
                return Ok(Some(stored));
            }
            let mut batch = open.database.batch().durability(Some(PersistMode::Buffer));
            for (room, positions) in runs::by_room(entries) {
                for (first, run) in runs::cut(&positions) {
                    insert_run(open, &mut batch, entry_key(shard, room, first), first, &run)?;
                }
            }
            batch.insert(&open.rooms, applied_key(shard), applied.to_be_bytes());
            batch.commit()?;
            Ok(None)
        })?;
        match stored {
            None => Ok(()),
            Some(stored) => Err(StoreError::Conflict {
                what: format!(
                    "entries from position {from} to {applied} do not follow the stored {stored}"
                ),
            }),
        }
    }

    fn applied(&self, shard: ShardId) -> Result<Position, StoreError> {
        self.read(|open| read_applied(open, shard))
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let low = entry_key(shard, room, from.saturating_sub(RUN_MAX - 1));
        let high = entry_key(shard, room, Offset::MAX);
        let found =
            self.read(|open| Self::positions(open.rooms.range(low..=high), from.., limit))?;
        Ok(found.into_iter().take(limit).collect())
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let (low, high) = (entry_key(shard, room, 0), entry_key(shard, room, from));
        let found =
            self.read(|open| Self::positions(open.rooms.range(low..=high).rev(), ..=from, limit))?;
        Ok(found.into_iter().rev().take(limit).collect())
    }

    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        let (low, high) = (entry_key(shard, room, 0), entry_key(shard, room, below));
        self.write("delete", shard, |open| {
            // What runs that begin below hold from there on stays, as runs that begin there.
            let straddling = entry_key(shard, room, below.saturating_sub(RUN_MAX - 1));
            let items = open.rooms.range(straddling..high.clone());
            let kept = Self::positions(items, below.., usize::MAX)?;
            let mut batch = open.database.batch().durability(Some(PersistMode::Buffer));
            for (first, run) in runs::cut(&kept) {
                insert_run(open, &mut batch, entry_key(shard, room, first), first, &run)?;
            }
            if !batch.is_empty() {
                batch.commit()?;
            }
            Self::remove_range(open, low, high)
        })
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        // Keys ascend from the applied position: it goes with the first batch, and an index that
        // says 0 is filled again, whatever is left of it.
        let low = shard.0.to_be_bytes().to_vec();
        let mut high = low.clone();
        high.push(ENTRY + 1);
        self.write("clear", shard, |open| Self::remove_range(open, low, high))
    }
}
