//! The consumers of a shard's log at this node, its webhooks and its events: begun with an ownership, and
//! ended with it.
//!
//! What they ask of a log may take as long as its archive does, which may not answer while the log does. So
//! nobody waits for their end for longer than a moment: it goes on beside the next ownership, whose own
//! consumers begin behind it. No two of a shard are at work at once at a node, and neither is anything sent
//! or published by one of before behind one of now, nor its place stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::ShardId;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_obs::metrics::{Gauge, Metrics};
use gb6_core_ports::ShardLog;
use gb6_core_wire::mesh::ShardRef;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bodies::RecordKeys;
use crate::events::{Events, ShardEvents};
use crate::positions::{ListPlaces, Positions, StoreEvery};
use crate::webhooks::{self, Feed, ShardWebhooks};

/// Pause before a thread that the system did not give is asked for again.
const THREAD_RETRY: Duration = Duration::from_secs(5);

/// What the consumers of all shards of a node share: whose turn it is, and how many ask for their places at
/// once.
pub(crate) struct NodeConsumers {
    /// By shard: as many as the node ever served.
    turns: Mutex<HashMap<ShardRef, Arc<tokio::sync::Mutex<()>>>>,
    ending: Gauge,
    lists: ListPlaces,
}

impl NodeConsumers {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            turns: Mutex::default(),
            ending: metrics.gauge(
                "gb6_region_consumers_ending",
                "Ownerships of shards that have ended and whose webhooks and events have not: what they ask of the log's archive takes long.",
            ),
            lists: ListPlaces::new(metrics),
        }
    }

    fn of(&self, shard: &ShardRef) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().entry(shard.clone()).or_default().clone()
    }
}

/// What the consumers of a shard work with.
pub(crate) struct Setup {
    pub(crate) shard: ShardRef,
    pub(crate) log: Arc<dyn ShardLog>,
    pub(crate) keys: Arc<RecordKeys>,
    /// The placement; followed.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What has happened to sessions, as it is committed.
    pub(crate) sessions: Feed,
    pub(crate) webhooks: Arc<webhooks::Shared>,
    pub(crate) events: Events,
    /// Where metrics go.
    pub(crate) metrics: Metrics,
}

/// The consumers of one ownership of a shard. Dropping it lets them end.
pub(crate) struct ShardConsumers {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    ending: Gauge,
}

impl ShardConsumers {
    /// Begins, once those of the shard's last ownership at this node have ended. Must be called on a runtime.
    pub(crate) fn start(setup: Setup, node: &NodeConsumers) -> Self {
        let turn = node.of(&setup.shard);
        let every = StoreEvery::default();
        let (log, lists) = (setup.log.clone(), node.lists.clone());
        let positions = Positions::new(setup.shard.shard, log, lists, every);
        let (stop, stopped) = watch::channel(false);
        Self {
            stop,
            task: tokio::spawn(run(setup, positions, turn, stopped)),
            ending: node.ending.clone(),
        }
    }

    /// Tells them to end, and waits for that for at most `patience`: then it goes on by itself. What is
    /// under way to a receiver is given up and sent again by whoever goes on; how far they are is stored.
    pub(crate) async fn stop(mut self, patience: Duration) {
        // Received by the task, or it has ended.
        let _ = self.stop.send(true);
        match timeout(patience, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the consumers of a shard's log ended badly");
            }
            Err(_) => {
                self.ending.inc();
                tokio::spawn(async move {
                    if let Err(error) = self.task.await {
                        tracing::error!(%error, "the consumers of a shard's log ended badly");
                    }
                    self.ending.dec();
                });
            }
        }
    }
}

async fn run(
    setup: Setup,
    positions: Arc<Positions>,
    turn: Arc<tokio::sync::Mutex<()>>,
    mut stop: watch::Receiver<bool>,
) {
    let turn = tokio::select! {
        biased;
        () = stopped(&mut stop) => None,
        turn = turn.lock_owned() => Some(turn),
    };
    if let Some(turn) = &turn {
        consume(&setup, &positions, turn, &mut stop).await;
    }
    // As whoever holds the log last closes it, which blocks.
    let closing = tokio::task::spawn_blocking(move || drop((setup, positions, turn)));
    if let Err(error) = closing.await {
        tracing::error!(%error, "a log could not be left by its consumers");
    }
}

/// Waits until it is to end: who could say so has ended, means the same.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn consume(
    setup: &Setup,
    positions: &Arc<Positions>,
    _turn: &OwnedMutexGuard<()>,
    stop: &mut watch::Receiver<bool>,
) {
    let webhooks = ShardWebhooks::start(webhooks::Setup {
        shard: setup.shard.clone(),
        log: setup.log.clone(),
        keys: setup.keys.clone(),
        snapshot: setup.snapshot.clone(),
        shared: setup.webhooks.clone(),
        feed: setup.sessions.clone(),
        positions: positions.clone(),
    });
    let events = tokio::select! {
        biased;
        () = stopped(stop) => None,
        events = begin_events(setup, positions) => Some(events),
    };
    tokio::select! {
        biased;
        () = stopped(stop) => {}
        () = positions.keep() => {}
    }
    // Beside each other: either may wait for whoever it calls.
    let events = tokio::task::spawn_blocking(move || events.map(ShardEvents::stop));
    webhooks.stop().await;
    if let Err(error) = events.await {
        tracing::error!(%error, "the events of a shard could not be ended");
    }
    positions.store_all().await;
}

/// Begins to publish events, once the system gives a thread.
async fn begin_events(setup: &Setup, positions: &Arc<Positions>) -> ShardEvents {
    let Setup { shard, .. } = setup;
    loop {
        let name = format!("events of shard {}/{}", shard.region, shard.shard);
        let guard = setup.webhooks.panics.guard("events", name);
        let begun = ShardEvents::start(
            ShardId(shard.shard),
            positions.clone(),
            setup.keys.clone(),
            &setup.events,
            setup.snapshot.clone(),
            (&setup.metrics, guard),
        );
        match begun {
            Ok(events) => return events,
            Err(error) => {
                tracing::error!(shard = shard.shard, %error, "there is no thread for the shard's events; this is tried again");
            }
        }
        tokio::time::sleep(THREAD_RETRY).await;
    }
}
