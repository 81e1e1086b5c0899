//! A log on a disk that is copied into an archive as it grows, and that begins from there again on an
//! empty disk. The disk stays the truth: nothing that is acknowledged waits for the archive, and what
//! had not been copied is lost with the disk.

mod archiver;
mod marker;
mod overlay;
mod restore;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gb6_core_model::Position;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, Fence, LogLayer, LogRange, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;
use gb6_region_archive::Archive;
use parking_lot::Mutex;

pub use overlay::{Overlay, OverlayFile};

use archiver::Archiver;

use crate::log::{LoadNote, LogConfig};
use crate::shard_log::{EmbeddedShardLog, JOBS_NICE, LogStats, spawn};
use crate::vfs::Vfs;

/// How a log is archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Archiving {
    /// The node's name: an archive is of one node.
    pub node: String,
    /// How often the open segment, checkpoints and consumers are copied. What is sealed is copied within
    /// a second or so.
    pub interval: Duration,
    /// On an empty disk: go on from an archive of another node, which never comes back.
    pub take_over: bool,
    /// How often it is looked whether somebody wants to go on from the archive, or has.
    pub look: Duration,
    /// On an empty disk: how long the archive's owner is given to say that it lives. Longer than two looks.
    pub ask: Duration,
}

impl Archiving {
    /// As `node` does it by default: every 30 s.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            interval: Duration::from_secs(30),
            take_over: false,
            look: Duration::from_secs(5),
            ask: Duration::from_secs(15),
        }
    }
}

/// An embedded log with an archive.
pub struct ArchivedShardLog<V: Vfs> {
    log: EmbeddedShardLog<Overlay<V>>,
    archive: Arc<Archive>,
    archiver: Arc<Archiver<V>>,
    /// The directory was empty: the archive must be owned before the log is.
    unclaimed: AtomicBool,
    restored: Option<Position>,
    /// What lies before it may lie in the archive only.
    archived_before: Position,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<V: Vfs> ArchivedShardLog<V> {
    /// Opens the log in `vfs` and starts its threads; `name` becomes part of their names. `archive` may be
    /// unread. An empty directory whose archive holds something begins from there: positions and
    /// checkpoints are those of the archive, and history is read from it.
    ///
    /// # Errors
    /// As [`EmbeddedShardLog::start`]. `Unavailable`: what is not on the disk can not be read. `Conflict`:
    /// the archive is of another node, another start has gone on from it, or its owner lives.
    pub fn start(
        vfs: V,
        config: LogConfig,
        name: &str,
        archive: Archive,
        archiving: &Archiving,
    ) -> Result<Self, StoreError> {
        let archive = Arc::new(archive);
        let opened = restore::open(vfs, &archive, archiving)?;
        let archived_before = opened.vfs.archived_before();
        let log = EmbeddedShardLog::start(opened.vfs, config, name)?;
        let archiver = Arc::new(Archiver::new(
            log.reader().clone(),
            opened.marker,
            archive.clone(),
            (archiving.interval, archiving.look),
        ));
        let archives = archiver.clone();
        let archives = spawn(format!("{name}-archive"), move || {
            // Commits go first. In vain where the system has no such thing.
            let _ = rustix::process::nice(JOBS_NICE);
            archives.run();
        })?;
        let witness = archiver.clone();
        let witness = spawn(format!("{name}-witness"), move || witness.bear_witness());
        let witness = witness.inspect_err(|_| archiver.stop())?;
        Ok(Self {
            log,
            archive,
            archiver,
            unclaimed: AtomicBool::new(opened.empty),
            restored: opened.restored,
            archived_before,
            threads: Mutex::new(vec![archives, witness]),
        })
    }

    /// The position where a log that was begun from its archive goes on; `None`: the disk had it.
    pub fn restored(&self) -> Option<Position> {
        self.restored
    }

    /// Its archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What opening found that is worth a line in the log.
    pub fn notes(&self) -> &[LoadNote] {
        self.log.notes()
    }

    /// The counters now.
    pub fn stats(&self) -> LogStats {
        self.log.stats()
    }

    /// Copies now everything that is committed, under `fence`; blocks. Answers what the archive holds then.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `Corrupt`; `OutcomeUnknown`: copy again.
    pub fn archive_now(&self, fence: &Fence) -> Result<LogRange, StoreError> {
        self.archiver.copy(fence, true)?;
        Ok(self.archive.range())
    }
}

/// Whether bytes are a marker: for fuzzers.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn marker_of(bytes: &[u8]) -> bool {
    marker::Marker::decode(bytes).is_some()
}

impl<V: Vfs> Drop for ArchivedShardLog<V> {
    fn drop(&mut self) {
        self.archiver.stop();
        for thread in self.threads.lock().drain(..) {
            // One that panicked has copied what it has.
            let _ = thread.join();
        }
    }
}

impl<V: Vfs> LogLayer for ArchivedShardLog<V> {
    fn below(&self) -> &dyn ShardLog {
        &self.log
    }

    fn archived_before(&self) -> Position {
        self.archived_before
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        if let Err(e) = self.archiver.look_again(&fence) {
            return done.finish(Err(e));
        }
        if self.unclaimed.load(Ordering::Acquire) {
            // Nothing on the disk says who else may have begun from the same archive.
            if let Err(e) = self.archiver.begin(&fence) {
                return done.finish(Err(e));
            }
            self.unclaimed.store(false, Ordering::Release);
        }
        let archiver = self.archiver.clone();
        let owned = fence.clone();
        let done = Completion::new(move |answer: Result<Acquired, StoreError>| {
            if answer.is_ok() {
                archiver.owns(owned);
            }
            done.finish(answer);
        });
        self.log.acquire(fence, acquire, done);
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        match self.archiver.check(fence.shard_epoch) {
            Ok(()) => self.log.append(fence, batch, done),
            Err(e) => done.finish(Err(e)),
        }
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.archiver.check(fence.shard_epoch)?;
        self.log.confirm(fence)
    }
}
