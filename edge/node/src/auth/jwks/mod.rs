//! Key sets that are fetched: kept fresh in the background, so that tokens are verified without
//! waiting as long as their key is known.
//!
//! Each instance with a `jwks_url` has one task. It fetches when the set has aged, and when a token
//! names a key that is not in it, at most every ten seconds whoever asks. While the server can not be
//! reached the last good keys stay, from the disk also over a restart, for a week.

mod disk;
mod fetch;
mod set;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_obs::metrics::Samples;
use gb6_core_obs::{Counter, CounterFamily, Label, Metrics};
use gb6_core_outbound::Outbound;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use super::keys::{Fetched, KeyTable};

pub(crate) use set::parse_key_set;

/// When key sets are fetched, and how long one waits for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeySetTiming {
    /// From the resolver to the last byte of a set.
    pub deadline: Duration,
    /// Between two fetches that tokens with unknown keys cause.
    pub asked_at_most_every: Duration,
    /// How long a connection waits for a key that is not known: less than SDKs wait for the answer
    /// to their connect, which is 5 s.
    pub patience: Duration,
    /// How long keys are trusted that can not be fetched again.
    pub trusted_for: Duration,
}

impl Default for KeySetTiming {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            asked_at_most_every: Duration::from_secs(10),
            patience: Duration::from_secs(4),
            trusted_for: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Connections that wait for a key at once; further ones are told to come back.
const WAITING_MAX: usize = 4_096;

/// The keys of all instances: those of the snapshot, and those that are fetched.
pub(crate) struct KeySets {
    table: ArcSwap<KeyTable>,
    placed: Mutex<Placed>,
    outbound: Arc<Outbound>,
    /// Where sets are kept; `None`: nowhere.
    dir: Option<PathBuf>,
    timing: KeySetTiming,
    waiting: Semaphore,
    metrics: KeySetMetrics,
}

struct KeySetMetrics {
    fetches: CounterFamily,
    refused: Counter,
    not_waited: Counter,
}

#[derive(Default)]
struct Placed {
    snapshot: Arc<Snapshot>,
    sets: BTreeMap<InstanceId, Running>,
}

/// The set of one instance, and the task that fetches it.
struct Running {
    set: Arc<Set>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The set of one instance.
struct Set {
    instance: InstanceId,
    url: String,
    state: Mutex<SetState>,
    /// Somebody asks for a key that is not in it.
    wanted: Notify,
    /// Fetches that have ended.
    ended: watch::Sender<Ended>,
}

/// The newest fetches that have ended, by their numbers from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Ended {
    /// The last.
    last: u64,
    /// The last that brought keys.
    well: u64,
}

#[derive(Default)]
struct SetState {
    fetched: Fetched,
    /// When the keys were fetched, Unix ms; 0: there are none.
    fetched_unix_ms: i64,
    /// Fetches that have begun.
    begun: u64,
}

/// How waiting for a key ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// A fetch that began after the question has ended: who is not found now is not there.
    Fetched,
    /// There was no such fetch, or it failed.
    InVain,
}

impl KeySets {
    /// The keys of `snapshot`. Must be called within a tokio runtime.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        outbound: Arc<Outbound>,
        dir: Option<PathBuf>,
        timing: KeySetTiming,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let sets = Arc::new(Self {
            table: ArcSwap::from_pointee(KeyTable::default()),
            placed: Mutex::default(),
            outbound,
            dir: dir.map(|dir| dir.join("key-sets")),
            timing,
            waiting: Semaphore::new(WAITING_MAX),
            metrics: KeySetMetrics {
                fetches: metrics.counter_family(
                    "gb6_edge_key_set_fetches_total",
                    "Fetches of instances' key sets, by result.",
                    &[Label::new("result", 12)],
                ),
                refused: metrics.counter(
                    "gb6_edge_key_set_keys_refused_total",
                    "Keys of fetched sets that can not be used.",
                ),
                not_waited: metrics.counter(
                    "gb6_edge_key_set_not_waited_total",
                    "Connections told to come back because too many waited for a key.",
                ),
            },
        });
        sets.place(snapshot);
        sets
    }

    /// The keys as they are now.
    pub(crate) fn load(&self) -> Guard<Arc<KeyTable>> {
        self.table.load()
    }

    /// A new placement.
    pub(crate) fn place(self: &Arc<Self>, snapshot: Arc<Snapshot>) {
        let mut placed = self.placed.lock();
        let mut old = std::mem::take(&mut placed.sets);
        for (id, instance) in &snapshot.instances {
            let Some(url) = &instance.jwks_url else {
                continue;
            };
            let running = old
                .remove(id)
                .filter(|running| running.set.url == *url)
                .unwrap_or_else(|| self.begin(id.clone(), url.clone()));
            placed.sets.insert(id.clone(), running);
        }
        placed.snapshot = snapshot;
        self.publish(&placed);
    }

    fn begin(self: &Arc<Self>, instance: InstanceId, url: String) -> Running {
        let set = Arc::new(Set {
            instance,
            url,
            state: Mutex::new(SetState {
                fetched: Fetched::Missing,
                ..SetState::default()
            }),
            wanted: Notify::new(),
            ended: watch::channel(Ended::default()).0,
        });
        let sets: Weak<Self> = Arc::downgrade(self);
        Running {
            set: set.clone(),
            task: tokio::spawn(fetch::run(sets, set)),
        }
    }

    /// A set has changed.
    fn changed(&self) {
        self.publish(&self.placed.lock());
    }

    fn publish(&self, placed: &Placed) {
        let fetched = |id: &InstanceId| match placed.sets.get(id) {
            Some(running) => running.set.state.lock().fetched.clone(),
            None => Fetched::Missing,
        };
        self.table
            .store(Arc::new(KeyTable::new(&placed.snapshot, fetched)));
    }

    /// Waits until the set of `instance` has been fetched anew, while `missing` says that what is
    /// looked for is not among the keys.
    pub(crate) async fn wait(
        &self,
        instance: &InstanceId,
        missing: impl Fn(&KeyTable) -> bool,
    ) -> Waited {
        let Ok(_permit) = self.waiting.try_acquire() else {
            self.metrics.not_waited.inc();
            return Waited::InVain;
        };
        let set = self.placed.lock().sets.get(instance).map(|r| r.set.clone());
        let Some(set) = set else {
            return Waited::InVain;
        };
        let mut ended = set.ended.subscribe();
        let needed = set.state.lock().begun + 1;
        set.wanted.notify_one();
        let fetched = async {
            loop {
                let now = *ended.borrow_and_update();
                if now.well >= needed || !missing(&self.load()) {
                    return Waited::Fetched;
                }
                if now.last >= needed || ended.changed().await.is_err() {
                    return Waited::InVain;
                }
            }
        };
        let waited = tokio::time::timeout(self.timing.patience, fetched).await;
        waited.unwrap_or(Waited::InVain)
    }

    /// Shows how old the sets are.
    pub(crate) fn collect(&self, unix_ms: i64, out: &mut Samples<'_>) {
        for (id, running) in &self.placed.lock().sets {
            let state = running.set.state.lock();
            let labels = [("instance", id.as_str())];
            out.gauge(
                "gb6_edge_key_set_keys",
                "Keys of an instance's fetched set that verify its tokens.",
                &labels,
                state.fetched.keys().len() as f64,
            );
            if state.fetched_unix_ms > 0 {
                out.gauge(
                    "gb6_edge_key_set_age_seconds",
                    "How long ago an instance's key set was fetched.",
                    &labels,
                    (unix_ms - state.fetched_unix_ms).max(0) as f64 / 1000.0,
                );
            }
        }
    }
}
