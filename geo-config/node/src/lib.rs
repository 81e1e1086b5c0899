//! The driver of geo: reads the snapshot file, gives every change a revision that rises, and serves
//! it to the nodes of the mesh.
//!
//! A file with a mistake changes nothing: the last good snapshot stays in force, and the mistake is
//! logged, counted and shown until it is mended.

#![forbid(unsafe_code)]

mod revisions;
mod serve;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gb6_core_mesh::snapshot::{SnapshotStore, StoreError};
use gb6_core_mesh::{CloseCode, Endpoint};
use gb6_core_obs::{Component, Counter, Gauge, Health, Metrics};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use revisions::Revisions;
use serve::Published;
use source::Source;

pub use source::SourceError;

/// How often the files are looked at.
pub const POLL: Duration = Duration::from_secs(1);

/// What geo needs to know.
#[derive(Clone, Debug)]
pub struct GeoConfig {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// Where the last good snapshot and with it the revision is kept.
    pub data_dir: PathBuf,
    /// How often the files are looked at; [`POLL`].
    pub poll: Duration,
}

/// Why geo can not start.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file has mistakes, and no earlier snapshot is kept.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The kept snapshot can not be read, so the next revision is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running geo node. Dropping it stops it at once; [`Geo::drain`] says goodbye.
#[derive(Debug)]
pub struct Geo {
    endpoint: Endpoint,
    reload: Arc<Notify>,
    revision: watch::Receiver<Arc<Published>>,
    good: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Geo {
    /// Reads the snapshot and begins to serve it on `endpoint`. Within a tokio runtime.
    ///
    /// # Errors
    /// There is no usable snapshot, neither in the file nor kept, or what is kept can not be read.
    pub async fn start(
        config: GeoConfig,
        endpoint: Endpoint,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, GeoError> {
        let component = health.register("snapshot");
        let seen = Seen::new(metrics);
        let store = SnapshotStore::in_dir(&config.data_dir);
        let source = Source::new(config.snapshot);
        let good = Arc::new(AtomicBool::new(false));
        let opened = tokio::task::spawn_blocking(move || open(store, source)).await;
        let opened = match opened {
            Ok(opened) => opened?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        component.ready();
        good.store(opened.good, Ordering::Relaxed);
        seen.file(opened.good);
        let (publish, revision) = watch::channel(Arc::new(opened.published));
        seen.revision(revision.borrow().revision);

        let reload = Arc::new(Notify::new());
        let watcher = Watcher {
            source: opened.source,
            revisions: opened.revisions,
            publish,
            poll: config.poll,
            reload: Arc::clone(&reload),
            good: Arc::clone(&good),
            seen: seen.clone(),
            component,
        };
        let tasks = vec![
            tokio::spawn(watcher.run()),
            tokio::spawn(serve::accept(endpoint.clone(), revision.clone(), seen)),
        ];
        Ok(Self {
            endpoint,
            reload,
            revision,
            good,
            tasks,
        })
    }

    /// Looks at the files now, whether or not they seem to have changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// The revision in force.
    pub fn revision(&self) -> u64 {
        self.revision.borrow().revision
    }

    /// Waits until a revision of at least `wanted` is in force. Safe to cancel.
    pub async fn reached(&self, wanted: u64) {
        let mut revision = self.revision.clone();
        // The sender lives in a task that ends with `self`.
        let _ = revision.wait_for(|now| now.revision >= wanted).await;
    }

    /// Whether the file as it is now is the snapshot in force, or has a mistake.
    pub fn file_is_good(&self) -> bool {
        self.good.load(Ordering::Relaxed)
    }

    /// Stops serving: nodes are told to dial again, which they do until geo is back.
    pub async fn drain(self, patience: Duration) {
        self.endpoint
            .close(CloseCode::Draining, "geo is shutting down", patience)
            .await;
    }
}

impl Drop for Geo {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Opened {
    source: Source,
    revisions: Revisions,
    published: Published,
    good: bool,
}

/// The first snapshot: that of the file or, if that has a mistake, the kept one.
fn open(store: SnapshotStore, mut source: Source) -> Result<Opened, GeoError> {
    let mut revisions = Revisions::open(store)?;
    let (published, good) = match (source.read(), revisions.current()) {
        (Ok(snapshot), _) => (revisions.take(snapshot)?, true),
        (Err(error), Some(kept)) => {
            let revision = kept.revision;
            tracing::error!(%error, revision, "the snapshot file has mistakes: the kept snapshot stays in force");
            (Published::new(kept)?, false)
        }
        (Err(error), None) => return Err(error.into()),
    };
    Ok(Opened {
        source,
        revisions,
        published,
        good,
    })
}

/// Takes over what changes in the files.
struct Watcher {
    source: Source,
    revisions: Revisions,
    publish: watch::Sender<Arc<Published>>,
    poll: Duration,
    reload: Arc<Notify>,
    good: Arc<AtomicBool>,
    seen: Seen,
    component: Component,
}

impl Watcher {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = self.reload.notified() => true,
            };
            // Files are read outside the runtime's threads: the disk may be slow.
            let looked = tokio::task::spawn_blocking(move || {
                let result = self.look(asked);
                (self, result)
            });
            match looked.await {
                Ok((watcher, result)) => {
                    self = watcher;
                    self.tell(result);
                }
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
    }

    /// `None`: nothing has changed.
    fn look(&mut self, asked: bool) -> Option<Result<Published, GeoError>> {
        if !asked && !self.source.settled_anew() {
            return None;
        }
        let read = self.source.read().map_err(GeoError::from);
        Some(read.and_then(|snapshot| self.revisions.take(snapshot)))
    }

    fn tell(&mut self, result: Option<Result<Published, GeoError>>) {
        let Some(result) = result else { return };
        self.good.store(result.is_ok(), Ordering::Relaxed);
        self.seen.file(result.is_ok());
        let revision = self.publish.borrow().revision;
        match result {
            Ok(new) if new.revision > revision => {
                tracing::info!(revision = new.revision, "a new snapshot is in force");
                self.seen.revision(new.revision);
                self.publish.send_replace(Arc::new(new));
                self.component.ready();
            }
            Ok(_) => tracing::info!(revision, "the snapshot file says what is in force already"),
            Err(error) => {
                self.seen.refused.inc();
                tracing::error!(%error, revision, "the snapshot file is not taken over");
            }
        }
    }
}

/// The metrics.
#[derive(Clone)]
struct Seen {
    revision: Gauge,
    file_good: Gauge,
    refused: Counter,
    followers: Gauge,
    pushes: Counter,
}

impl Seen {
    fn new(metrics: &Metrics) -> Self {
        Self {
            revision: metrics.gauge(
                "gb6_geo_snapshot_revision",
                "Revision of the snapshot in force.",
            ),
            file_good: metrics.gauge(
                "gb6_geo_snapshot_file_good",
                "Whether the snapshot file as it is now is in force (1) or has a mistake (0).",
            ),
            refused: metrics.counter(
                "gb6_geo_snapshot_refused_total",
                "Changes of the snapshot file that were not taken over.",
            ),
            followers: metrics.gauge("gb6_geo_followers", "Nodes that follow the snapshot now."),
            pushes: metrics.counter("gb6_geo_pushes_total", "Snapshots sent to nodes."),
        }
    }

    fn revision(&self, revision: u64) {
        self.revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    fn file(&self, good: bool) {
        self.file_good.set(i64::from(good));
    }
}
