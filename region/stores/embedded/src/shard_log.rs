//! The port `ShardLog` on a segmented log: one writer thread, which gathers everything that waits
//! into one write and one sync, and one helper thread for what may go on beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Instant;

use gb6_core_model::Position;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, ConsumerState, Durability, Fence, LogCaps, LogRange,
    Page, Retain, RetentionPlan, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;
use parking_lot::Mutex;
use prost::Message;

use crate::inbox::{Append, Command, EndOfWriter, Inbox};
use crate::log::{Job, LoadNote, LogConfig, LogReader, SegmentedLog};
use crate::vfs::Vfs;

/// By how much the helper's thread gives way to others.
pub(crate) const JOBS_NICE: i32 = 10;
/// Bytes of batches that may wait for the writer.
const INBOX_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that a record takes beyond its own: the fields that the log sets, and its length.
const RECORD_EXTRA_BYTES: usize = 40;

/// Counters of one log, for metrics. They only grow, but for `waiting_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Records committed.
    pub records: u64,
    /// Bytes committed, as given.
    pub bytes: u64,
    /// Syncs that committed something.
    pub syncs: u64,
    /// Time in write and sync of those, in µs.
    pub sync_us: u64,
    /// Groups of batches that failed.
    pub failures: u64,
    /// Background jobs (allocating, sealing) that failed.
    pub job_failures: u64,
    /// Bytes of batches that wait now.
    pub waiting_bytes: u64,
}

#[derive(Default)]
struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    sync_us: AtomicU64,
    failures: AtomicU64,
    job_failures: AtomicU64,
}

/// A shard's log with its threads. Dropping it commits what waits, then ends them.
pub struct EmbeddedShardLog<V: Vfs> {
    inbox: Arc<Inbox<V>>,
    reader: LogReader<V>,
    config: LogConfig,
    counters: Arc<Counters>,
    notes: Vec<LoadNote>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<V: Vfs> EmbeddedShardLog<V> {
    /// Opens the log in `vfs` and starts its threads; `name` becomes part of their names.
    ///
    /// Errors: as [`SegmentedLog::open`]; `Io` when the system gives no thread.
    pub fn start(vfs: V, config: LogConfig, name: &str) -> Result<Self, StoreError> {
        let log = SegmentedLog::open(vfs, config)?;
        let reader = log.reader();
        let notes = log.notes().to_vec();
        let inbox = Arc::new(Inbox::new(INBOX_BYTES_MAX));
        let counters = Arc::new(Counters::default());
        // overflow: the job stays with the log, which offers it again after the next batch.
        let (jobs, job_list) = mpsc::sync_channel::<Job<V>>(1);
        let helper = {
            let inbox = inbox.clone();
            spawn(format!("{name}-jobs"), move || {
                // What it does is for later: a commit goes first. In vain where the system has no
                // such thing; then it is only slower.
                let _ = rustix::process::nice(JOBS_NICE);
                for job in job_list {
                    // Refused once the writer has ended: dropped with what it holds.
                    let _ = inbox.put(Command::JobDone(Box::new(job.run())));
                }
            })?
        };
        let writer = {
            let writer = Writer {
                log,
                config,
                inbox: inbox.clone(),
                counters: counters.clone(),
                jobs,
                job: None,
                failed: None,
            };
            spawn(name.to_owned(), move || writer.run(helper))?
        };
        Ok(Self {
            inbox,
            reader,
            config,
            counters,
            notes,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// What opening found that is worth a line in the log.
    pub fn notes(&self) -> &[LoadNote] {
        &self.notes
    }

    /// Reads it, from any thread.
    pub(crate) fn reader(&self) -> &LogReader<V> {
        &self.reader
    }

    /// The counters now.
    pub fn stats(&self) -> LogStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        LogStats {
            records: get(&self.counters.records),
            bytes: get(&self.counters.bytes),
            syncs: get(&self.counters.syncs),
            sync_us: get(&self.counters.sync_us),
            failures: get(&self.counters.failures),
            job_failures: get(&self.counters.job_failures),
            waiting_bytes: self.inbox.waiting() as u64,
        }
    }

    /// Runs `call` on the writer's thread under `fence`.
    fn on_writer<T: Send + 'static>(
        &self,
        fence: &Fence,
        call: impl FnOnce(&mut SegmentedLog<V>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fence = fence.clone();
        gb6_core_ports::wait(|done: Completion<T>| {
            let command = Command::Call(Box::new(move |log: &mut SegmentedLog<V>| {
                done.finish(check_fence(log, &fence).and_then(|()| call(log)));
            }));
            // A refused command drops its completion, which answers.
            let _ = self.inbox.put(command);
        })
    }
}

pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let started = std::thread::Builder::new().name(name.clone()).spawn(body);
    started.map_err(|e| StoreError::Io {
        operation: "start thread",
        path: name,
        detail: e.to_string(),
    })
}

fn check_fence<V: Vfs>(log: &SegmentedLog<V>, fence: &Fence) -> Result<(), StoreError> {
    if log.fence() == Some(fence) {
        return Ok(());
    }
    Err(StoreError::Fenced {
        held: fence.shard_epoch,
        current: log.epoch(),
    })
}

impl<V: Vfs> Drop for EmbeddedShardLog<V> {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has answered everything by dropping it.
            let _ = writer.join();
        }
    }
}

struct Writer<V: Vfs> {
    log: SegmentedLog<V>,
    config: LogConfig,
    inbox: Arc<Inbox<V>>,
    counters: Arc<Counters>,
    jobs: SyncSender<Job<V>>,
    /// A job that the helper had no place for.
    job: Option<Job<V>>,
    /// Why the last group failed: batches that were sent behind it, before their sender could
    /// know, fail in the same way.
    failed: Option<StoreError>,
}

impl<V: Vfs> Writer<V> {
    fn run(mut self, helper: JoinHandle<()>) {
        let _end = EndOfWriter(self.inbox.clone());
        while let Some(command) = self.inbox.next() {
            match command {
                Command::Append(append) => self.commit_group(append),
                Command::Acquire(fence, acquire, done) => {
                    self.failed = None;
                    done.finish(self.log.acquire(&fence, acquire));
                }
                Command::Call(call) => call(&mut self.log),
                Command::JobDone(job) => {
                    if self.log.finish(*job).is_err() {
                        self.counters.job_failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            self.give_jobs();
        }
        drop(self.jobs);
        // A helper that panicked has nothing left to do.
        let _ = helper.join();
    }

    fn give_jobs(&mut self) {
        while let Some(job) = self.job.take().or_else(|| self.log.take_job()) {
            match self.jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.job = Some(job);
                    return;
                }
                Err(TrySendError::Disconnected(job)) => {
                    // The helper died: slower, but the log goes on.
                    if self.log.finish(job.run()).is_err() {
                        self.counters.job_failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Commits one batch and everything that waits behind it, as far as it fits into one sync.
    fn commit_group(&mut self, first: Append) {
        let mut group = Vec::new();
        let mut records = 0;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(append) = next.take() {
            records += append.batch.len();
            bytes += append.bytes;
            self.join(append, &mut group);
            next = self.inbox.next_append(
                self.config.batch_records_max.saturating_sub(records),
                self.config.batch_bytes_max.saturating_sub(bytes + 64),
            );
        }
        if group.is_empty() {
            return;
        }
        let began = Instant::now();
        let result = self.log.write().and_then(|()| self.log.sync());
        let ended = Instant::now();
        let sync_us = (ended - began).as_micros() as u64;
        let counters = &self.counters;
        match result {
            Ok(commit) => {
                counters.syncs.fetch_add(1, Ordering::Relaxed);
                counters.sync_us.fetch_add(sync_us, Ordering::Relaxed);
                counters
                    .records
                    .fetch_add(u64::from(commit.shared), Ordering::Relaxed);
                counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                for waiting in group {
                    waiting.done.finish(Ok(Commit {
                        first: waiting.first,
                        next: waiting.next,
                        elapsed_us: (ended - waiting.since).as_micros() as u64,
                        sync_us,
                        shared: commit.shared,
                        bytes: waiting.bytes as u64,
                    }));
                }
            }
            Err(error) => {
                counters.failures.fetch_add(1, Ordering::Relaxed);
                self.failed = Some(error.clone());
                for waiting in group {
                    waiting.done.finish(Err(error.clone()));
                }
            }
        }
    }

    /// Joins a batch to the open one, or answers why not.
    fn join(&mut self, append: Append, group: &mut Vec<Waiting>) {
        let bytes = append.bytes;
        let (first, count) = (self.log.staged_end(), append.batch.len() as u64);
        let given = append.batch.first().map_or(first, |r| r.position);
        let staged = check_fence(&self.log, &append.fence).and_then(|()| {
            match self.failed.take() {
                // Numbered as if the failed ones had been committed.
                Some(error) if given > first => {
                    self.failed = Some(error.clone());
                    Err(error)
                }
                _ => self.log.stage(append.batch),
            }
        });
        match staged {
            Ok(()) => group.push(Waiting {
                first,
                next: first + count,
                bytes,
                since: append.since,
                done: append.done,
            }),
            Err(error) => append.done.finish(Err(error)),
        }
    }
}

/// A batch of the group that is being committed.
struct Waiting {
    first: Position,
    next: Position,
    bytes: usize,
    since: Instant,
    done: Completion<Commit>,
}

impl<V: Vfs> ShardLog for EmbeddedShardLog<V> {
    fn caps(&self) -> LogCaps {
        LogCaps {
            durability: Durability::Disk,
            batch_records_max: self.config.batch_records_max,
            batch_bytes_max: self.config.batch_bytes_max,
            rewrite: true,
            exclusive: true,
        }
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        if let Err(Command::Acquire(_, _, done)) =
            self.inbox.put(Command::Acquire(fence, acquire, done))
        {
            done.finish(Err(StoreError::Closed));
        }
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        let encoded: usize = batch.iter().map(Message::encoded_len).sum();
        self.inbox.append(Append {
            fence: fence.clone(),
            bytes: encoded + batch.len() * RECORD_EXTRA_BYTES,
            batch,
            since: Instant::now(),
            done,
        });
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.on_writer(fence, SegmentedLog::confirm)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        Ok(self.reader.range())
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.reader.read(from, max_records, max_bytes)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        self.reader.read_at(positions)
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        // Each removal is a sync, and the writer's batches hold a turn of the whole node: those that
        // wait go before the next one.
        loop {
            if let Some(first) = self.on_writer(fence, move |log| log.trim_oldest(to))? {
                return Ok(first);
            }
        }
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        // Refused before the work is done, not only after.
        self.on_writer(fence, |_| Ok(()))?;
        let rewritten = self.reader.prepare_rewrite(segment, retain)?;
        self.on_writer(fence, move |log| log.install(rewritten))
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        self.on_writer(fence, move |log| log.seal_around(position))
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.reader.plan_retention(first_kept, settled)
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        self.reader.register_consumer(name, position)
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        self.reader.set_consumer(name, position)
    }

    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        self.reader.set_consumers(positions)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.reader.remove_consumer(name)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.reader.consumers()
    }

    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        self.reader.save_checkpoint(position, state)
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.reader.load_checkpoint_before(before)
    }
}
