//! The driver of geo: reads the snapshot file, and a directory where there is one, gives every change a
//! revision that rises, and serves it to the nodes of the mesh.
//!
//! A file with a mistake changes nothing: the last good snapshot stays in force, and the mistake is
//! logged, counted and shown until it is mended. So does a directory that is lost.

#![forbid(unsafe_code)]

mod content;
mod directory;
mod revisions;
mod seen;
mod serve;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gb6_core_mesh::snapshot::{SnapshotStore, StoreError};
use gb6_core_mesh::{CloseCode, Endpoint};
use gb6_core_obs::{Component, Health, Metrics};
use gb6_core_ports::directory::DirectoryError;
use gb6_geo_config_plan::{Laid, Problem};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use content::{Content, Looked};
use directory::Follower;
use revisions::Revisions;
use seen::Seen;
use serve::Published;
use source::Source;

pub use directory::OpenDirectory;
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
    /// The directory can not be read, and no earlier snapshot is kept.
    #[error("the directory can not be read: {0}")]
    Directory(#[from] DirectoryError),
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
    /// Reads the snapshot and begins to serve it on `endpoint`. With a `directory` its instances are laid over
    /// those of the file. Within a tokio runtime.
    ///
    /// # Errors
    /// There is no usable snapshot, neither in the file and the directory nor kept, or what is kept can not be
    /// read.
    pub async fn start(
        config: GeoConfig,
        directory: Option<OpenDirectory>,
        endpoint: Endpoint,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, GeoError> {
        let component = health.register("snapshot");
        let seen = Seen::new(metrics, directory.is_some().then_some(health));
        let store = SnapshotStore::in_dir(&config.data_dir);
        let content = Content::new(Source::new(config.snapshot), directory.map(Follower::new));
        let good = Arc::new(AtomicBool::new(false));
        let opened = tokio::task::spawn_blocking(move || open(store, content)).await;
        let opened = match opened {
            Ok(opened) => opened?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        component.ready();
        let is_good = opened.file_good && opened.taken;
        good.store(is_good, Ordering::Relaxed);
        seen.file(is_good);
        seen.directory(opened.directory.as_ref());
        seen.problems(&opened.problems);
        let (publish, revision) = watch::channel(Arc::new(opened.published));
        seen.revision(revision.borrow().revision);

        let reload = Arc::new(Notify::new());
        let watcher = Watcher {
            content: opened.content,
            revisions: opened.revisions,
            publish,
            poll: config.poll,
            reload: Arc::clone(&reload),
            file_good: opened.file_good,
            taken: opened.taken,
            again: false,
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
    content: Content,
    revisions: Revisions,
    published: Published,
    file_good: bool,
    taken: bool,
    directory: Option<Result<(), DirectoryError>>,
    problems: Vec<Problem>,
}

/// The first snapshot: that of the file and the directory or, if one of them is not good, the kept one.
fn open(store: SnapshotStore, mut content: Content) -> Result<Opened, GeoError> {
    let mut revisions = Revisions::open(store)?;
    let Looked {
        file,
        directory,
        laid,
    } = content.look(true, false, revisions.current());
    let file_good = !matches!(file, Some(Err(_)));
    let taken = !matches!(laid, Some(Err(_)));
    let first = match (file, laid) {
        (Some(Err(error)), _) | (_, Some(Err(error))) => Err(Some(error)),
        (_, Some(Ok(laid))) => Ok(laid),
        // The directory is lost.
        (_, None) => Err(None),
    };
    let (published, problems) = match (first, revisions.current()) {
        (Ok(Laid { snapshot, problems }), _) => (revisions.take(snapshot)?, problems),
        (Err(error), Some(kept)) => {
            let revision = kept.revision;
            if let Some(error) = &error {
                tracing::error!(%error, revision, "the snapshot file has mistakes: the kept snapshot stays in force");
            }
            (Published::new(kept)?, Vec::new())
        }
        (Err(Some(error)), None) => return Err(error.into()),
        (Err(None), None) => {
            let cause = || DirectoryError::Unavailable {
                cause: "it was not read".to_owned(),
            };
            let error = directory.and_then(Result::err).unwrap_or_else(cause);
            return Err(error.into());
        }
    };
    Ok(Opened {
        content,
        revisions,
        published,
        file_good,
        taken,
        directory,
        problems,
    })
}

/// Takes over what changes in the files and in the directory.
struct Watcher {
    content: Content,
    revisions: Revisions,
    publish: watch::Sender<Arc<Published>>,
    poll: Duration,
    reload: Arc<Notify>,
    /// Whether the files were good when they were read last.
    file_good: bool,
    /// Whether what changed last could be taken over.
    taken: bool,
    /// Whether it is tried again, because the disk did not take it.
    again: bool,
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
            // Outside the runtime's threads: the disk may be slow, and the directory far away.
            let looked = tokio::task::spawn_blocking(move || {
                let look = std::panic::AssertUnwindSafe(|| self.look(asked));
                let result = std::panic::catch_unwind(look);
                (self, result)
            });
            let Ok((watcher, result)) = looked.await else {
                // The runtime ends.
                return;
            };
            self = watcher;
            let Ok(found) = result else {
                // A defect of ours, which the panic itself reported: what was looked at is half known.
                tracing::error!(
                    "what looks after the snapshot panicked: this geo takes no changes over any more. Restart it"
                );
                let why = "what looks after the snapshot panicked: restart this geo";
                return self.component.failed(why);
            };
            self.tell(found);
        }
    }

    fn look(&mut self, asked: bool) -> Found {
        let Looked {
            file,
            directory,
            laid,
        } = self
            .content
            .look(asked, self.again, self.revisions.current());
        let new = laid.map(|laid| {
            let Laid { snapshot, problems } = laid?;
            Ok((self.revisions.take(snapshot)?, problems))
        });
        Found {
            file,
            directory,
            new,
        }
    }

    fn tell(&mut self, found: Found) {
        self.seen.directory(found.directory.as_ref());
        let revision = self.publish.borrow().revision;
        let read = found.file.is_some();
        let refused = |error: &dyn std::fmt::Display| {
            self.seen.refused();
            match read {
                true => tracing::error!(%error, revision, "the snapshot file is not taken over"),
                false => {
                    tracing::error!(%error, revision, "a change of the directory is not taken over")
                }
            }
        };
        let repeated = self.again && !read;
        if let Some(file) = found.file {
            self.file_good = file.is_ok();
            if let Err(error) = file {
                refused(&error);
            }
        }
        if let Some(new) = &found.new {
            self.taken = new.is_ok();
            self.again = matches!(new, Err(GeoError::Store(_)));
        }
        match found.new {
            None => {}
            Some(Ok((new, problems))) => {
                self.seen.problems(&problems);
                if new.revision > revision {
                    tracing::info!(revision = new.revision, "a new snapshot is in force");
                    self.seen.revision(new.revision);
                    self.publish.send_replace(Arc::new(new));
                    self.component.ready();
                } else if read {
                    tracing::info!(revision, "the snapshot file says what is in force already");
                }
            }
            // Said once: it is tried again every second.
            Some(Err(GeoError::Store(_))) if repeated => {}
            Some(Err(error)) => refused(&error),
        }
        let good = self.file_good && self.taken;
        // Last: whoever sees it sees what is in force then.
        self.good.store(good, Ordering::Relaxed);
        self.seen.file(good);
    }
}

/// What a look of the watcher has come to.
struct Found {
    file: Option<Result<(), SourceError>>,
    directory: Option<Result<(), DirectoryError>>,
    new: Option<Result<(Published, Vec<Problem>), GeoError>>,
}
