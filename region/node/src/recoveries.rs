//! How many shards of a node are recovered at once: who inherits many would else read as many logs and
//! checkpoints at the same time, each slower than one after the other, and all of them in memory.
//!
//! Who comes first is recovered first. Shards of which little is left to read have places of their own, and
//! more of them, so that these, which clients expect back at once, do not wait for those that take long. A
//! recovery that gets no further gives its place to others and goes on without one: the engine that it waits
//! for may be lost for its shard alone. Of those there are so many at most, for it may be slow for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::{Counter, Gauge, Metrics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};

use crate::keeper::Ownership;

/// After so long without anything read or answered a recovery gives up its place.
pub(crate) const STILL_MAX: Duration = Duration::from_secs(3);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Places of shards of which little is left to read, for each of the others.
const SHORT: usize = 4;
/// Recoveries that may have given up their places, for each place.
pub(crate) const STILL: usize = 3;

/// The places of a node.
pub(crate) struct Recoveries {
    // overflow: none. Each shard of the node waits at most once.
    any: Arc<Semaphore>,
    /// For those of which little is left to read.
    short: Arc<Semaphore>,
    /// For those that get no further.
    still: Arc<Semaphore>,
    still_max: Duration,
    /// Those that read on.
    reading: AtomicUsize,
    waiting: Gauge,
    running: Gauge,
    stalled: Counter,
}

/// The right to recover one shard; given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _running: Counted,
}

/// Counts itself as long as it lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts a recovery as long as it lives.
struct Reading<'a>(&'a AtomicUsize);

impl<'a> Reading<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a recovery gets on.
pub(crate) struct Progress {
    /// Of what is recovered: while something is read its log is not silent.
    ownership: Ownership,
    began: Instant,
    /// When it last did, in ms since it began.
    last_ms: AtomicU64,
    /// Something was read.
    reads: AtomicBool,
}

impl Progress {
    /// That of a recovery that begins.
    pub(crate) fn of(ownership: Ownership) -> Self {
        Self {
            ownership,
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            reads: AtomicBool::new(false),
        }
    }

    /// Something was read, or answered: the log is not silent.
    pub(crate) fn read(&self) {
        self.ownership.log_read();
        self.reads.store(true, Ordering::Relaxed);
        self.made();
    }

    /// It has got on.
    pub(crate) fn made(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// For how long nothing was.
    fn still_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

impl Recoveries {
    /// Places for `max` shards, at least one.
    pub(crate) fn new(max: usize, metrics: &Metrics) -> Self {
        let max = max.max(1);
        Self {
            any: Arc::new(Semaphore::new(max)),
            short: Arc::new(Semaphore::new(max * SHORT)),
            still: Arc::new(Semaphore::new(max * STILL)),
            still_max: STILL_MAX,
            reading: AtomicUsize::new(0),
            waiting: metrics.gauge(
                "gb6_region_recoveries_waiting",
                "Shards of this node that wait to be recovered, because as many as may be are.",
            ),
            running: metrics.gauge(
                "gb6_region_recoveries_running",
                "Shards of this node that are recovered now, but for those that get no further.",
            ),
            stalled: metrics.counter(
                "gb6_region_recoveries_stalled_total",
                "Recoveries that got no further for 3 s, and gave their places to others.",
            ),
        }
    }

    /// A place, once there is one; `short`: little is left to read. Safe to cancel.
    pub(crate) async fn place(&self, short: bool) -> Place {
        let permit = match self.free(short) {
            Some(permit) => permit,
            None => {
                let _waiting = Counted::new(&self.waiting);
                self.wait(short).await
            }
        };
        Place {
            _permit: permit,
            _running: Counted::new(&self.running),
        }
    }

    /// Whether something was read of late by a recovery that takes more than a moment.
    pub(crate) fn read_on(&self) -> bool {
        self.reading.load(Ordering::SeqCst) > 0
    }

    fn places(&self, short: bool) -> &Arc<Semaphore> {
        if short { &self.short } else { &self.any }
    }

    fn free(&self, short: bool) -> Option<OwnedSemaphorePermit> {
        self.places(short).clone().try_acquire_owned().ok()
    }

    async fn wait(&self, short: bool) -> OwnedSemaphorePermit {
        match self.places(short).clone().acquire_owned().await {
            Ok(permit) => permit,
            // They are never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a recovery, which gives its place up when it gets no further, unless too many have.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn end<T>(
        &self,
        place: Place,
        progress: &Progress,
        mut recovering: JoinHandle<T>,
    ) -> Result<T, JoinError> {
        let mut place = Some(place);
        let mut _still = None;
        let mut reading = None;
        loop {
            tokio::select! {
                biased;
                ended = &mut recovering => return ended,
                () = tokio::time::sleep(LOOK) => {
                    let is_still = progress.still_for() >= self.still_max;
                    let reads_on = !is_still && progress.reads.load(Ordering::Relaxed);
                    if reads_on != reading.is_some() {
                        reading = reads_on.then(|| Reading::new(&self.reading));
                    }
                    if is_still && place.is_some()
                        && let Ok(permit) = self.still.clone().try_acquire_owned()
                    {
                        self.stalled.inc();
                        (place, _still) = (None, Some(permit));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within so long whatever is to happen has.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn recoveries(max: usize) -> (Arc<Recoveries>, Metrics) {
        let metrics = Metrics::bare();
        (Arc::new(Recoveries::new(max, &metrics)), metrics)
    }

    /// How many wait, and how many have a place.
    fn now(metrics: &Metrics) -> (String, String) {
        let text = metrics.text();
        let value = |name: &str| {
            let name = format!("gb6_region_recoveries_{name} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&name));
            value.expect("a metric").to_owned()
        };
        (value("waiting"), value("running"))
    }

    async fn until(metrics: &Metrics, waiting: usize, running: usize) {
        let wanted = (waiting.to_string(), running.to_string());
        let reached = async {
            while now(metrics) != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{wanted:?}: {:?}", now(metrics));
    }

    #[tokio::test]
    async fn who_comes_first_is_recovered_first_and_little_does_not_wait_for_much() {
        let (recoveries, metrics) = recoveries(2);
        let mut long = Vec::new();
        for _ in 0..2 {
            long.push(recoveries.place(false).await);
        }
        let (taken, mut order) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..3 {
            let (recoveries, taken) = (recoveries.clone(), taken.clone());
            tokio::spawn(async move {
                let place = recoveries.place(false).await;
                taken.send((n, place)).ok();
            });
            until(&metrics, n + 1, 2).await;
        }
        // What is short has places of its own, and no more than these.
        let mut short = Vec::new();
        for _ in 0..2 * SHORT {
            short.push(recoveries.place(true).await);
        }
        until(&metrics, 3, 10).await;
        let (waits, taken) = (recoveries.clone(), taken.clone());
        tokio::spawn(async move {
            let place = waits.place(true).await;
            taken.send((9, place)).ok();
        });
        until(&metrics, 4, 10).await;
        drop(short.pop());
        let (first, last) = order.recv().await.expect("a place");
        assert_eq!(first, 9);
        short.push(last);
        let mut others = Vec::new();
        for _ in 0..3 {
            drop(long.pop());
            let (n, place) = order.recv().await.expect("a place");
            others.push(n);
            long.insert(0, place);
        }
        assert_eq!(others, [0, 1, 2]);
        until(&metrics, 0, 10).await;
        drop((short, long));
        until(&metrics, 0, 0).await;
    }

    #[tokio::test]
    async fn who_gives_up_waiting_keeps_nobody_waiting() {
        let (recoveries, metrics) = recoveries(1);
        let place = recoveries.place(false).await;
        let gives_up = tokio::spawn({
            let recoveries = recoveries.clone();
            async move { drop(recoveries.place(false).await) }
        });
        until(&metrics, 1, 1).await;
        gives_up.abort();
        until(&metrics, 0, 1).await;
        drop(place);
        drop(recoveries.place(false).await);
    }

    #[tokio::test]
    async fn what_gets_no_further_gives_its_place_up_and_goes_on() {
        let (recoveries, metrics) = recoveries(1);
        let still_max = Duration::from_millis(500);
        let recoveries = Arc::new(Recoveries {
            still_max,
            ..Arc::into_inner(recoveries).expect("the only one")
        });
        let place = recoveries.place(false).await;
        let progress = Arc::new(Progress::of(Ownership::Placed));
        let (end, ended) = tokio::sync::oneshot::channel();
        let (made, stopped) = (progress.clone(), Arc::new(AtomicBool::new(false)));
        let stops = stopped.clone();
        let recovering = tokio::spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < 2 * still_max {
                tokio::time::sleep(Duration::from_millis(1)).await;
                made.made();
            }
            stops.store(true, Ordering::SeqCst);
            ended.await
        });
        let watches = recoveries.clone();
        let watched = tokio::spawn(async move { watches.end(place, &progress, recovering).await });
        let other = tokio::time::timeout(PATIENCE, recoveries.place(false)).await;
        assert!(other.is_ok() && stopped.load(Ordering::SeqCst));
        let text = metrics.text();
        assert!(
            text.contains("gb6_region_recoveries_stalled_total 1"),
            "{text}"
        );
        assert!(!watched.is_finished());
        assert!(end.send(7).is_ok());
        let ended = watched.await.expect("no panic");
        assert_eq!(ended.expect("no panic"), Ok(7));
        drop(other);
        assert_eq!(now(&metrics), ("0".to_owned(), "0".to_owned()));
    }

    #[tokio::test]
    async fn no_more_than_a_few_go_on_without_a_place() {
        let (recoveries, metrics) = recoveries(1);
        let recoveries = Arc::new(Recoveries {
            still_max: Duration::ZERO,
            ..Arc::into_inner(recoveries).expect("the only one")
        });
        let (end, _) = tokio::sync::broadcast::channel::<()>(1);
        let mut watched = Vec::new();
        // None gets further. The last of them keeps the place.
        for _ in 0..=STILL {
            let place = tokio::time::timeout(PATIENCE, recoveries.place(false)).await;
            let (place, watches) = (place.expect("a place"), recoveries.clone());
            let mut ended = end.subscribe();
            watched.push(tokio::spawn(async move {
                let recovering = tokio::spawn(async move { ended.recv().await.is_err() });
                watches
                    .end(place, &Progress::of(Ownership::Placed), recovering)
                    .await
            }));
        }
        until(&metrics, 0, 1).await;
        let text = metrics.text();
        let stalled = format!("gb6_region_recoveries_stalled_total {STILL}");
        assert!(text.contains(&stalled), "{text}");
        tokio::time::sleep(2 * LOOK).await;
        assert_eq!(now(&metrics), ("0".to_owned(), "1".to_owned()));
        drop(end);
        for one in watched {
            assert!(one.await.expect("no panic").expect("no panic"));
        }
        assert_eq!(now(&metrics), ("0".to_owned(), "0".to_owned()));
    }
}
