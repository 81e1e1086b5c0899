//! Events for others: what is committed in a shard is published where its operator wants it, by a
//! consumer of the log ([docs/events.md](../../../../docs/events.md)).
//!
//! A thread for each shard reads the log behind the position that is stored in it, publishes, and then
//! stores how far it is: so each event is published at least once, whoever owns the shard. What its
//! receiver does not take waits in the log, and retention waits up to the log's bound for consumers.

mod event;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gb6_core_model::{Position, ShardId};
use gb6_core_obs::metrics::{Counter, GaugeFamily, Label, Metrics};
use gb6_core_ports::{EventSink, ShardLog, SinkEvent, StoreError};
use parking_lot::{Condvar, Mutex};

use crate::bodies::RecordKeys;
use crate::panics::Guard;

/// The consumer's name in the log.
const CONSUMER: &str = "events";
/// Records read from the log at once.
const PAGE_RECORDS: usize = 1024;
/// Bytes of these.
const PAGE_BYTES: usize = 1024 * 1024;
/// How often the log is looked at while there is nothing to publish.
const LOOK: Duration = Duration::from_millis(50);
/// How often a position that moves is stored: what was published since is published again after a kill.
const STORE: Duration = Duration::from_secs(5);
/// The first pause after a failure, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Shards that are told apart.
const SHARDS_MAX: usize = 4096;

/// Where a region's events go; by default nowhere.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<dyn EventSink>>);

impl Events {
    /// To this sink.
    pub fn to(sink: Arc<dyn EventSink>) -> Self {
        Self(Some(sink))
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(_) => f.write_str("Events(published)"),
            None => f.write_str("Events(nowhere)"),
        }
    }
}

#[derive(Clone)]
struct EventMetrics {
    published: Counter,
    failures: Counter,
    unreadable: Counter,
    lapsed: Counter,
    behind: GaugeFamily,
}

impl EventMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            published: metrics.counter(
                "gb6_events_published_total",
                "Events that were published for others, repetitions among them.",
            ),
            failures: metrics.counter(
                "gb6_events_failures_total",
                "Attempts to read, publish or store events that failed and are repeated.",
            ),
            unreadable: metrics.counter(
                "gb6_events_unreadable_total",
                "Records that make no event because their body can not be read: damaged, or sealed with a destroyed key.",
            ),
            lapsed: metrics.counter(
                "gb6_events_lapsed_total",
                "Times that events were so far behind that retention went on without them; some may be lost.",
            ),
            behind: metrics.gauge_family(
                "gb6_events_behind_records",
                "Records of a shard's log whose events are not published yet.",
                &[Label::new("shard", SHARDS_MAX)],
            ),
        }
    }
}

/// The events of one shard, while it is served. Dropping it lets its thread end.
pub(crate) struct ShardEvents {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn set(&self) {
        let _waits = self.lock.lock();
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    /// Waits so long, or until it is set.
    fn pause(&self, time: Duration) {
        let mut waits = self.lock.lock();
        if !self.is_set() {
            self.wake.wait_for(&mut waits, time);
        }
    }
}

impl ShardEvents {
    /// Begins. Without a sink it only sees to it that retention does not wait for one of before.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        shard: ShardId,
        log: Arc<dyn ShardLog>,
        keys: Arc<RecordKeys>,
        events: &Events,
        (metrics, guard): (&Metrics, Guard),
    ) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let publisher = Publisher {
            shard,
            log,
            keys,
            sink: events.0.clone(),
            metrics: EventMetrics::new(metrics),
            guard: Arc::new(guard),
            stop: stop.clone(),
            stored: 0,
            stored_at: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("events-{shard}"))
            .spawn(move || publisher.run())?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it and waits until it has: a moment, or as long as the sink takes for one call. How far it
    /// is is stored. Blocks.
    pub(crate) fn stop(mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Drop for ShardEvents {
    fn drop(&mut self) {
        self.stop.set();
    }
}

struct Publisher {
    shard: ShardId,
    log: Arc<dyn ShardLog>,
    keys: Arc<RecordKeys>,
    sink: Option<Arc<dyn EventSink>>,
    metrics: EventMetrics,
    guard: Arc<Guard>,
    stop: Arc<Stop>,
    stored: Position,
    stored_at: Instant,
}

impl Publisher {
    fn run(mut self) {
        let Some(sink) = self.sink.clone() else {
            self.retry("an old consumer can not be removed", Self::forget);
            return;
        };
        let Some(mut from) = self.retry("its consumer can not be registered", Self::register)
        else {
            return;
        };
        while !self.stop.is_set() {
            let done = self.retry("events can not be published", |publisher| {
                publisher.publish(&*sink, from)
            });
            let Some(next) = done else { break };
            let idle = next == from;
            from = next;
            if from != self.stored && self.stored_at.elapsed() >= STORE {
                self.store(from);
            }
            if idle {
                self.stop.pause(LOOK);
            }
        }
        if from != self.stored {
            self.store(from);
        }
    }

    /// Does something until it is done, or until the end: then `None`.
    fn retry<T>(
        &mut self,
        what: &'static str,
        mut work: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Option<T> {
        let mut pause = PAUSE;
        let guard = self.guard.clone();
        loop {
            match guard.run(|| work(self)) {
                Ok(done) => {
                    if pause > PAUSE {
                        tracing::info!(shard = %self.shard, "the trouble with events is over");
                    }
                    return Some(done);
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    // One line when it begins.
                    if pause == PAUSE {
                        tracing::warn!(shard = %self.shard, %error, what, "the shard's events have trouble, and it is tried again");
                    }
                }
            }
            if self.stop.is_set() {
                return None;
            }
            self.stop.pause(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Without a sink nobody is waited for.
    fn forget(&mut self) -> Result<(), StoreError> {
        let known = self.log.consumers()?;
        match known.iter().any(|consumer| consumer.name == CONSUMER) {
            true => self.log.remove_consumer(CONSUMER),
            false => Ok(()),
        }
    }

    /// Where it goes on: where it was, or at the log's end if it is new.
    fn register(&mut self) -> Result<Position, StoreError> {
        let range = self.log.range()?;
        let known = self.log.consumers()?;
        let known = known.iter().find(|consumer| consumer.name == CONSUMER);
        if known.is_some_and(|consumer| consumer.lapsed) {
            self.lapsed(range.first);
        }
        let from = known.map_or(range.next, |c| c.position).max(range.first);
        self.stored = self.log.register_consumer(CONSUMER, from)?.position;
        Ok(self.stored.max(range.first))
    }

    fn lapsed(&self, first: Position) {
        self.metrics.lapsed.inc();
        tracing::error!(shard = %self.shard, first, "events were too far behind, and retention went on: what lies before this position is not published");
    }

    /// Publishes a page of the log; answers where to go on.
    fn publish(&mut self, sink: &dyn EventSink, from: Position) -> Result<Position, StoreError> {
        let page = match self.log.read(from, PAGE_RECORDS, PAGE_BYTES) {
            Err(StoreError::Trimmed { first }) => {
                self.lapsed(first);
                return Ok(first);
            }
            read => read?,
        };
        let mut events = Vec::with_capacity(page.records.len());
        for record in page.records {
            let position = record.position;
            match event::event_of(self.shard, record, &self.keys) {
                Ok(event) => events.extend(event),
                Err(error) => {
                    self.metrics.unreadable.inc();
                    tracing::debug!(shard = %self.shard, position, %error, "a record makes no event");
                }
            }
        }
        for some in events.chunks(sink.events_max().max(1)) {
            self.publish_some(sink, some)?;
        }
        let behind = page.end.saturating_sub(page.next);
        let gauge = self.metrics.behind.with(&[&self.shard.to_string()]);
        gauge.set(i64::try_from(behind).unwrap_or(i64::MAX));
        // At the end a page may name what is behind it.
        Ok(page.next.min(page.end).max(from))
    }

    fn publish_some(&self, sink: &dyn EventSink, events: &[SinkEvent]) -> Result<(), StoreError> {
        sink.publish(events)?;
        self.metrics.published.inc_by(events.len() as u64);
        Ok(())
    }

    /// Stores how far it is. In vain at times: then more is published again after a kill.
    fn store(&mut self, position: Position) {
        self.stored_at = Instant::now();
        match self.log.set_consumer(CONSUMER, position) {
            Ok(()) => self.stored = position,
            // Lapsed, or forgotten: it begins again where it is.
            Err(StoreError::Conflict { .. }) => {
                if self.log.register_consumer(CONSUMER, position).is_ok() {
                    self.stored = position;
                }
            }
            Err(error) => {
                self.metrics.failures.inc();
                tracing::debug!(shard = %self.shard, %error, "how far events are could not be stored");
            }
        }
    }
}
