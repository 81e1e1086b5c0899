//! The index behind the log: a thread per shard that tells the `RoomStore` where committed records
//! lie. It follows the log from the position that the store has applied, so a store that was lost
//! or lags is rebuilt while the shard serves; fresh batches are handed to it so that it need not
//! read them back.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use gb6_core_model::{Channel, ChannelKey, InstanceId, Position, ShardId};
use gb6_core_ports::{Fence, RoomEntry, RoomStore, ShardLog, StoreError};
use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::Record;

use crate::panics::Guard;

/// Batches handed over that may wait; beyond, the thread reads them from the log.
const QUEUE_MAX: usize = 256;
/// Records read from the log at once while catching up.
const PAGE_RECORDS: usize = 4096;
/// Bytes read from the log at once while catching up.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Pause after an error, and the longest wait for work.
const IDLE: Duration = Duration::from_millis(200);
/// Pause after a write of fresh batches, so that many share the next one: what is not indexed yet
/// is answered from memory.
const GATHER: Duration = Duration::from_millis(50);

enum Work {
    Batch(Arc<Vec<Record>>),
    Trim(RoomRef, u64),
}

/// A shard's index thread. Of one shard at most one follows its log: the next one waits until it has
/// ended.
pub(crate) struct Indexer {
    feed: IndexFeed,
    thread: JoinHandle<()>,
}

/// Where committed batches are handed to the index thread.
#[derive(Clone)]
pub(crate) struct IndexFeed {
    work: SyncSender<Work>,
    state: Arc<IndexState>,
}

/// How far the index is, for everybody; whoever holds it keeps no thread.
#[derive(Default)]
pub(crate) struct IndexState {
    /// The position before which everything is indexed, as far as the index thread knows: the
    /// index may have been lost since.
    applied: AtomicU64,
    stop: AtomicBool,
    errors: AtomicU64,
    /// How often the index was begun anew in this life, as its thread knows it.
    generation: AtomicU64,
    /// The index was found to be wrong, and is to be begun anew.
    distrusted: AtomicBool,
}

impl Indexer {
    /// Begins to follow `log`, as its owner under `fence`; without one as whoever reads a log that
    /// nobody else can own. Its thread waits for the one `before`, which may wait for the store: what is
    /// not indexed meanwhile is answered later, and nobody else waits.
    pub(crate) fn start(
        shard: ShardId,
        log: Arc<dyn ShardLog>,
        store: Arc<dyn RoomStore>,
        fence: Option<Fence>,
        guard: Guard,
        before: Option<Self>,
    ) -> std::io::Result<Self> {
        // overflow: a batch that finds the queue full is dropped; the thread reads it from the log.
        let (work, queue) = sync_channel(QUEUE_MAX);
        let state = Arc::new(IndexState::default());
        let follower = Follower {
            shard,
            log,
            store,
            fence,
            state: state.clone(),
            guard,
        };
        let thread = std::thread::Builder::new()
            .name(format!("index-{shard}"))
            .spawn(move || {
                if let Some(before) = before {
                    before.stop();
                }
                follower.run(&queue);
            })?;
        let feed = IndexFeed { work, state };
        Ok(Self { feed, thread })
    }

    /// Where batches are handed over.
    pub(crate) fn feed(&self) -> IndexFeed {
        self.feed.clone()
    }

    /// How far the index is.
    pub(crate) fn state(&self) -> Arc<IndexState> {
        self.feed.state.clone()
    }

    /// Has the thread end, a moment from now or after as long as the store takes for one write or the log
    /// to say who owns it.
    pub(crate) fn ends(&self) {
        self.feed.state.stop.store(true, Release);
    }

    /// Ends the thread, and waits until it has.
    pub(crate) fn stop(self) {
        self.ends();
        let Self { feed, thread } = self;
        // Without a sender it waits for no more work.
        drop(feed);
        // A thread that panicked has ended too.
        let _ = thread.join();
    }
}

impl IndexFeed {
    /// Hands over a committed batch.
    pub(crate) fn committed(&self, batch: Arc<Vec<Record>>) {
        self.offer(Work::Batch(batch));
    }

    /// A room's first kept offset has moved.
    pub(crate) fn trimmed(&self, room: RoomRef, first: u64) {
        self.offer(Work::Trim(room, first));
    }

    fn offer(&self, work: Work) {
        match self.work.try_send(work) {
            // A trim that is lost leaves entries that nobody asks for; the next one, or a rebuild,
            // removes them.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl IndexState {
    /// The position before which everything is indexed, as of a moment ago.
    pub(crate) fn applied(&self) -> Position {
        self.applied.load(Acquire)
    }

    /// How often the index was begun anew: what [`IndexState::distrust`] is told.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// The index of `generation` says what the log does not: its thread clears it and builds it
    /// again. One that has been begun anew since is not blamed.
    pub(crate) fn distrust(&self, generation: u64) {
        if self.generation() == generation {
            self.distrusted.store(true, Release);
        }
    }

    /// Errors of the store so far.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }
}

struct Follower {
    shard: ShardId,
    log: Arc<dyn ShardLog>,
    store: Arc<dyn RoomStore>,
    /// Under what the shard is owned; `None`: it is only read, and nobody else can own it.
    fence: Option<Fence>,
    state: Arc<IndexState>,
    guard: Guard,
}

impl Follower {
    fn run(&self, queue: &Receiver<Work>) {
        let mut failing = false;
        // What the last owner left is caught up with before anything is waited for.
        let mut patience = Duration::ZERO;
        while !self.state.stop.load(Acquire) {
            // A panic costs what was being indexed: the log has it. Without its thread the index would
            // stay behind for good.
            let step = self.guard.run(|| self.step(queue, patience));
            patience = IDLE;
            if let Err(error) = &step {
                self.state.errors.fetch_add(1, Relaxed);
                if !failing {
                    tracing::error!(shard = %self.shard, %error, "the room index can not be written; history of what is not indexed waits");
                }
                std::thread::sleep(IDLE.max(self.guard.pause()));
            }
            failing = step.is_err();
        }
        self.finish(queue);
    }

    /// Indexes what was handed over before the end, so that the next owner has little to catch up
    /// with. What fails here is caught up with then.
    fn finish(&self, queue: &Receiver<Work>) {
        while let Ok(work) = queue.try_recv() {
            let applied = self.state.applied.load(Acquire);
            let done = match work {
                Work::Batch(batch) => self.index(applied, batch, queue).map(|_| ()),
                Work::Trim(..) => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Takes one piece of work, or catches up with the log where none comes within `patience`.
    fn step(&self, queue: &Receiver<Work>, patience: Duration) -> Result<(), StoreError> {
        let mut applied = self.store.applied(self.shard)?;
        if applied < self.state.applied.load(Acquire) {
            tracing::warn!(shard = %self.shard, applied, "the room index was lost and is built again");
            self.state.generation.fetch_add(1, Release);
        }
        if self.is_to_clear(applied)? {
            tracing::warn!(shard = %self.shard, applied, "the room index does not fit this log and is built again");
            // Before it is cleared: a reader must not take what it no longer finds for trimmed.
            self.state.applied.store(0, Release);
            self.store.clear(self.shard)?;
            self.state.generation.fetch_add(1, Release);
            self.state.distrusted.store(false, Release);
            applied = 0;
        }
        self.state.applied.store(applied, Release);
        match queue.recv_timeout(patience) {
            Ok(Work::Trim(room, first)) => {
                if let Some(key) = key_of(&room.instance, &room.channel) {
                    self.store.delete_below(self.shard, &key, first)?;
                }
                Ok(())
            }
            Ok(Work::Batch(batch)) => {
                let all = self.index(applied, batch, queue)?;
                if all {
                    std::thread::sleep(GATHER);
                }
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => self.catch_up(applied, u64::MAX),
            Err(RecvTimeoutError::Disconnected) => {
                self.state.stop.store(true, Release);
                Ok(())
            }
        }
    }

    /// Whether the index is wrong, and this node's to clear. Nodes may share it: one that was replaced,
    /// and does not know it yet, finds what the next owner has indexed of records that it has not seen.
    /// Only the log says which of the two it is.
    fn is_to_clear(&self, applied: Position) -> Result<bool, StoreError> {
        if !self.is_suspect(applied)? {
            return Ok(false);
        }
        let Some(fence) = &self.fence else {
            return Ok(true);
        };
        self.log.confirm(fence)?;
        // To answer, the log may have read on.
        self.is_suspect(applied)
    }

    /// Whether the index says what the log does not: it may be of a longer log than this one, which was
    /// restored from an older copy.
    fn is_suspect(&self, applied: Position) -> Result<bool, StoreError> {
        Ok(applied > self.log.range()?.next || self.state.distrusted.load(Acquire))
    }

    /// Indexes a batch and those that wait behind it, as one write. Whether none is left.
    fn index(
        &self,
        applied: Position,
        batch: Arc<Vec<Record>>,
        queue: &Receiver<Work>,
    ) -> Result<bool, StoreError> {
        let Some(first) = batch.first().map(|r| r.position) else {
            return Ok(false);
        };
        let mut applied = applied;
        if first > applied {
            applied = self.catch_up_to(applied, first)?;
        }
        let mut waiting = batch.len();
        let mut batches = vec![batch];
        while waiting < PAGE_RECORDS {
            match queue.try_recv() {
                Ok(Work::Batch(batch)) => {
                    waiting += batch.len();
                    batches.push(batch);
                }
                Ok(Work::Trim(room, first)) => {
                    if let Some(key) = key_of(&room.instance, &room.channel) {
                        self.store.delete_below(self.shard, &key, first)?;
                    }
                }
                Err(_) => break,
            }
        }
        let mut entries = Vec::with_capacity(waiting);
        let mut keys = Keys::default();
        for record in batches.iter().flat_map(|batch| batch.iter()) {
            match record.position.cmp(&applied) {
                Ordering::Less => {}
                Ordering::Equal => {
                    applied += 1;
                    entries.extend(keys.entry_of(record));
                }
                // A hand-over was lost: the log has it.
                Ordering::Greater => break,
            }
        }
        self.put(&entries, applied)?;
        Ok(waiting < PAGE_RECORDS)
    }

    fn put(&self, entries: &[RoomEntry], applied: Position) -> Result<(), StoreError> {
        let from = self.state.applied.load(Acquire);
        self.store.put(self.shard, entries, from, applied)?;
        self.state.applied.store(applied, Release);
        Ok(())
    }

    fn catch_up(&self, applied: Position, to: Position) -> Result<(), StoreError> {
        self.catch_up_to(applied, to).map(|_| ())
    }

    /// Reads the log from `applied` to `to` or its end, and indexes it.
    fn catch_up_to(&self, mut applied: Position, to: Position) -> Result<Position, StoreError> {
        let range = self.log.range()?;
        applied = applied.max(range.first);
        while applied < to.min(range.next) && !self.state.stop.load(Acquire) {
            let page = self.log.read(applied, PAGE_RECORDS, PAGE_BYTES)?;
            if page.next <= applied {
                break;
            }
            let mut keys = Keys::default();
            let known = page.records.iter().filter_map(|r| keys.entry_of(r));
            let entries: Vec<RoomEntry> = known.collect();
            applied = page.next;
            self.put(&entries, applied)?;
        }
        Ok(applied)
    }
}

/// The keys of the rooms in one write: few rooms have most of the records.
#[derive(Default)]
struct Keys<'a> {
    known: HashMap<(&'a str, &'a str), Option<ChannelKey>>,
}

impl<'a> Keys<'a> {
    fn entry_of(&mut self, record: &'a Record) -> Option<RoomEntry> {
        if !record.takes_offset() {
            return None;
        }
        let (instance, channel) = (record.instance.as_str(), record.channel.as_str());
        let key = self.known.entry((instance, channel));
        Some(RoomEntry {
            room: key.or_insert_with(|| key_of(instance, channel)).clone()?,
            offset: record.offset,
            position: record.position,
        })
    }
}

/// The key of a room; `None` for a name that no edge lets in, which therefore nobody can ask for.
pub(crate) fn key_of(instance: &str, channel: &str) -> Option<ChannelKey> {
    let channel = Channel::parse(channel).ok()?;
    Some(ChannelKey::new(InstanceId::from(instance), channel))
}
