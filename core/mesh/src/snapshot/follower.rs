//! Keeps a node's snapshot the newest that geo has.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{NodeId, Role, SnapshotError};
use gb6_core_wire::mesh::{Purpose, SnapshotPush, SnapshotWanted, StreamOpen};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::store::{SnapshotStore, StoreError};
use crate::dialer::Backoff;
use crate::endpoint::{DialError, Endpoint};
use crate::lanes::QueueLimits;
use crate::link::OpenError;
use crate::stats::Counter;
use crate::stream::RecvError;

/// Least time between two attempts: with several geo nodes a refusal takes no time at all.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// A follower sends no frames; what it would queue is bounded all the same.
const QUEUE: QueueLimits = QueueLimits {
    frames: 1,
    bytes: 1024,
};

/// A node that serves snapshots: `name@host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GeoAddress {
    /// Its id, as in its certificate.
    pub node: NodeId,
    /// `host:port` of its mesh listener.
    pub address: String,
}

impl FromStr for GeoAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no node and address, as in g1@127.0.0.1:7700");
        let (node, address) = text.split_once('@').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0);
        if !NodeId::is_valid(node) || host.is_empty() || !port_fits {
            return Err(wrong());
        }
        Ok(Self {
            node: NodeId::from(node),
            address: address.to_owned(),
        })
    }
}

impl fmt::Display for GeoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.address)
    }
}

/// What a follower needs to know.
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// Where the last good snapshot is kept.
    pub store: SnapshotStore,
    /// Who serves newer ones, tried in turn. None: the node works by the kept one.
    pub geo: Vec<GeoAddress>,
}

/// Why following could not begin.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The kept snapshot can not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is neither a kept one nor anybody to ask.
    #[error(
        "there is no snapshot in {path} and no geo node to ask: set mesh.geo to name@host:port"
    )]
    Nothing {
        /// Where one would be kept.
        path: String,
    },
}

/// Why a stream of snapshots ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Receive(#[from] RecvError),
    #[error("node {0} has not the role geo")]
    NotGeo(NodeId),
    #[error("geo ended the stream")]
    Ended,
    #[error("geo sent what is no snapshot: {0}")]
    NoSnapshot(#[from] serde_json::Error),
    #[error("geo sent a snapshot that can not be worked by: {0}")]
    Unusable(#[from] SnapshotError),
    #[error("geo called a snapshot revision {said}, but it is {is}")]
    Revision { said: u64, is: u64 },
}

/// What a follower has seen, for metrics.
#[derive(Debug, Default)]
pub struct SnapshotStats {
    revision: AtomicU64,
    following: AtomicBool,
    /// Snapshots taken over.
    pub taken: Counter,
    /// Snapshots that were damaged or could not be worked by.
    pub refused: Counter,
    /// Snapshots that could not be kept on disk; they are in use all the same.
    pub not_kept: Counter,
    /// Times that geo could not be reached, or was lost.
    pub interrupted: Counter,
}

impl SnapshotStats {
    /// The revision in use; 0: none yet.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Whether a geo node is being followed at this moment.
    pub fn following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }
}

/// Follows geo until it is dropped. What it has learnt stays in the receivers.
#[derive(Debug)]
pub struct SnapshotFollower {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    stats: Arc<SnapshotStats>,
    task: JoinHandle<()>,
}

impl SnapshotFollower {
    /// Reads the kept snapshot and begins to follow geo through `endpoint`. Within a tokio runtime.
    ///
    /// # Errors
    /// The kept snapshot can not be used, or there is neither one nor a geo node.
    pub fn start(config: FollowerConfig, endpoint: Endpoint) -> Result<Self, FollowError> {
        let kept = config.store.load()?;
        if kept.is_none() && config.geo.is_empty() {
            let path = config.store.path().display().to_string();
            return Err(FollowError::Nothing { path });
        }
        let stats = Arc::<SnapshotStats>::default();
        stats.revision.store(
            kept.as_ref().map_or(0, |snapshot| snapshot.revision),
            Ordering::Relaxed,
        );
        let (publish, snapshots) = watch::channel(kept.map(Arc::new));
        let run = Run {
            config,
            endpoint,
            publish,
            stats: Arc::clone(&stats),
        };
        Ok(Self {
            snapshots,
            stats,
            task: tokio::spawn(run.run()),
        })
    }

    /// The snapshot, as soon as there is one, and every newer one: at once where one was kept,
    /// else when geo was reached. Safe to cancel; the caller sets its own time limit.
    pub async fn ready(&self) -> watch::Receiver<Arc<Snapshot>> {
        let mut from = self.snapshots.clone();
        // The task ends only with `self`, so there will be one, or nobody waits any more.
        let first = match from.wait_for(Option::is_some).await {
            Ok(first) => first.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        };
        let (publish, snapshots) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                let newest = from.borrow_and_update().clone();
                if let Some(newest) = newest {
                    publish.send_if_modified(|old| {
                        let newer = newest.revision > old.revision;
                        if newer {
                            *old = newest;
                        }
                        newer
                    });
                }
                tokio::select! {
                    changed = from.changed() => if changed.is_err() { return },
                    () = publish.closed() => return,
                }
            }
        });
        snapshots
    }

    /// What it has seen.
    pub fn stats(&self) -> &Arc<SnapshotStats> {
        &self.stats
    }
}

impl Drop for SnapshotFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    config: FollowerConfig,
    endpoint: Endpoint,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    stats: Arc<SnapshotStats>,
}

impl Run {
    async fn run(self) {
        let backoff = Backoff::default();
        let mut random = SmallRng::seed_from_u64(self.endpoint.local().incarnation.0);
        let mut failures = 0;
        for geo in self.config.geo.iter().cycle() {
            let (before, began) = (self.stats.revision(), tokio::time::Instant::now());
            let why = match self.follow(geo).await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            let revision = self.stats.revision();
            let followed = self.stats.following.swap(false, Ordering::Relaxed);
            self.stats.interrupted.add(1);
            // Who accepts, sends nonsense and is left again is not asked without pause.
            if (followed && began.elapsed() >= backoff.settled) || revision > before {
                failures = 0;
            }
            failures += 1;
            // One line when it begins; a geo that is away for long fills no log.
            if failures == 1 {
                tracing::warn!(geo = %geo, error = %why, revision, "geo is not reached");
            } else {
                tracing::debug!(geo = %geo, error = %why, revision, "geo is still not reached");
            }
            let wait = backoff
                .bound(failures)
                .mul_f64(random.random_range(0.0..=1.0));
            tokio::time::sleep(wait.max(RETRY_MIN)).await;
        }
        // Nobody to ask: what was kept stays in force.
        std::future::pending().await
    }

    async fn follow(&self, geo: &GeoAddress) -> Result<std::convert::Infallible, Interrupted> {
        let link = self.endpoint.dial(&geo.node, Some(&geo.address)).await?;
        if !link.peer().has_role(Role::Geo) {
            return Err(Interrupted::NotGeo(geo.node.clone()));
        }
        let have_revision = self.stats.revision();
        let stream = link
            .open(StreamOpen {
                purpose: Some(Purpose::Snapshot(SnapshotWanted { have_revision })),
            })
            .await?;
        let (_nothing, mut pushes) = stream.split::<SnapshotWanted, SnapshotPush>(QUEUE);
        self.stats.following.store(true, Ordering::Relaxed);
        tracing::info!(geo = %geo, revision = have_revision, "following snapshots");
        loop {
            let push = pushes.recv().await?.ok_or(Interrupted::Ended)?;
            let snapshot = read(&push).inspect_err(|_| self.stats.refused.add(1))?;
            self.take(geo, snapshot).await;
        }
    }

    async fn take(&self, geo: &GeoAddress, snapshot: Snapshot) {
        let (new, have) = (snapshot.revision, self.stats.revision());
        if new <= have {
            if new < have {
                tracing::warn!(geo = %geo, new, have, "geo has an older snapshot; this node keeps its own");
            }
            return;
        }
        let snapshot = Arc::new(snapshot);
        let (store, kept) = (self.config.store.clone(), Arc::clone(&snapshot));
        // A node that can not keep it works by it all the same: the next start asks geo again.
        match tokio::task::spawn_blocking(move || store.save(&kept)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.stats.not_kept.add(1);
                tracing::error!(%error, revision = new, "the new snapshot could not be kept");
            }
            Err(error) => tracing::error!(%error, "keeping the snapshot was cut short"),
        }
        self.stats.revision.store(new, Ordering::Relaxed);
        self.stats.taken.add(1);
        self.publish.send_replace(Some(snapshot));
        tracing::info!(geo = %geo, revision = new, "took over a new snapshot");
    }
}

/// The snapshot of a push, if a node can work by it.
pub(crate) fn read(push: &SnapshotPush) -> Result<Snapshot, Interrupted> {
    let snapshot: Snapshot = serde_json::from_slice(&push.json)?;
    if snapshot.revision != push.revision {
        return Err(Interrupted::Revision {
            said: push.revision,
            is: snapshot.revision,
        });
    }
    snapshot.check()?;
    Ok(snapshot)
}
