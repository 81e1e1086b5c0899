//! Webhooks: the ends of sessions and subscriptions, told to the servers of those whose instances
//! they are.
//!
//! Each instance that has a webhook is a consumer of the log in each shard that its users may be in. A
//! receiver that hangs, fails or may not be reached holds up its own instance in that shard and
//! nothing else; what waits for it lies in the log, and retention waits for its consumer up to the
//! log's bound.

mod consumer;
mod event;
mod feed;
mod metrics;
mod reads;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use gb6_core_model::Webhooks as Config;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::ShardLog;
use gb6_core_wire::mesh::ShardRef;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use consumer::{Pace, Shared};
pub(crate) use feed::Feed;
pub(crate) use metrics::WebhookMetrics;
pub(crate) use reads::Reads;

use crate::bodies::RecordKeys;
use crate::positions::Positions;
use consumer::Consumer;
use source::{CONSUMER_PREFIX, Source, consumer_name};

/// Pause after a defect of ours.
const DEFECT_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a list of consumers that could not be read is read again.
const LIST_RETRY: Duration = Duration::from_secs(5);

/// What the webhooks of a shard work with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) shard: ShardRef,
    pub(crate) log: Arc<dyn ShardLog>,
    pub(crate) keys: Arc<RecordKeys>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) feed: Feed,
    pub(crate) positions: Arc<Positions>,
}

/// The webhooks of one shard, while it is served. Dropping it ends them at once.
pub(crate) struct ShardWebhooks {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ShardWebhooks {
    /// Begins. Must be called on a runtime.
    pub(crate) fn start(setup: Setup) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let make = || Manager::new(setup.clone(), stopped.clone());
            begin_again(&setup, || make().run()).await;
        });
        Self { stop, task }
    }

    /// Ends them: what is under way is given up and sent again by whoever goes on, and how far they are is
    /// noted. Nothing but what asks for positions holds the log any more when this returns.
    pub(crate) async fn stop(mut self) {
        // Received by the task, or it has ended.
        let _ = self.stop.send(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the webhooks of a shard ended badly");
        }
    }
}

impl Drop for ShardWebhooks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does something until it ends, however often it panics: a defect of ours, which the panic itself
/// reported. The log has what was held.
async fn begin_again<F: Future<Output = ()>>(setup: &Setup, work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        setup.shared.panics.count("webhooks");
        let shard = setup.shard.shard;
        tracing::error!(shard, "what tells a webhook panicked; it begins again");
        tokio::time::sleep(DEFECT_PAUSE).await;
    }
}

/// Keeps one consumer for each instance that wants one.
struct Manager {
    setup: Setup,
    stop: watch::Receiver<bool>,
    running: BTreeMap<String, Running>,
}

struct Running {
    config: watch::Sender<Config>,
    stop: watch::Sender<bool>,
    task: Aborting,
}

/// A task that ends with whoever holds it.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    async fn stop(mut self) {
        // Received by the task, or it has ended.
        let _ = self.stop.send(true);
        if let Err(error) = (&mut self.task.0).await {
            tracing::error!(%error, "a webhook ended badly");
        }
    }
}

impl Manager {
    fn new(setup: Setup, stop: watch::Receiver<bool>) -> Self {
        Self {
            setup,
            stop,
            running: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let mut stop = self.stop.clone();
        let (mut followed, mut tidied) = (true, false);
        loop {
            let snapshot = self.setup.snapshot.borrow_and_update().clone();
            let wanted = wanted(&snapshot, &self.setup.shard);
            tokio::select! {
                biased;
                // What asks the log goes on by itself. Nobody sends meanwhile.
                _ = stop.wait_for(|stop| *stop) => break,
                done = self.apply(&wanted, tidied) => tidied = done,
            }
            tokio::select! {
                biased;
                // Who could say so has ended: that means the same.
                _ = stop.wait_for(|stop| *stop) => break,
                // Without a sender the last snapshot stays.
                changed = self.setup.snapshot.changed(), if followed => followed = changed.is_ok(),
                () = tokio::time::sleep(LIST_RETRY), if !tidied => {}
            }
        }
        for running in self.running.values() {
            // Received by the task, or it has ended.
            let _ = running.stop.send(true);
        }
        for (_, running) in std::mem::take(&mut self.running) {
            running.stop().await;
        }
    }

    /// Begins, changes and ends consumers. Those that nobody wants any more are forgotten, so that
    /// retention does not wait for them: those of before as well, if not done yet. Answers whether
    /// it was.
    async fn apply(&mut self, wanted: &BTreeMap<String, Config>, tidied: bool) -> bool {
        let mut unwanted = Vec::new();
        let gone: Vec<String> = self.running.keys().cloned().collect();
        for instance in gone.into_iter().filter(|i| !wanted.contains_key(i)) {
            if let Some(running) = self.running.remove(&instance) {
                running.stop().await;
            }
            tracing::info!(%instance, shard = self.setup.shard.shard, "the webhook is removed");
            unwanted.push(consumer_name(&instance));
        }
        for (instance, config) in wanted {
            match self.running.get(instance) {
                Some(running) => {
                    running.config.send_if_modified(|old| {
                        let changed = old != config;
                        if changed {
                            old.clone_from(config);
                        }
                        changed
                    });
                }
                None => {
                    let running = self.begin(instance, config);
                    self.running.insert(instance.clone(), running);
                }
            }
        }
        let all_of_before = !tidied;
        if unwanted.is_empty() && !all_of_before {
            return true;
        }
        let keep: Vec<String> = wanted.keys().map(|i| consumer_name(i)).collect();
        let forgetting = self.setup.positions.ask(move |positions| {
            if all_of_before {
                let known = positions.log().consumers()?.into_iter().map(|c| c.name);
                let ours = known.filter(|name| name.starts_with(CONSUMER_PREFIX));
                unwanted.extend(ours.filter(|name| !keep.contains(name)));
            }
            positions.remove(&unwanted)
        });
        let done = forgetting.await;
        if let Err(error) = &done {
            tracing::warn!(shard = self.setup.shard.shard, %error, "consumers of webhooks that are gone could not be removed; this is tried again");
        }
        done.is_ok()
    }

    fn begin(&self, instance: &str, config: &Config) -> Running {
        let (config, configs) = watch::channel(config.clone());
        let (stop, stopped) = watch::channel(false);
        let shard = self.setup.shard.shard;
        let (log, keys) = (self.setup.log.clone(), self.setup.keys.clone());
        let (feed, shared) = (self.setup.feed.clone(), self.setup.shared.clone());
        let positions = self.setup.positions.clone();
        let (instance, setup) = (instance.to_owned(), self.setup.clone());
        let make = move || {
            let source = Source {
                log: log.clone(),
                keys: keys.clone(),
                instance: instance.clone(),
            };
            let parts = (source, feed.follow(&instance));
            Consumer::new(
                shard,
                shared.clone(),
                parts,
                positions.clone(),
                configs.clone(),
                stopped.clone(),
            )
        };
        let task = tokio::spawn(async move {
            begin_again(&setup, || make().run()).await;
        });
        Running {
            config,
            stop,
            task: Aborting(task),
        }
    }
}

/// The instances whose webhooks are sent from `shard`: those with a slot in it.
fn wanted(snapshot: &Snapshot, shard: &ShardRef) -> BTreeMap<String, Config> {
    let Some(region) = snapshot.regions.get(&shard.region) else {
        return BTreeMap::new();
    };
    let here = |slot| region.shard_of(slot).is_some_and(|s| s.0 == shard.shard);
    let placed = snapshot.instances.iter();
    let placed = placed.filter(|(_, i)| i.region == shard.region);
    placed
        .filter_map(|(id, instance)| {
            let config = instance.webhooks.as_ref().filter(|w| !w.url.is_empty())?;
            let any = instance.slots.iter().any(|slot| here(*slot));
            any.then(|| (id.as_str().to_owned(), config.clone()))
        })
        .collect()
}
