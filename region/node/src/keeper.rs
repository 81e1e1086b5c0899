//! What keeps one shard served on this node, for as long as the node owns it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use gb6_core_model::{NodeId, ShardEpoch, ShardId};
use gb6_core_obs::health::Component;
use gb6_core_ports::{LogCaps, ShardLog, StoreError};
use gb6_core_wire::mesh::ShardRef;
use gb6_region_shard::ShardConfig;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::catch_ups::CatchUps;
use crate::checkpoints::CheckpointEvery;
use crate::consumers::{self, NodeConsumers, ShardConsumers};
use crate::history::{Erased, Reader};
use crate::indexer::Indexer;
use crate::lease::NodeLease;
use crate::metrics::{RegionMetrics, ShardNumbers};
use crate::news::{News, NewsBox};
use crate::panics::Panics;
use crate::places::NodePlaces;
use crate::recoveries::{Progress, Recoveries};
use crate::recovery::{Acquisition, Epochs, Recovered, RecoveryError, Standing, recover};
use crate::regain::Regain;
use crate::region::{RegionConfig, RegionDeps};
use crate::signals::ShardSignals;
use crate::standby::Follower;
use crate::statuses::ShardStatuses;
use crate::trouble::Trouble;
use crate::turns::CommitTurns;
use crate::webhooks::{self, Feed};
use crate::worker::{Ended, Input, Surroundings, Worker};

/// Pause before a shard that could not be served is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The first where an assignment says that the shard is this node's: everybody waits for it alone.
const RETRY_ASSIGNED: Duration = Duration::from_millis(100);
/// The longest: each attempt asks the log and its archive.
const RETRY_ASSIGNED_MAX: Duration = Duration::from_secs(2);
/// An attempt that lasted longer than this did not fail at once, as it would without its log.
const SERVED_WELL: Duration = Duration::from_secs(30);
/// So long the consumers of a shard that is given up as it was told are waited for, to store how far they
/// are: what they do not store is sent again.
const CONSUMERS_END_MAX: Duration = Duration::from_secs(2);
/// So long those of a shard that was lost are: it is to be served again.
const CONSUMERS_LOST_MAX: Duration = Duration::from_millis(100);

/// What a shard's actor is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Serve.
    Serve,
    /// Finish what is in flight, begin no batch, and say so.
    Pause,
    /// End at once: the shard is this node's, where there is one.
    Leave(Option<NodeId>),
    /// Finish what is in flight, save a checkpoint, end.
    Stop,
}

impl Order {
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Order::Leave(_) | Order::Stop)
    }
}

/// What all shards of a node share.
pub(crate) struct NodeParts {
    pub(crate) config: RegionConfig,
    pub(crate) deps: Arc<RegionDeps>,
    pub(crate) metrics: RegionMetrics,
    pub(crate) turns: Arc<CommitTurns>,
    pub(crate) recoveries: Arc<Recoveries>,
    pub(crate) catch_ups: Arc<CatchUps>,
    pub(crate) places: NodePlaces,
    pub(crate) webhooks: Arc<webhooks::Shared>,
    pub(crate) consumers: NodeConsumers,
    pub(crate) panics: Panics,
}

/// By what a node owns a shard, and how far it can rely on that.
#[derive(Clone)]
pub(crate) enum Ownership {
    /// The placement says so: nobody else owns it.
    Placed,
    /// An assignment, which another node may get when this one is not heard.
    Assigned(Arc<Assignment>),
}

/// A shard's assignment to this node.
pub(crate) struct Assignment {
    shard: u32,
    /// The assignment epoch.
    epoch: AtomicU64,
    /// It may have been given away.
    doubtful: AtomicBool,
    trouble: Trouble,
    lease: Arc<NodeLease>,
    news: Arc<NewsBox>,
}

impl Assignment {
    pub(crate) fn new(
        shard: u32,
        epoch: u64,
        lease: Arc<NodeLease>,
        news: Arc<NewsBox>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shard,
            epoch: AtomicU64::new(epoch),
            doubtful: AtomicBool::new(true),
            trouble: Trouble::default(),
            lease,
            news,
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// The assignment was raised.
    pub(crate) fn raise(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// Whether its log lets it be served, as far as that is known.
    pub(crate) fn log_answers(&self) -> Option<bool> {
        self.trouble.answers(self.lease.now_ms())
    }

    /// Whether it is recovered for long, and read all the time.
    pub(crate) fn is_slow(&self) -> bool {
        self.trouble.is_slow(self.lease.now_ms())
    }

    pub(crate) fn doubt(&self, doubtful: bool) {
        self.doubtful.store(doubtful, Ordering::SeqCst);
    }
}

impl Ownership {
    /// Whether no other node can serve the shard now.
    pub(crate) fn is_sure(&self) -> bool {
        match self {
            Ownership::Placed => true,
            Ownership::Assigned(assignment) => {
                assignment.lease.is_fresh() && !assignment.doubtful.load(Ordering::SeqCst)
            }
        }
    }

    /// For how long it is enough that the log has said who owns the shard, for what asks nothing of its
    /// state.
    pub(crate) fn proof_lasts(&self) -> Duration {
        match self {
            Ownership::Placed => Duration::MAX,
            Ownership::Assigned(assignment) => assignment.lease.length() / 2,
        }
    }

    /// Under which epochs it is acquired now.
    pub(crate) fn epochs(&self) -> Epochs {
        match self {
            Ownership::Placed => Epochs::Next,
            Ownership::Assigned(assignment) => Epochs::Of(assignment.epoch()),
        }
    }

    /// The pause before the next attempt to serve, where `failed` followed each other.
    fn retry(&self, failed: u32) -> Duration {
        match self {
            Ownership::Placed => RETRY,
            Ownership::Assigned(_) => {
                let doubled = 1 << failed.saturating_sub(1).min(16);
                (RETRY_ASSIGNED * doubled).min(RETRY_ASSIGNED_MAX)
            }
        }
    }

    /// It is to be served once others are recovered: of its log nothing is known.
    fn waits(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.waits();
        }
    }

    fn begins(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.begins(assignment.lease.now_ms());
        }
    }

    /// Something of the log, or of a checkpoint, was read to serve it.
    pub(crate) fn log_read(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.reads(assignment.lease.now_ms());
        }
    }

    /// An attempt to serve it has ended.
    fn attempt_ends(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.attempt_ends();
        }
    }

    /// The log did not take a batch, and does not say why it never will.
    pub(crate) fn log_failed(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.failed(assignment.lease.now_ms());
        }
    }

    /// The log has taken a batch, or has let the shard be acquired.
    pub(crate) fn log_answered(&self) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.ends();
        }
    }

    /// For how long the log has not answered, whether or not anybody asked.
    pub(crate) fn log_silent_for(&self, silence: Duration) {
        if let Ownership::Assigned(assignment) = self {
            assignment.trouble.silent_for(silence);
        }
    }

    fn tell(&self, news: impl FnOnce(u32) -> News) {
        if let Ownership::Assigned(assignment) = self {
            assignment.news.push(news(assignment.shard));
        }
    }

    fn serving(&self, epochs: Epochs) {
        self.log_answered();
        if let Epochs::Of(epoch) = epochs {
            self.tell(|shard| News::Serving { shard, epoch });
        }
    }

    fn epochs_used_up(&self, epoch: u64, highest: ShardEpoch) {
        self.tell(|shard| News::EpochsUsedUp {
            shard,
            epoch,
            highest,
        });
    }

    /// Nothing of the shard is in flight.
    pub(crate) fn paused(&self) {
        self.tell(|shard| News::Paused { shard });
    }

    fn ended(&self) {
        self.tell(|shard| News::Left { shard });
    }
}

/// The settings of a shard's machine, without those of its log.
pub(crate) fn machine_config(config: &RegionConfig, shard: &ShardRef) -> ShardConfig {
    let mut machine = ShardConfig::new(shard.clone());
    machine.lease_ms = config.edge_lease.as_millis() as u64;
    machine.dedupe_ids_max = config.dedupe_ids_max;
    machine
}

/// Keeps a machine's batches within what its log takes.
pub(crate) fn bound_batches(machine: &mut ShardConfig, caps: &LogCaps) {
    machine.batch_records_max = machine.batch_records_max.min(caps.batch_records_max);
    // What the batch's own header takes stays free.
    let bytes = caps.batch_bytes_max - caps.batch_bytes_max / 16;
    machine.batch_bytes_max = machine.batch_bytes_max.min(bytes);
}

/// Keeps one shard served: recovers, runs the actor, and begins again when the shard was lost.
pub(crate) struct Keeper {
    pub(crate) shard: ShardRef,
    pub(crate) component: Component,
    pub(crate) numbers: Arc<Mutex<ShardNumbers>>,
    pub(crate) node: Arc<NodeParts>,
    pub(crate) ownership: Ownership,
    /// Whoever followed the log before.
    pub(crate) standby: Mutex<Option<Follower>>,
}

impl Keeper {
    /// Keeps it served until it is told to end.
    pub(crate) async fn run(
        self,
        mut inputs: mpsc::Receiver<Input>,
        mut orders: watch::Receiver<Order>,
    ) {
        let started = Instant::now();
        let mut log = None;
        let mut indexer = None;
        let mut held = None;
        let mut failed = 0;
        // Without whoever gives orders nobody says either that it is to go on.
        while !orders.borrow().is_end() && orders.has_changed().is_ok() {
            let began = Instant::now();
            let serving = self.serve(
                (&mut log, &mut indexer),
                held.take(),
                started,
                &mut inputs,
                &mut orders,
            );
            match AssertUnwindSafe(serving).catch_unwind().await {
                Ok(Ok(Ended::Drained | Ended::Left)) => break,
                Ok(Ok(Ended::Acquired(acquisition))) => {
                    held = Some(*acquisition);
                    continue;
                }
                Ok(Ok(Ended::Lost)) => {}
                Err(_) => {
                    // A defect of ours, which the panic itself reported. What the actor held is
                    // gone; the log has the truth.
                    self.node.panics.count("shard");
                    tracing::error!(
                        region = self.shard.region,
                        shard = self.shard.shard,
                        "the shard's actor panicked; its log is read again"
                    );
                    self.component
                        .not_ready("the shard's actor panicked; its log is read again");
                }
                Ok(Err(RecoveryError::EpochsUsedUp {
                    assignment,
                    highest,
                })) => {
                    tracing::info!(
                        shard = self.shard.shard,
                        assignment,
                        highest = highest.0,
                        "the log's epochs are not below those of the assignment, which is raised"
                    );
                    self.ownership.epochs_used_up(assignment, highest);
                    // The next attempt is another one.
                    failed = 0;
                }
                Ok(Err(error)) => {
                    tracing::error!(region = self.shard.region, shard = self.shard.shard, %error, "the shard can not be served");
                    self.component.not_ready(error.to_string());
                }
            }
            self.numbers.lock().serving = false;
            self.ownership.attempt_ends();
            if began.elapsed() > SERVED_WELL {
                failed = 0;
            }
            failed += 1;
            tokio::select! {
                () = refuse_for(&mut inputs, self.ownership.retry(failed)) => {}
                _ = orders.wait_for(Order::is_end) => {}
            }
        }
        self.numbers.lock().serving = false;
        drop(inputs);
        self.close(log, indexer).await;
        if let Ownership::Assigned(_) = self.ownership {
            // Others serve it: this node is ready without it.
            self.component.retire();
        }
        self.ownership.ended();
    }

    /// Closes the log. The threads that a log ends with may themselves wait for tasks of this runtime,
    /// which have no thread to run on where all of its own close logs.
    async fn close(&self, log: Option<Arc<dyn ShardLog>>, indexer: Option<Indexer>) {
        let standby = self.standby.lock().take();
        let closing = tokio::task::spawn_blocking(move || {
            if let Some(indexer) = indexer {
                indexer.stop();
            }
            // Of a shard that was not begun with.
            drop(standby.and_then(Follower::take));
            drop(log);
        });
        if let Err(error) = closing.await {
            tracing::error!(shard = self.shard.shard, %error, "the shard's log could not be closed");
        }
    }

    /// Whether a standby has read all of the log but for what came in the last moments.
    fn follows_closely(&self) -> bool {
        let standby = self.standby.lock();
        standby.as_ref().is_some_and(Follower::has_caught_up)
    }

    /// It is not served from now on, and says so before anything is waited for: a standby that is ready
    /// gets it where that lasts.
    fn lost(&self) {
        self.numbers.lock().serving = false;
        self.component
            .not_ready("the shard was lost; its log is read again");
        self.ownership.begins();
    }

    async fn serve(
        &self,
        (log, indexer): (&mut Option<Arc<dyn ShardLog>>, &mut Option<Indexer>),
        held: Option<Acquisition>,
        started: Instant,
        inputs: &mut mpsc::Receiver<Input>,
        orders: &mut watch::Receiver<Order>,
    ) -> Result<Ended, RecoveryError> {
        let NodeParts {
            config,
            deps,
            metrics,
            turns,
            places,
            recoveries,
            catch_ups: _,
            webhooks,
            consumers,
            panics,
        } = &*self.node;
        let short = held.is_some() || self.follows_closely();
        self.ownership.waits();
        let place = tokio::select! {
            biased;
            _ = orders.wait_for(Order::is_end) => return Ok(Ended::Left),
            place = recoveries.place(short) => place,
        };
        let shard_id = ShardId(self.shard.shard);
        let mut snapshot = deps.snapshot.clone();
        let current = snapshot.borrow_and_update().clone();
        let mut machine = machine_config(config, &self.shard);
        self.ownership.begins();
        let epochs = self.ownership.epochs();
        let open_log = deps.open_log.clone();
        // Put back once it has shown that it can be served from.
        let known = log.take();
        let keys = deps.keys.clone();
        let standby = self.standby.lock().take();
        // It has the log that is opened again.
        let following = match &known {
            Some(_) => None,
            None => indexer.take(),
        };
        let progress = Arc::new(Progress::of(self.ownership.clone()));
        let made = progress.clone();
        let recovering = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            if let Some(following) = following {
                following.stop();
            }
            // Whoever followed the log has it open, and has read most of it.
            let (log, followed) = match (known, standby.and_then(Follower::take)) {
                (Some(log), _) => (log, None),
                (None, Some((log, followed))) => (log, Some(followed)),
                (None, None) => (open_log(shard_id)?, None),
            };
            made.made();
            bound_batches(&mut machine, &log.caps());
            let begun_with = (held, followed);
            let mut recovered = recover(&log, &machine, &current, begun_with, epochs, &made)?;
            let recent = std::mem::take(&mut recovered.recent);
            made.read();
            let tail = recent.into_tail(&recovered.shard, &keys);
            Ok::<_, RecoveryError>((log, machine, recovered, tail, begun.elapsed()))
        });
        let (opened, machine, recovered, tail, took) =
            match recoveries.end(place, &progress, recovering).await {
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
            followed,
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
                let ownership = self.ownership.clone();
                let regain = Regain::new((log, ownership), machine, (epoch, served_ms), full);
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
        let owned = regain.is_none().then(|| fence.clone());
        let name = |what| format!("{what} of shard {}/{shard_id}", self.shard.region);
        let guard = panics.guard("index", name("index"));
        let (rooms, before) = (deps.rooms.clone(), indexer.take());
        let follows = Indexer::start(shard_id, opened.clone(), rooms, owned, guard, before);
        let follows = follows.map_err(|error| StoreError::Io {
            operation: "start a thread for",
            path: format!("the index of shard {shard_id}"),
            detail: error.to_string(),
        })?;
        let reader = Arc::new(Reader {
            shard: shard_id,
            log: opened,
            rooms: deps.rooms.clone(),
            tail: Mutex::new(tail),
            keys: Arc::new(deps.keys.clone()),
            erased: Mutex::new(Erased::new(shard.erasures().cloned().collect())),
            index: follows.state(),
        });
        let feed = follows.feed();
        let sessions = Feed::new(next_position);
        let consumes = consumers::Setup {
            shard: self.shard.clone(),
            log: reader.log.clone(),
            keys: reader.keys.clone(),
            snapshot: deps.snapshot.clone(),
            sessions: sessions.clone(),
            webhooks: webhooks.clone(),
            events: config.events.clone(),
            metrics: deps.metrics.clone(),
        };
        let consumers = ShardConsumers::start(consumes, consumers);
        *indexer = Some(follows);
        let now_ms = started.elapsed().as_millis() as u64;
        shard.serve(
            now_ms,
            fence.shard_epoch.0,
            fence.owner_incarnation.0,
            next_position,
        );
        let every = CheckpointEvery {
            bytes: config.checkpoint_bytes,
            interval: config.checkpoint_interval,
        };
        let left = every.left_by_others(followed, replayed.state_bytes);
        let mut worker = Worker::new(
            shard,
            fence,
            regain,
            reader,
            feed,
            (left + replayed.bytes, replayed.state_bytes),
            Surroundings {
                metrics: metrics.clone(),
                numbers: self.numbers.clone(),
                turns: turns.clone(),
                signals: ShardSignals::new(
                    deps.signals.clone(),
                    deps.statuses.people.clone(),
                    metrics.clone(),
                ),
                statuses: ShardStatuses::start(
                    &deps.statuses,
                    format!("{}/{shard_id}", config.node),
                    metrics.clone(),
                    panics.clone(),
                ),
                webhooks: sessions,
                checkpoint_every: every,
                places: places.clone(),
                retention_every: config.retention_interval,
                started,
                ownership: self.ownership.clone(),
            },
        );
        self.component.ready();
        self.ownership.serving(epochs);
        let ended = worker.run(inputs, &mut snapshot, orders).await;
        let patience = match ended {
            Ended::Drained | Ended::Left => CONSUMERS_END_MAX,
            Ended::Lost | Ended::Acquired(_) => CONSUMERS_LOST_MAX,
        };
        if matches!(ended, Ended::Lost) {
            self.lost();
        }
        // The index is another owner's to fill from now on, who waits for its thread; or this node's, which
        // does not: the next thread does.
        let follows = match ended {
            Ended::Drained | Ended::Left => indexer.take(),
            Ended::Lost | Ended::Acquired(_) => None,
        };
        if let Some(follows) = &*indexer {
            follows.ends();
        }
        let stopping = tokio::task::spawn_blocking(move || {
            drop(worker);
            if let Some(follows) = follows {
                follows.stop();
            }
        });
        let (stopped, ()) = tokio::join!(stopping, consumers.stop(patience));
        if let Err(error) = stopped {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_are_made_ever_less_often() {
        let (lease, news) = (Arc::new(NodeLease::new(RETRY)), Arc::default());
        let assigned = Ownership::Assigned(Assignment::new(0, 1, lease, news));
        let pauses = [1, 2, 3, 5, 6, 1_000].map(|failed| assigned.retry(failed).as_millis());
        assert_eq!(pauses, [100, 200, 400, 1_600, 2_000, 2_000]);
        assert_eq!(Ownership::Placed.retry(9), RETRY);
    }
}
