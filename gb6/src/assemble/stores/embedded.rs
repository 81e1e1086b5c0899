//! The embedded engines of a region: its logs and the index of its rooms.

use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::Context;
use gb6_core_model::ShardId;
use gb6_core_obs::{Metrics, Registration};
use gb6_core_ports::{RoomStore, ShardLog, Signals, StoreError};
use gb6_region_archive::Archives;
use gb6_region_node::OpenLog;
use gb6_region_stores_embedded::{
    ArchivedShardLog, Archiving, DataDir, EmbeddedShardLog, FjallRooms, LocalSignals, LogConfig,
    LogStats, RealVfs, RoomsConfig,
};
use parking_lot::Mutex;

use crate::assemble::node::NodeParts;

/// Logs that were opened; one that was lost and closed is gone from it at the next opening.
type Logs = Arc<Mutex<Vec<(ShardId, Weak<dyn Counted>)>>>;

/// A log with counters.
trait Counted: Send + Sync {
    fn counters(&self) -> LogStats;
}

impl Counted for EmbeddedShardLog<RealVfs> {
    fn counters(&self) -> LogStats {
        self.stats()
    }
}

impl Counted for ArchivedShardLog<RealVfs> {
    fn counters(&self) -> LogStats {
        self.stats()
    }
}

/// Where logs are archived, and how.
pub(in crate::assemble) type Archived = (Archives, Archiving);

/// An open data directory: nobody else has it.
pub(in crate::assemble) struct Storage {
    dir: Arc<DataDir>,
    logs: Logs,
}

impl Storage {
    /// Opens `data_dir`, made if absent.
    ///
    /// # Errors
    /// Another process has it, a newer version wrote it, or the disk fails.
    pub(in crate::assemble) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let dir = DataDir::open(data_dir).with_context(|| {
            format!(
                "the data directory {} can not be opened",
                data_dir.display()
            )
        })?;
        Ok(Self {
            dir: Arc::new(dir),
            logs: Arc::default(),
        })
    }

    /// Whether a log was ever written here.
    pub(in crate::assemble) fn has_logs(&self) -> bool {
        let shards = self.dir.path().join("shards");
        std::fs::read_dir(shards).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Opens the log of a shard; with `archived` it is copied into an archive as it grows.
    pub(in crate::assemble) fn open_log(&self, archived: Option<Archived>) -> OpenLog {
        let (dir, logs) = (Arc::clone(&self.dir), Arc::clone(&self.logs));
        Arc::new(move |shard| {
            let config = LogConfig::default();
            let note = |note| tracing::warn!(%shard, ?note, "found while opening the log");
            let (log, counted): (Arc<dyn ShardLog>, Weak<dyn Counted>) = match &archived {
                None => {
                    let log = Arc::new(dir.shard_log(shard, config)?);
                    log.notes().iter().for_each(note);
                    let counted: Weak<dyn Counted> = Arc::downgrade(&log) as _;
                    (log, counted)
                }
                Some((archives, archiving)) => {
                    let log = dir.archived_shard_log(shard, config, archives, archiving)?;
                    let log = Arc::new(log);
                    log.notes().iter().for_each(note);
                    if let Some(position) = log.restored() {
                        tracing::warn!(%shard, position, "the disk was empty: the log goes on from its archive");
                    }
                    let counted: Weak<dyn Counted> = Arc::downgrade(&log) as _;
                    (log, counted)
                }
            };
            let mut logs = logs.lock();
            // The one before it may still be read from: its numbers are those of the shard no more.
            logs.retain(|(known, log)| *known != shard && log.strong_count() > 0);
            logs.push((shard, counted));
            Ok::<Arc<dyn ShardLog>, StoreError>(log)
        })
    }

    /// The index of rooms; one that is damaged, or takes too long to open, is begun again.
    ///
    /// # Errors
    /// The system gives no thread for it.
    pub(in crate::assemble) fn rooms(
        &self,
        parts: &mut NodeParts,
    ) -> anyhow::Result<Arc<dyn RoomStore>> {
        // Beside the start: it reads its own journal, which may take seconds after a kill.
        let rooms = FjallRooms::open_beside(&self.dir.rooms_path(), RoomsConfig::default())?;
        let rooms = Arc::new(rooms);
        let counted = Arc::clone(&rooms);
        parts.registrations.push(parts.metrics.counter_fn(
            "gb6_rooms_resets_total",
            "Times that the index of rooms was begun again, to be filled from the logs.",
            &[],
            move || counted.resets(),
        ));
        Ok(rooms)
    }

    /// The signals of channels that keep nothing: in the memory of the shards' owner.
    pub(in crate::assemble) fn signals(&self) -> Arc<dyn Signals> {
        Arc::new(LocalSignals::new())
    }

    /// The logs' counters on `/metrics`.
    pub(in crate::assemble) fn metrics(&self, metrics: &Metrics) -> Registration {
        let logs = Arc::clone(&self.logs);
        metrics.collect(move |out| {
            for (shard, log) in logs.lock().iter() {
                let Some(log) = log.upgrade() else { continue };
                let (shard, stats) = (shard.to_string(), log.counters());
                let labels = [("shard", shard.as_str())];
                for (name, help, value) in [
                    (
                        "gb6_log_records_total",
                        "Records made durable.",
                        stats.records,
                    ),
                    (
                        "gb6_log_bytes_total",
                        "Bytes of records made durable.",
                        stats.bytes,
                    ),
                    (
                        "gb6_log_syncs_total",
                        "Syncs that made records durable.",
                        stats.syncs,
                    ),
                    (
                        "gb6_log_sync_microseconds_total",
                        "Time in writing and syncing them, in microseconds.",
                        stats.sync_us,
                    ),
                    (
                        "gb6_log_failures_total",
                        "Groups of batches that could not be written.",
                        stats.failures,
                    ),
                    (
                        "gb6_log_job_failures_total",
                        "Background jobs of the log (allocating, sealing) that failed.",
                        stats.job_failures,
                    ),
                ] {
                    out.counter(name, help, &labels, value);
                }
                out.gauge(
                    "gb6_log_waiting_bytes",
                    "Bytes of batches that wait for the log's writer.",
                    &labels,
                    stats.waiting_bytes as f64,
                );
            }
        })
    }
}
