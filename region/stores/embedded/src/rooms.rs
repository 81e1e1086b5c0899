//! `RoomStore` on fjall: one keyspace for all shards of a node, never synced, never the only copy.
//! An index that can not be opened in time, or that fails later, is put aside and begun again
//! empty; its shards are then filled again from their logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use parking_lot::{Mutex, RwLock};

const KEYSPACE: &str = "rooms";
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
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(20),
            cache_bytes: 8 * 1024 * 1024,
            memtable_bytes: 4 * 1024 * 1024,
        }
    }
}

#[derive(Clone)]
struct Open {
    database: Database,
    rooms: Keyspace,
}

/// The index of a node's rooms on disk.
pub struct FjallRooms {
    path: PathBuf,
    config: RoomsConfig,
    open: RwLock<Option<Open>>,
    /// Serializes beginning again.
    resetting: Mutex<()>,
    resets: Arc<AtomicU64>,
}

impl FjallRooms {
    /// Opens the index at `path`, or begins it again where it can not be opened: then
    /// [`RoomStore::applied`] is 0 for every shard and they are to be filled from their logs.
    ///
    /// Errors: `Io` when not even an empty index can be made.
    pub fn open(path: &Path, config: RoomsConfig) -> Result<Self, StoreError> {
        let rooms = Self {
            path: path.to_owned(),
            config,
            open: RwLock::new(None),
            resetting: Mutex::new(()),
            resets: Arc::new(AtomicU64::new(0)),
        };
        rooms.remove_put_aside();
        match open_within(path, config) {
            Ok(open) => *rooms.open.write() = Some(open),
            Err(_) => rooms.begin_again(0)?,
        }
        Ok(rooms)
    }

    /// How often the index was begun again since it was opened, for a metric and a line in the
    /// log: each time all of its shards are filled again.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Puts the index aside and begins an empty one, unless that was done since the caller saw
    /// `seen` resets.
    fn begin_again(&self, seen: u64) -> Result<(), StoreError> {
        let _one_at_a_time = self.resetting.lock();
        if self.resets() != seen {
            return Ok(());
        }
        *self.open.write() = None;
        self.resets.fetch_add(1, Ordering::Relaxed);
        if self.path.exists() {
            let aside = (0_u32..)
                .map(|n| self.path.with_extension(format!("damaged-{n}")))
                .find(|p| !p.exists());
            if let Some(aside) = aside {
                fs::rename(&self.path, &aside).map_err(|e| StoreError::Io {
                    operation: "put aside",
                    path: self.path.display().to_string(),
                    detail: e.to_string(),
                })?;
            }
        }
        let open = open_within(&self.path, self.config)?;
        *self.open.write() = Some(open);
        self.remove_put_aside();
        Ok(())
    }

    /// Removes indexes that were put aside. Space only: what can not be removed now (a thread
    /// that never came back may hold it) is tried again next time.
    fn remove_put_aside(&self) {
        let (Some(parent), Some(stem)) = (self.path.parent(), self.path.file_stem()) else {
            return;
        };
        let prefix = format!("{}.damaged-", stem.to_string_lossy());
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn with<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Open) -> fjall::Result<T>,
    ) -> Result<T, StoreError> {
        let seen = self.resets();
        let Some(open) = self.open.read().clone() else {
            return Err(StoreError::Unavailable {
                cause: "the room index is being begun again".into(),
            });
        };
        let done = work(&open);
        drop(open);
        done.map_err(|e| {
            let detail = format!("{operation}: {e}");
            match self.begin_again(seen) {
                Ok(()) => StoreError::Unavailable {
                    cause: format!(
                        "the room index failed ({detail}) and was begun again: fill it from the log"
                    ),
                },
                Err(again) => again,
            }
        })
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
}

/// Opens under a watchdog: a recovery that does not come back in time is left to itself (its
/// thread can not be ended), and answered as an error.
fn open_within(path: &Path, config: RoomsConfig) -> Result<Open, StoreError> {
    let failed = |detail: String| StoreError::Io {
        operation: "open the room index",
        path: path.display().to_string(),
        detail,
    };
    // overflow: one answer is ever sent.
    let (sender, receiver) = mpsc::sync_channel(1);
    let opening = path.to_owned();
    std::thread::Builder::new()
        .name("gb6-rooms-open".into())
        .spawn(move || {
            // Nobody waits any more after the time-out.
            let _ = sender.send(open(&opening, config));
        })
        .map_err(|e| failed(e.to_string()))?;
    match receiver.recv_timeout(config.open_timeout) {
        Ok(Ok(open)) => Ok(open),
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(format!(
            "no answer within {} s",
            config.open_timeout.as_secs_f32()
        ))),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed("opening it panicked".into())),
    }
}

fn open(path: &Path, config: RoomsConfig) -> fjall::Result<Open> {
    let database = Database::builder(path)
        .cache_size(config.cache_bytes)
        .max_cached_files(Some(64))
        .max_journaling_size(64 * 1024 * 1024)
        .worker_threads(1)
        .open()?;
    let memtable = config.memtable_bytes;
    let rooms = database.keyspace(KEYSPACE, || {
        KeyspaceCreateOptions::default().max_memtable_size(memtable)
    })?;
    Ok(Open { database, rooms })
}

/// Keys: shard (4 bytes, big-endian), then 0 for the applied position, or 1, instance, 0,
/// channel, 0 and the offset (8 bytes, big-endian). Neither name may contain a zero byte.
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

fn collect(
    items: impl Iterator<Item = fjall::Guard>,
    limit: usize,
) -> fjall::Result<Vec<(Offset, Position)>> {
    items
        .take(limit)
        .map(|item| {
            let (key, value) = item.into_inner()?;
            Ok((number(&key)?, number(&value)?))
        })
        .collect()
}

impl RoomStore for FjallRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        applied: Position,
    ) -> Result<(), StoreError> {
        let stored = self.with("put", |open| {
            let stored = read_applied(open, shard)?;
            if applied < stored {
                return Ok(stored);
            }
            let mut batch = open.database.batch().durability(Some(PersistMode::Buffer));
            for entry in entries {
                let key = entry_key(shard, &entry.room, entry.offset);
                batch.insert(&open.rooms, key, entry.position.to_be_bytes());
            }
            batch.insert(&open.rooms, applied_key(shard), applied.to_be_bytes());
            batch.commit()?;
            Ok(applied)
        })?;
        if stored == applied {
            return Ok(());
        }
        Err(StoreError::Conflict {
            what: format!("applied position {applied} is before the stored {stored}"),
        })
    }

    fn applied(&self, shard: ShardId) -> Result<Position, StoreError> {
        self.with("read", |open| read_applied(open, shard))
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let (low, high) = (
            entry_key(shard, room, from),
            entry_key(shard, room, Offset::MAX),
        );
        self.with("read", |open| collect(open.rooms.range(low..=high), limit))
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let (low, high) = (entry_key(shard, room, 0), entry_key(shard, room, from));
        self.with("read", |open| {
            collect(open.rooms.range(low..=high).rev(), limit)
        })
    }

    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        let (low, high) = (entry_key(shard, room, 0), entry_key(shard, room, below));
        self.with("delete", |open| Self::remove_range(open, low, high))
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        // Keys ascend from the applied position: it goes with the first batch, and an index that
        // says 0 is filled again, whatever is left of it.
        let low = shard.0.to_be_bytes().to_vec();
        let mut high = low.clone();
        high.push(ENTRY + 1);
        self.with("clear", |open| Self::remove_range(open, low, high))
    }
}
