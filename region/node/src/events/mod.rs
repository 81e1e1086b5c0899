//! Events for others: what is committed in a shard is published where its operator wants it, by a
//! consumer of the log ([docs/events.md](../../../../docs/events.md)).
//!
//! A thread for each shard reads the log behind the position that is stored in it, publishes, and then
//! notes how far it is, which is stored now and then: so each event is published at least once, whoever owns the shard. What its
//! receiver does not take waits in the log, and retention waits up to the log's bound for consumers.

mod event;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Position, ShardId};
use gb6_core_obs::metrics::{Counter, GaugeFamily, Label, Metrics};
use gb6_core_ports::{EventSink, ShardLog, SinkEvent, StoreError};
use gb6_core_wire::record::BodyError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::bodies::{KeyLook, RecordKeys};
use crate::missing_keys::KEY_ASK;
use crate::panics::Guard;
use crate::positions::{Positions, Step};

/// The consumer's name in the log.
const CONSUMER: &str = "events";
/// Records read from the log at once.
const PAGE_RECORDS: usize = 1024;
/// Bytes of these.
const PAGE_BYTES: usize = 1024 * 1024;
/// How often the log is looked at while there is nothing to publish.
const LOOK: Duration = Duration::from_millis(50);
/// The first pause after a failure, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether a key has come for which events wait.
const KEY_LOOK: Duration = Duration::from_millis(250);
/// Keys that are remembered as waited for in vain.
const MISSING_KEYS_MAX: usize = 1024;
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
    waits_for_key: GaugeFamily,
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
                "Attempts to read or publish events, or to begin with that, that failed and are repeated.",
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
            waits_for_key: metrics.gauge_family(
                "gb6_events_waits_for_key",
                "1 while a shard's events wait for the record key of an instance that this node does not have.",
                &[Label::new("shard", SHARDS_MAX)],
            ),
        }
    }
}

/// For how long events wait for a record key that this node does not have, while it can not be told where
/// keys lie whether it was destroyed: another node may have made it a moment ago.
#[derive(Clone, Copy)]
struct KeyWaits {
    /// Of an instance that the snapshot knows: its key comes, unless it was destroyed.
    known: Duration,
    /// Of one that it does not: it is gone, or so new that the snapshot has yet to come.
    unknown: Duration,
}

impl Default for KeyWaits {
    fn default() -> Self {
        Self {
            known: Duration::from_secs(600),
            unknown: Duration::from_secs(30),
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
        positions: Arc<Positions>,
        keys: Arc<RecordKeys>,
        events: &Events,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        told: (&Metrics, Guard),
    ) -> std::io::Result<Self> {
        let waits = (snapshot, KeyWaits::default());
        Self::start_with(shard, positions, keys, events, waits, told)
    }

    fn start_with(
        shard: ShardId,
        positions: Arc<Positions>,
        keys: Arc<RecordKeys>,
        events: &Events,
        (snapshot, key_waits): (watch::Receiver<Arc<Snapshot>>, KeyWaits),
        (metrics, guard): (&Metrics, Guard),
    ) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let publisher = Publisher {
            shard,
            log: positions.log().clone(),
            positions,
            keys,
            snapshot,
            key_waits,
            waiting: None,
            missing: BTreeSet::new(),
            sink: events.0.clone(),
            metrics: EventMetrics::new(metrics),
            guard: Arc::new(guard),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("events-{shard}"))
            .spawn(move || publisher.run())?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it and waits until it has: a moment, or as long as the sink, or the archive, takes for one
    /// call. How far it is is noted. Blocks.
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

/// An instance, and the id of a record key of it that is not here.
type MissingKey = (String, u32);

/// A key that is waited for.
struct Waiting {
    key: MissingKey,
    since: Instant,
    asked: Instant,
}

struct Publisher {
    shard: ShardId,
    log: Arc<dyn ShardLog>,
    positions: Arc<Positions>,
    keys: Arc<RecordKeys>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    key_waits: KeyWaits,
    waiting: Option<Waiting>,
    /// Keys that were destroyed, or waited for in vain.
    missing: BTreeSet<MissingKey>,
    sink: Option<Arc<dyn EventSink>>,
    metrics: EventMetrics,
    guard: Arc<Guard>,
    stop: Arc<Stop>,
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
            let Some((next, taken)) = done else { break };
            let idle = next == from;
            from = next;
            // One that has lapsed finds out when it reads.
            let step = Step {
                position: from,
                taken,
                fails: false,
            };
            self.positions.note(CONSUMER, step);
            if idle {
                self.stop.pause(match self.waiting {
                    Some(_) => KEY_LOOK,
                    None => LOOK,
                });
            }
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
        self.positions.ask_here(|positions| {
            let known = self.log.consumers()?;
            match known.iter().any(|consumer| consumer.name == CONSUMER) {
                true => positions.remove(&[CONSUMER.to_owned()]),
                false => Ok(()),
            }
        })
    }

    /// Where it goes on: where it was, or at the log's end if it is new.
    fn register(&mut self) -> Result<Position, StoreError> {
        self.positions.ask_here(|positions| {
            let range = self.log.range()?;
            let known = self.log.consumers()?;
            let known = known.iter().find(|consumer| consumer.name == CONSUMER);
            if known.is_some_and(|consumer| consumer.lapsed) {
                self.lapsed(range.first);
            }
            let from = known.map_or(range.next, |c| c.position).max(range.first);
            let stored = self.log.register_consumer(CONSUMER, from)?.position;
            positions.begins(CONSUMER, stored);
            Ok(stored.max(range.first))
        })
    }

    fn lapsed(&self, first: Position) {
        self.metrics.lapsed.inc();
        tracing::error!(shard = %self.shard, first, "events were too far behind, and retention went on: what lies before this position is not published");
    }

    /// Publishes a page of the log; answers where to go on, and whether there was something to publish.
    fn publish(
        &mut self,
        sink: &dyn EventSink,
        from: Position,
    ) -> Result<(Position, bool), StoreError> {
        let page = match self.log.read(from, PAGE_RECORDS, PAGE_BYTES) {
            Err(StoreError::Trimmed { first }) => {
                self.lapsed(first);
                return Ok((first, false));
            }
            read => read?,
        };
        let mut events = Vec::with_capacity(page.records.len());
        let mut next = page.next;
        let mut waits = false;
        for record in page.records {
            let position = record.position;
            match event::event_of(self.shard, record, &self.keys) {
                Ok(event) => events.extend(event),
                // What lies before it does not wait while its key is looked for.
                Err(error) if !events.is_empty() && self.lacks_key(&error).is_some() => {
                    next = position;
                    break;
                }
                // What is behind it waits too: events come in the order of the log.
                Err(error) if self.waits_for_key(&error) => {
                    (next, waits) = (position, true);
                    break;
                }
                Err(error) => {
                    self.metrics.unreadable.inc();
                    tracing::debug!(shard = %self.shard, position, %error, "a record makes no event");
                }
            }
        }
        for some in events.chunks(sink.events_max().max(1)) {
            self.publish_some(sink, some)?;
        }
        if !waits {
            self.waiting = None;
        }
        let shard = self.shard.to_string();
        let waiting = self.metrics.waits_for_key.with(&[&shard]);
        waiting.set(i64::from(waits));
        let behind = page.end.saturating_sub(next);
        let gauge = self.metrics.behind.with(&[&shard]);
        gauge.set(i64::try_from(behind).unwrap_or(i64::MAX));
        // At the end a page may name what is behind it.
        Ok((next.min(page.end).max(from), !events.is_empty()))
    }

    /// The key without which a record can not be read, unless that is known to be so for ever.
    fn lacks_key(&self, error: &BodyError) -> Option<MissingKey> {
        let BodyError::KeyDestroyed { instance, key_id } = error else {
            return None;
        };
        let key = (instance.clone(), *key_id);
        (!self.missing.contains(&key)).then_some(key)
    }

    /// Whether a record that can not be read is to be waited for: its key is not here, and may come.
    fn waits_for_key(&mut self, error: &BodyError) -> bool {
        let Some(key) = self.lacks_key(error) else {
            return false;
        };
        let (instance, key_id) = (&*key.0, key.1);
        let before = self.waiting.take().filter(|waiting| waiting.key == key);
        let known = before.as_ref();
        let mut asked = known.map(|waiting| waiting.asked);
        let now = Instant::now();
        let since = known.map_or(now, |waiting| waiting.since);
        if asked.is_none_or(|at| at.elapsed() >= KEY_ASK) {
            match self.keys.look_for(instance, key_id) {
                KeyLook::Found => return true,
                // Once does not say it for one that is served: where the place of keys went back to what it was
                // earlier, who knows them writes them again.
                KeyLook::Destroyed if known.is_none() && self.is_served(instance) => {
                    tracing::warn!(shard = %self.shard, instance, key_id, "a record key is not where keys lie: it is looked for once more before it counts as destroyed");
                }
                KeyLook::Destroyed => {
                    tracing::warn!(shard = %self.shard, instance, key_id, "a record key was destroyed: what is sealed with it makes no events");
                    self.give_up(key);
                    return false;
                }
                KeyLook::Untold if known.is_none() => {
                    tracing::warn!(shard = %self.shard, instance, key_id, "this node does not have a record key: the shard's events wait for it");
                }
                KeyLook::Untold => {}
            }
            asked = Some(Instant::now());
        }
        let patience = match self.is_served(instance) {
            true => self.key_waits.known,
            false => self.key_waits.unknown,
        };
        if since.elapsed() >= patience {
            tracing::error!(shard = %self.shard, instance, key_id, "a record key has not come: what is sealed with it makes no events");
            self.give_up(key);
            return false;
        }
        let asked = asked.unwrap_or(now);
        self.waiting = Some(Waiting { key, since, asked });
        true
    }

    fn is_served(&self, instance: &str) -> bool {
        self.snapshot.borrow().instances.contains_key(instance)
    }

    /// What is sealed with a key is not waited for any more.
    fn give_up(&mut self, key: MissingKey) {
        // overflow: forgotten, and looked for once more.
        if self.missing.len() >= MISSING_KEYS_MAX {
            self.missing.clear();
        }
        self.missing.insert(key);
    }

    fn publish_some(&self, sink: &dyn EventSink, events: &[SinkEvent]) -> Result<(), StoreError> {
        sink.publish(events)?;
        self.metrics.published.inc_by(events.len() as u64);
        Ok(())
    }
}
