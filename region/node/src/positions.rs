//! How far the consumers of a shard's log are: noted in memory as they go on, and stored in the log for all
//! of them together.
//!
//! A log may keep its consumers in an archive, where each store is an object. One that only passed what it
//! has nothing to do with loses nothing at a kill: its position is stored for retention alone, and seldom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::Position;
use gb6_core_obs::metrics::{Counter, Gauge, Metrics};
use gb6_core_ports::{ShardLog, StoreError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::recoveries::Counted;

/// Threads of a node with which its shards' lists of consumers are asked at once: each is held for as long as
/// the archive takes where lists lie there.
const LISTS_MAX: usize = 16;

/// How often positions are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreEvery {
    /// One that moved past what was taken: that is sent again after a kill.
    pub(crate) taken: Duration,
    /// One that moved past nothing else than what its consumer passes over: retention waits so long.
    pub(crate) passed: Duration,
}

impl Default for StoreEvery {
    fn default() -> Self {
        Self {
            taken: Duration::from_secs(5),
            passed: Duration::from_secs(60),
        }
    }
}

/// What all shards of a node share. Cloning shares it.
#[derive(Clone)]
pub(crate) struct ListPlaces {
    // overflow: who asks waits. Each shard asks one thing at once.
    places: Arc<Semaphore>,
    waiting: Gauge,
    stored: Counter,
    failed: Counter,
}

impl ListPlaces {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            places: Arc::new(Semaphore::new(LISTS_MAX)),
            waiting: metrics.gauge(
                "gb6_region_consumer_lists_waiting",
                "Shards whose consumers wait to ask their log how far they are, or to store it, because as many as may do.",
            ),
            stored: metrics.counter(
                "gb6_region_consumer_lists_stored_total",
                "Times that the positions of all consumers of a shard were stored in its log.",
            ),
            failed: metrics.counter(
                "gb6_region_consumer_lists_failed_total",
                "Times that they could not be stored, which is tried again.",
            ),
        }
    }

    /// A place, once there is one. Safe to cancel.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        let _waiting = Counted::new(&self.waiting);
        // Closed by nobody.
        self.places.clone().acquire_owned().await.ok()
    }
}

/// How far one consumer is.
#[derive(Default)]
struct Noted {
    position: Position,
    stored: Position,
    /// Something was taken since it was stored.
    taken: bool,
    /// Its receiver takes nothing: it may lapse.
    fails: bool,
    /// It had lapsed when it was stored, and has not been told so.
    lapsed: bool,
}

/// The positions of the consumers of one ownership of a shard.
pub(crate) struct Positions {
    shard: u32,
    log: Arc<dyn ShardLog>,
    node: ListPlaces,
    every: StoreEvery,
    /// Held by who asks the log for its consumers, or changes them: one at a time, which ends before
    /// anything else begins, even where nobody waited for it.
    alone: Arc<tokio::sync::Mutex<()>>,
    noted: Mutex<BTreeMap<String, Noted>>,
    stored_at: Mutex<Instant>,
    /// They could not be stored when that was tried last.
    fails: AtomicBool,
}

/// What a consumer has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Where it goes on.
    pub(crate) position: Position,
    /// Something was taken.
    pub(crate) taken: bool,
    /// What it sends is not taken now.
    pub(crate) fails: bool,
}

impl Positions {
    pub(crate) fn new(
        shard: u32,
        log: Arc<dyn ShardLog>,
        node: ListPlaces,
        every: StoreEvery,
    ) -> Arc<Self> {
        Arc::new(Self {
            shard,
            log,
            node,
            every,
            alone: Arc::default(),
            noted: Mutex::default(),
            stored_at: Mutex::new(Instant::now()),
            fails: AtomicBool::new(false),
        })
    }

    /// The log whose consumers these are.
    pub(crate) fn log(&self) -> &Arc<dyn ShardLog> {
        &self.log
    }

    /// A consumer is registered, and begins at `position`.
    pub(crate) fn begins(&self, name: &str, position: Position) {
        let begins = Noted {
            position,
            stored: position,
            ..Noted::default()
        };
        self.noted.lock().insert(name.to_owned(), begins);
    }

    /// Notes how far a consumer is that has begun. Answers whether it had lapsed since it was asked last.
    pub(crate) fn note(&self, name: &str, step: Step) -> bool {
        let mut noted = self.noted.lock();
        let Some(of) = noted.get_mut(name) else {
            return false;
        };
        of.position = of.position.max(step.position);
        of.taken |= step.taken;
        of.fails = step.fails;
        std::mem::take(&mut of.lapsed)
    }

    /// Whether something is to be stored.
    fn is_due(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(*self.stored_at.lock());
        let due = |of: &Noted| {
            let moved = of.position > of.stored;
            let soon = (moved && of.taken) || of.fails;
            (soon && age >= self.every.taken) || (moved && age >= self.every.passed)
        };
        self.noted.lock().values().any(due)
    }

    /// Stores the positions whenever that is due, for ever. Safe to cancel.
    pub(crate) async fn keep(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(self.every.taken).await;
            if self.is_due(Instant::now()) {
                self.store_all().await;
            }
        }
    }

    /// Stores the positions of all. In vain at times: then more is sent again after a kill. Waits until
    /// nothing of before is at work on the list.
    pub(crate) async fn store_all(self: &Arc<Self>) {
        match self.ask(Self::store).await {
            Ok(()) => {
                if self.fails.swap(false, Ordering::Relaxed) {
                    tracing::info!(
                        shard = self.shard,
                        "how far consumers of a log are can be stored again"
                    );
                }
            }
            // Another owner goes on from what is stored.
            Err(StoreError::Fenced { .. }) => {}
            Err(error) => {
                self.node.failed.inc();
                // One line when it begins.
                if !self.fails.swap(true, Ordering::Relaxed) {
                    tracing::warn!(shard = self.shard, %error, "how far consumers of a log are can not be stored, and it is tried again");
                }
            }
        }
    }

    /// Asks the log for its consumers, or changes them, off the async threads.
    ///
    /// # Errors
    /// Those of `work`; `Unavailable` where it panicked.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let alone = self.alone.clone().lock_owned().await;
        let place = self.node.place().await;
        let this = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let answer = work(&this);
            // What it holds of the log goes before anybody hears that it has ended.
            drop(this);
            drop((place, alone));
            answer
        });
        asking.await.unwrap_or_else(|error| {
            Err(StoreError::Unavailable {
                cause: format!("asking for the log's consumers failed: {error}"),
            })
        })
    }

    /// As [`Positions::ask`], on a thread of the caller's own. Blocks.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn ask_here<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _alone = self.alone.blocking_lock();
        work(self)
    }

    /// Stores the positions that moved, and looks whether those that can not move have lapsed. Blocks.
    pub(crate) fn store(&self) -> Result<(), StoreError> {
        *self.stored_at.lock() = Instant::now();
        let wanted = |(name, of): (&String, &Noted)| {
            (of.position > of.stored || of.fails).then(|| (name.clone(), of.position))
        };
        let positions: Vec<_> = self.noted.lock().iter().filter_map(wanted).collect();
        if positions.is_empty() {
            return Ok(());
        }
        let refused = self.log.set_consumers(&positions)?;
        self.node.stored.inc();
        for (name, position) in positions {
            match refused.contains(&name) {
                false => self.stored(&name, position, false),
                true => self.register_again(&name, position)?,
            }
        }
        Ok(())
    }

    fn stored(&self, name: &str, position: Position, lapsed: bool) {
        if let Some(of) = self.noted.lock().get_mut(name) {
            of.stored = position;
            of.taken &= of.position > position;
            of.lapsed |= lapsed;
        }
    }

    /// A consumer that lapsed, or was forgotten, goes on where it is, or where the log still begins.
    fn register_again(&self, name: &str, position: Position) -> Result<(), StoreError> {
        let known = self.log.consumers()?;
        let lapsed = known.iter().any(|c| c.name == name && c.lapsed);
        let from = position.max(self.log.range()?.first);
        let position = self.log.register_consumer(name, from)?.position;
        self.stored(name, position, lapsed);
        Ok(())
    }

    /// Forgets consumers, so that retention does not wait for them. Blocks.
    pub(crate) fn remove(&self, names: &[String]) -> Result<(), StoreError> {
        self.noted.lock().retain(|name, _| !names.contains(name));
        let mut names = names.iter();
        names.try_for_each(|name| self.log.remove_consumer(name))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use gb6_core_ports::contract::log::{acquire, append, fence, messages};
    use gb6_core_ports::memory::{MemoryLogConfig, MemoryStorage};
    use gb6_core_ports::{ConsumerState, LogLayer};
    use parking_lot::Condvar;

    use super::*;

    const EVERY: StoreEvery = StoreEvery {
        taken: Duration::from_secs(5),
        passed: Duration::from_secs(60),
    };
    const TAKEN: fn(Position) -> Step = |position| Step {
        position,
        taken: true,
        fails: false,
    };
    const PASSED: fn(Position) -> Step = |position| Step {
        taken: false,
        ..TAKEN(position)
    };

    /// A log whose list may be away, and who writes it.
    struct Watched {
        below: Arc<dyn ShardLog>,
        lists: Arc<Lists>,
    }

    #[derive(Default)]
    struct Lists {
        written: AtomicUsize,
        at_work: AtomicUsize,
        away: Mutex<bool>,
        changed: Condvar,
    }

    impl LogLayer for Watched {
        fn below(&self) -> &dyn ShardLog {
            &*self.below
        }

        fn set_consumers(&self, all: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
            self.lists.written.fetch_add(1, Ordering::SeqCst);
            self.below.set_consumers(all)
        }

        fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
            self.lists.at_work.fetch_add(1, Ordering::SeqCst);
            let mut away = self.lists.away.lock();
            let most = Duration::from_secs(60);
            (self.lists.changed).wait_while_for(&mut away, |away| *away, most);
            drop(away);
            self.lists.at_work.fetch_sub(1, Ordering::SeqCst);
            self.below.consumers()
        }
    }

    fn positions(storage: &MemoryStorage, places: &ListPlaces) -> (Arc<Positions>, Arc<Lists>) {
        let lists = Arc::<Lists>::default();
        let log = Arc::new(Watched {
            below: Arc::new(storage.open()),
            lists: lists.clone(),
        });
        (Positions::new(3, log, places.clone(), EVERY), lists)
    }

    fn stored(storage: &MemoryStorage) -> Vec<(String, Position)> {
        let all = storage.open().consumers().expect("listed").into_iter();
        all.map(|c| (c.name, c.position)).collect()
    }

    #[test]
    fn all_are_stored_together_soon_where_something_was_taken_and_seldom_otherwise() {
        let storage = MemoryStorage::default();
        let places = ListPlaces::new(&Metrics::bare());
        let (positions, lists) = positions(&storage, &places);
        let names: Vec<_> = (0..20).map(|n| format!("webhook.i{n:02}")).collect();
        for name in &names {
            let registered = positions.log().register_consumer(name, 1);
            positions.begins(name, registered.expect("registered").position);
        }
        let step = |step: Step| {
            for name in &names {
                assert!(!positions.note(name, step));
            }
        };
        let stores = || {
            let before = lists.written.load(Ordering::SeqCst);
            positions.store().expect("stored");
            lists.written.load(Ordering::SeqCst) - before
        };
        let at = |position| move |(_, at): &(String, Position)| *at == position;
        let due = |seconds| positions.is_due(Instant::now() + Duration::from_secs(seconds));
        assert!(!due(3600), "nothing has moved");
        assert_eq!(stores(), 0);
        step(PASSED(10));
        assert!(!due(59) && due(60));
        assert_eq!(stores(), 1);
        assert!(stored(&storage).iter().all(at(10)));
        assert!(!due(3600));
        // One of them has something to lose: the others go with it.
        step(PASSED(20));
        positions.note(&names[7], TAKEN(20));
        assert!(!due(4) && due(5));
        assert_eq!(stores(), 1);
        assert!(stored(&storage).iter().all(at(20)));
        step(PASSED(30));
        assert!(!due(59), "nothing was taken since");
        // What is not taken may lapse, and is looked after.
        positions.note(
            &names[7],
            Step {
                fails: true,
                ..PASSED(30)
            },
        );
        assert!(due(5));
    }

    #[tokio::test]
    async fn who_has_lapsed_is_told_so_and_goes_on_and_who_was_removed_stays_so() {
        let storage = MemoryStorage::new(MemoryLogConfig {
            segment_records: 8,
            consumer_lag_bytes_max: 500,
            ..MemoryLogConfig::default()
        });
        let log = storage.open();
        acquire(&log, &fence(1)).expect("acquired");
        let places = ListPlaces::new(&Metrics::bare());
        let (positions, _) = positions(&storage, &places);
        for name in ["gone", "quick", "slow"] {
            log.register_consumer(name, 1).expect("registered");
            positions.begins(name, 1);
        }
        append(&log, &fence(1), messages(1, "room:a", 60)).expect("appended");
        let end = log.range().expect("a range").next;
        let removing = positions.ask(|of| of.remove(&["gone".to_owned()]));
        removing.await.expect("removed");
        positions.note("gone", TAKEN(end));
        log.set_consumer("quick", end).expect("set");
        positions.note("quick", TAKEN(end));
        let waits = Step {
            fails: true,
            ..PASSED(1)
        };
        positions.note("slow", waits);
        let first = log.trim(&fence(1), end).expect("trimmed");
        assert!(first > 1);
        positions.ask(Positions::store).await.expect("stored");
        let wanted = [("quick".to_owned(), end), ("slow".to_owned(), first)];
        assert_eq!(stored(&storage), wanted);
        assert!(!positions.note("quick", PASSED(end)));
        assert!(positions.note("slow", waits), "it is told");
        assert!(!positions.note("slow", waits), "once");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lists_that_do_not_answer_take_few_threads_of_a_node_and_one_of_a_shard() {
        let places = ListPlaces::new(&Metrics::bare());
        let shards: Vec<_> = (0..3 * LISTS_MAX)
            .map(|_| positions(&MemoryStorage::default(), &places))
            .collect();
        for (_, lists) in &shards {
            *lists.away.lock() = true;
        }
        let mut asked = Vec::new();
        for (positions, _) in &shards {
            for _ in 0..4 {
                let positions = positions.clone();
                asked.push(tokio::spawn(async move {
                    positions.ask(|of| of.log().consumers()).await
                }));
            }
        }
        let at_work = || {
            let each = shards.iter().map(|(_, l)| l.at_work.load(Ordering::SeqCst));
            each.collect::<Vec<_>>()
        };
        until(|| at_work().iter().sum::<usize>() == LISTS_MAX).await;
        until(|| places.waiting.get() == (2 * LISTS_MAX) as i64).await;
        assert_eq!(at_work().iter().sum::<usize>(), LISTS_MAX);
        assert!(at_work().iter().all(|n| *n <= 1));
        for (_, lists) in &shards {
            *lists.away.lock() = false;
            lists.changed.notify_all();
        }
        for one in asked {
            assert_eq!(one.await.expect("no panic"), Ok(Vec::new()));
        }
        assert_eq!(places.waiting.get(), 0);
    }

    /// Waits for what another thread does.
    async fn until(what: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !what() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "it does not come"
            );
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
