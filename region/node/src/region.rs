//! A region node: its shards, from start to drain.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use gb6_core_mesh::Endpoint;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{NodeId, ShardId, limits};
use gb6_core_obs::health::{Component, Health};
use gb6_core_obs::metrics::{Metrics, Registration};
use gb6_core_outbound::{Outbound, OutboundConfig};
use gb6_core_ports::{RateLimiter, RoomStore, ShardLog, Signals, StoreError};
use gb6_core_wire::mesh::ShardRef;
use gb6_region_shard::{Admin, AdminOutcome, ShardConfig};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::accept::{self, Served, Shards};
use crate::bodies::RecordKeys;
use crate::checkpoints::CheckpointEvery;
use crate::events::{Events, ShardEvents};
use crate::history::{Erased, Reader};
use crate::indexer::Indexer;
use crate::limits::Limits;
use crate::metrics::{RegionMetrics, ShardNumbers, export};
use crate::recovery::{Acquisition, Recovered, RecoveryError, Standing, recover};
use crate::regain::Regain;
use crate::relay::{Relay, RelayMetrics};
use crate::signals::ShardSignals;
use crate::turns::CommitTurns;
use crate::webhooks::{self, Feed, ShardWebhooks, WebhookMetrics};
use crate::worker::{Ended, Input, Surroundings, Worker};

/// Inputs that may wait for a shard's actor; streams wait beyond it.
const INBOX_MAX: usize = 1024;
/// Pause before a shard that could not be served is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Opens the log of a shard: called at the start, and again after each attempt to serve that failed,
/// since the writer of what was open may have ended.
pub type OpenLog = Arc<dyn Fn(ShardId) -> Result<Arc<dyn ShardLog>, StoreError> + Send + Sync>;

/// How a region behaves.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    /// This node.
    pub node: NodeId,
    /// Lease of edges; default 10 s.
    pub edge_lease: Duration,
    /// A checkpoint is made after so many bytes of log, or after twice the bytes of its state where
    /// that is more; default 64 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made after so long, if anything changed; default 60 s.
    pub checkpoint_interval: Duration,
    /// Space is given back so often; default 60 s.
    pub retention_interval: Duration,
    /// Message ids remembered by a shard; default 1,000,000.
    pub dedupe_ids_max: usize,
    /// Which servers of customers webhooks may reach; default public addresses, by TLS.
    pub outbound: OutboundConfig,
    /// Least pause before a request of a webhook is repeated; default 1 s.
    pub webhook_retry_min: Duration,
    /// The longest; default 5 min.
    pub webhook_retry_max: Duration,
    /// Where what is committed is published for others; default nowhere.
    pub events: Events,
}

impl RegionConfig {
    /// The defaults for `node`.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            edge_lease: Duration::from_millis(limits::EDGE_LEASE_MS),
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(60),
            retention_interval: Duration::from_secs(60),
            dedupe_ids_max: limits::DEDUPE_IDS_MAX,
            outbound: OutboundConfig::default(),
            webhook_retry_min: Duration::from_secs(1),
            webhook_retry_max: Duration::from_secs(300),
            events: Events::default(),
        }
    }
}

/// What a region works with.
pub struct RegionDeps {
    /// Where edges dial in.
    pub endpoint: Endpoint,
    /// The placement; followed.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The logs.
    pub open_log: OpenLog,
    /// The index of rooms.
    pub rooms: Arc<dyn RoomStore>,
    /// The signals between owners.
    pub signals: Arc<dyn Signals>,
    /// Record keys.
    pub keys: RecordKeys,
    /// What shares out limits of instances among the edges.
    pub limiter: Arc<dyn RateLimiter>,
    /// Where metrics go.
    pub metrics: Metrics,
    /// Where readiness goes.
    pub health: Health,
}

impl std::fmt::Debug for RegionDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionDeps").finish_non_exhaustive()
    }
}

/// Why a region does not start, or an admin command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The snapshot gives this node nothing to do.
    #[error("the snapshot names no shard that {0} owns: check `owners` of its region")]
    NoShards(NodeId),
    /// An authority for webhooks is no certificate.
    #[error("an authority that webhooks are to trust can not be used: {0}")]
    Authority(#[source] rustls::Error),
    /// No such shard here.
    #[error("this node does not own shard {0}")]
    NotOwner(ShardId),
    /// The shard's actor ended before it answered.
    #[error("the shard stopped before it answered; whether the command was carried out is unknown")]
    Stopped,
}

/// A running region node.
#[derive(Debug)]
pub struct Region {
    shards: Shards,
    drain: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    acceptor: JoinHandle<()>,
    endpoint: Endpoint,
    _metrics: Vec<Registration>,
}

impl Region {
    /// Starts serving every shard that the snapshot gives to this node. Returns at once: `health`
    /// says when all are served.
    ///
    /// # Errors
    /// The snapshot gives this node no shard, or an authority for webhooks is no certificate.
    pub fn start(config: RegionConfig, deps: RegionDeps) -> Result<Self, RegionError> {
        let snapshot = deps.snapshot.borrow().clone();
        let owned = owned_shards(&snapshot, &config.node);
        if owned.is_empty() {
            return Err(RegionError::NoShards(config.node));
        }
        let (drain, draining) = watch::channel(false);
        let region_metrics = RegionMetrics::new(&deps.metrics);
        let webhook_metrics = WebhookMetrics::new(&deps.metrics);
        let deps = Arc::new(deps);
        let turns = Arc::new(CommitTurns::default());
        let mut shards = HashMap::new();
        let mut workers = Vec::new();
        let mut registrations = vec![webhook_metrics.export(&deps.metrics)];
        let webhooks = Arc::new(webhooks::Shared {
            outbound: Outbound::new(config.outbound.clone()).map_err(RegionError::Authority)?,
            metrics: webhook_metrics,
            pace: webhooks::Pace::new(config.webhook_retry_min, config.webhook_retry_max),
            scans: Arc::new(Semaphore::new(webhooks::SCANS_MAX)),
        });
        for shard in owned {
            // overflow: streams wait; the credit of each edge and instance bounds what they hold.
            let (inbox, inputs) = mpsc::channel(INBOX_MAX);
            let numbers = Arc::new(Mutex::new(ShardNumbers::default()));
            registrations.push(export(&deps.metrics, shard.shard, numbers.clone()));
            let name = format!("shard {}/{}", shard.region, shard.shard);
            let keeper = Keeper {
                config: config.clone(),
                shard: shard.clone(),
                component: deps.health.register(&name),
                deps: deps.clone(),
                metrics: region_metrics.clone(),
                numbers,
                turns: turns.clone(),
                webhooks: webhooks.clone(),
            };
            workers.push(tokio::spawn(keeper.run(inputs, draining.clone())));
            shards.insert(shard, inbox);
        }
        let shards: Shards = Arc::new(shards);
        let endpoint = deps.endpoint.clone();
        let served = Served {
            shards: shards.clone(),
            relay: Arc::new(Relay::new(RelayMetrics::new(&deps.metrics))),
            limits: Limits {
                limiter: deps.limiter.clone(),
                snapshot: deps.snapshot.clone(),
                began: Instant::now(),
                given: region_metrics.limit_shares.clone(),
                unanswered: region_metrics.limit_questions_unanswered.clone(),
            },
        };
        let acceptor = tokio::spawn(accept::run(
            endpoint.clone(),
            served,
            region_metrics.roles_refused.clone(),
        ));
        Ok(Self {
            shards,
            drain,
            workers,
            acceptor,
            endpoint,
            _metrics: registrations,
        })
    }

    /// Carries out an admin command on a shard of this node.
    ///
    /// # Errors
    /// The shard is not owned here, or stopped before it answered.
    pub async fn admin(
        &self,
        shard: &ShardRef,
        command: Admin,
    ) -> Result<AdminOutcome, RegionError> {
        let inbox = self
            .shards
            .get(shard)
            .ok_or(RegionError::NotOwner(ShardId(shard.shard)))?;
        let (done, outcome) = oneshot::channel();
        let input = Input::Admin { command, done };
        inbox.send(input).await.map_err(|_| RegionError::Stopped)?;
        outcome.await.map_err(|_| RegionError::Stopped)
    }

    /// Finishes what is in flight, saves checkpoints, ends links.
    pub async fn drain(self) {
        // Receivers live in the workers; without any there is nothing to drain.
        let _ = self.drain.send(true);
        for worker in self.workers {
            if let Err(error) = worker.await {
                tracing::error!(%error, "a shard's actor failed while draining");
            }
        }
        self.acceptor.abort();
        self.endpoint
            .close(
                gb6_core_mesh::CloseCode::Draining,
                "the region stops",
                Duration::from_millis(500),
            )
            .await;
    }
}

fn owned_shards(snapshot: &Snapshot, node: &NodeId) -> Vec<ShardRef> {
    let mut owned = Vec::new();
    for (name, region) in &snapshot.regions {
        for (shard, owner) in (0u32..).zip(&region.owners) {
            if owner == node {
                owned.push(ShardRef {
                    region: name.clone(),
                    shard,
                });
            }
        }
    }
    owned
}

/// Keeps one shard served: recovers, runs the actor, and begins again when the shard was lost.
struct Keeper {
    config: RegionConfig,
    shard: ShardRef,
    component: Component,
    deps: Arc<RegionDeps>,
    metrics: RegionMetrics,
    numbers: Arc<Mutex<ShardNumbers>>,
    turns: Arc<CommitTurns>,
    webhooks: Arc<webhooks::Shared>,
}

impl Keeper {
    async fn run(self, mut inputs: mpsc::Receiver<Input>, mut drain: watch::Receiver<bool>) {
        let started = Instant::now();
        let mut log = None;
        let mut indexer = None;
        let mut held = None;
        while !*drain.borrow() {
            let serving = self.serve(
                (&mut log, &mut indexer),
                held.take(),
                started,
                &mut inputs,
                &mut drain,
            );
            match AssertUnwindSafe(serving).catch_unwind().await {
                Ok(Ok(Ended::Drained)) => return,
                Ok(Ok(Ended::Acquired(acquisition))) => {
                    held = Some(*acquisition);
                    continue;
                }
                Ok(Ok(Ended::Lost)) => {
                    self.component
                        .not_ready("the shard was lost; its log is read again");
                }
                Err(_) => {
                    // A defect of ours, which the panic itself reported. What the actor held is
                    // gone; the log has the truth.
                    tracing::error!(
                        region = self.shard.region,
                        shard = self.shard.shard,
                        "the shard's actor panicked; its log is read again"
                    );
                    self.component
                        .not_ready("the shard's actor panicked; its log is read again");
                }
                Ok(Err(error)) => {
                    tracing::error!(region = self.shard.region, shard = self.shard.shard, %error, "the shard can not be served");
                    self.component.not_ready(error.to_string());
                }
            }
            self.numbers.lock().serving = false;
            tokio::select! {
                () = refuse_for(&mut inputs, RETRY) => {}
                _ = drain.changed() => {}
            }
        }
    }

    async fn serve(
        &self,
        (log, indexer): (&mut Option<Arc<dyn ShardLog>>, &mut Option<Indexer>),
        held: Option<Acquisition>,
        started: Instant,
        inputs: &mut mpsc::Receiver<Input>,
        drain: &mut watch::Receiver<bool>,
    ) -> Result<Ended, RecoveryError> {
        let shard_id = ShardId(self.shard.shard);
        let mut snapshot = self.deps.snapshot.clone();
        let current = snapshot.borrow_and_update().clone();
        let mut machine = ShardConfig::new(self.shard.clone());
        machine.lease_ms = self.config.edge_lease.as_millis() as u64;
        machine.dedupe_ids_max = self.config.dedupe_ids_max;
        let open_log = self.deps.open_log.clone();
        // Put back once it has shown that it can be served from.
        let known = log.take();
        let keys = self.deps.keys.clone();
        // Of an actor that panicked.
        let following = indexer.take();
        let recovering = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            if let Some(following) = following {
                following.stop();
            }
            let log = match known {
                Some(log) => log,
                None => open_log(shard_id)?,
            };
            let caps = log.caps();
            machine.batch_records_max = machine.batch_records_max.min(caps.batch_records_max);
            // What the batch's own header takes stays free.
            let bytes = caps.batch_bytes_max - caps.batch_bytes_max / 16;
            machine.batch_bytes_max = machine.batch_bytes_max.min(bytes);
            let mut recovered = recover(&log, &machine, &current, held)?;
            let recent = std::mem::take(&mut recovered.recent);
            let tail = recent.into_tail(&recovered.shard, &keys);
            Ok::<_, RecoveryError>((log, machine, recovered, tail, begun.elapsed()))
        });
        let (opened, machine, recovered, tail, took) = match recovering.await {
            Ok(result) => result?,
            Err(error) => {
                return Err(RecoveryError::Store(StoreError::Unavailable {
                    cause: format!("recovery failed: {error}"),
                }));
            }
        };
        let Recovered {
            mut shard,
            standing,
            next_position,
            replayed,
            recent: _,
        } = recovered;
        let (epoch, served_ms, _) = shard.log_state();
        let (fence, regain) = match standing {
            Standing::Owner(fence) => (fence, None),
            Standing::Reader(fence, full) => {
                tracing::error!(
                    region = self.shard.region,
                    shard = self.shard.shard,
                    error = %full,
                    "the shard can be read and not be written until there is space"
                );
                let log = opened.clone();
                let regain = Regain::new(log, machine, (epoch, served_ms), full);
                (fence, Some(regain))
            }
        };
        tracing::info!(
            region = self.shard.region,
            shard = self.shard.shard,
            epoch = fence.shard_epoch.0,
            from = replayed.from,
            replayed = replayed.records,
            replayed_bytes = replayed.bytes,
            checkpoint_bytes = replayed.state_bytes,
            millis = took.as_millis() as u64,
            "shard served"
        );
        {
            let mut numbers = self.numbers.lock();
            numbers.replayed = replayed;
            numbers.recovery_ms = took.as_millis() as u64;
            numbers.checkpoint_position = replayed.from;
            numbers.checkpoint_bytes = replayed.state_bytes;
        }
        *log = Some(opened.clone());
        let follows = Indexer::start(shard_id, opened.clone(), self.deps.rooms.clone());
        let follows = follows.map_err(|error| StoreError::Io {
            operation: "start a thread for",
            path: format!("the index of shard {shard_id}"),
            detail: error.to_string(),
        })?;
        let reader = Arc::new(Reader {
            shard: shard_id,
            log: opened,
            rooms: self.deps.rooms.clone(),
            tail: Mutex::new(tail),
            keys: Arc::new(self.deps.keys.clone()),
            erased: Mutex::new(Erased::new(shard.erasures().cloned().collect())),
            index: follows.state(),
        });
        let feed = follows.feed();
        let sessions = Feed::new(next_position);
        let webhooks = ShardWebhooks::start(webhooks::Setup {
            shard: self.shard.clone(),
            log: reader.log.clone(),
            keys: reader.keys.clone(),
            snapshot: self.deps.snapshot.clone(),
            shared: self.webhooks.clone(),
            feed: sessions.clone(),
        });
        let events = ShardEvents::start(
            shard_id,
            reader.log.clone(),
            reader.keys.clone(),
            &self.config.events,
            &self.deps.metrics,
        );
        let events = events.map_err(|error| StoreError::Io {
            operation: "start a thread for",
            path: format!("the events of shard {shard_id}"),
            detail: error.to_string(),
        })?;
        *indexer = Some(follows);
        let now_ms = started.elapsed().as_millis() as u64;
        shard.serve(
            now_ms,
            fence.shard_epoch.0,
            fence.owner_incarnation.0,
            next_position,
        );
        let every = CheckpointEvery {
            bytes: self.config.checkpoint_bytes,
            interval: self.config.checkpoint_interval,
        };
        let mut worker = Worker::new(
            shard,
            fence,
            regain,
            reader,
            feed,
            replayed,
            Surroundings {
                metrics: self.metrics.clone(),
                numbers: self.numbers.clone(),
                turns: self.turns.clone(),
                signals: ShardSignals::new(self.deps.signals.clone(), self.metrics.clone()),
                webhooks: sessions,
                checkpoint_every: every,
                retention_every: self.config.retention_interval,
                started,
            },
        );
        self.component.ready();
        let ended = worker.run(inputs, &mut snapshot, drain).await;
        webhooks.stop().await;
        // The index thread is waited for, which takes a moment.
        let follows = indexer.take();
        let stopping = tokio::task::spawn_blocking(move || {
            drop(worker);
            events.stop();
            if let Some(follows) = follows {
                follows.stop();
            }
        });
        if let Err(error) = stopping.await {
            tracing::error!(%error, "the shard's index could not be ended");
        }
        Ok(ended)
    }
}

/// Turns edges away for `pause`: dropping a link's sender ends its stream, and the edge comes back.
async fn refuse_for(inputs: &mut mpsc::Receiver<Input>, pause: Duration) {
    let until = tokio::time::Instant::now() + pause;
    while let Ok(Some(input)) = tokio::time::timeout_at(until, inputs.recv()).await {
        drop(input);
    }
}
