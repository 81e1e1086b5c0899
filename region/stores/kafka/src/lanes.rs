//! The consumers that read the partitions of a node's shards while somebody else may write to them: a few
//! that all shards share, each with a thread of its own. So what they cost is a node's and not a shard's.
//!
//! A partition that is added to a consumer waits for the fetch that is under way, 100 ms at most. What may
//! take longer than a moment is none of these threads' work.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_ports::StoreError;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{Health, LogConsumer, Told, make_follower};
use crate::config::Config;
use crate::errors;
use crate::fetch::{is_out_of_range, is_passing};
use crate::shared::Shared;

/// Consumers of a node. More are made only where one process has several handles of a shard, which can not
/// share one, and end with these.
const LANES: usize = 4;
/// How long a thread waits for a message before it looks what is to be read.
const STEP: Duration = Duration::from_millis(10);
/// How often what waits in a shard is looked at, and how long a thread sleeps that has nothing to read.
const TICK: Duration = Duration::from_millis(50);
/// How long an owner has written nothing before its partition is read, to learn of a newer ownership:
/// while it writes it learns of one from the offsets of its own batches.
const QUIET: Duration = Duration::from_millis(500);
/// How long a broker may take to answer whether it can be reached again.
const PROBE: Duration = Duration::from_millis(500);
/// How long errors may go on before everything is begun anew. They may be of one partition alone, which
/// the client tries again by itself, and must not cost the others anything.
const ERRORS_LAST: Duration = Duration::from_secs(5);
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(200);
/// After how long without an answer, or without what is known to lie there, a partition is begun anew:
/// whatever it is that the client waits for.
const STUCK: Duration = Duration::from_secs(3);
/// Messages that are taken before it is looked what else is to be done.
const MESSAGES_MAX: usize = 512;

/// Those of a node.
pub(crate) struct Lanes {
    config: Config,
    told: Told,
    topic: String,
    all: Mutex<Vec<Arc<Lane>>>,
    seats: AtomicU64,
}

/// One of them.
struct Lane {
    consumer: LogConsumer,
    told: Told,
    topic: String,
    members: Mutex<Members>,
    wake: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct Members {
    /// By partition: which seat, and who has it once that is there.
    all: BTreeMap<i32, (u64, Weak<Shared>)>,
    /// Something is to be read that was not before.
    woken: bool,
}

/// The place of one handle: its partition is read for it. Given up when dropped.
pub(crate) struct Seat {
    lane: Arc<Lane>,
    partition: i32,
    id: u64,
}

impl Lanes {
    pub(crate) fn new(config: &Config, told: &Told, topic: &str) -> Self {
        Self {
            config: config.clone(),
            told: told.clone(),
            topic: topic.to_owned(),
            all: Mutex::default(),
            seats: AtomicU64::new(0),
        }
    }

    /// A place for a handle of this partition, with the consumer that has the fewest.
    ///
    /// # Errors
    /// `Unavailable`: a consumer is needed and can not be made. `Io`: there is no thread for it.
    pub(crate) fn join(&self, partition: i32) -> Result<Seat, StoreError> {
        let mut all = self.all.lock();
        let mut place = 0;
        all.retain(|lane| {
            place += 1;
            let stays = place <= LANES || !lane.members.lock().all.is_empty();
            if !stays {
                lane.end();
            }
            stays
        });
        let free = all.iter().filter_map(|lane| {
            let members = lane.members.lock();
            (!members.all.contains_key(&partition)).then(|| (members.all.len(), lane.clone()))
        });
        let fewest = free.min_by_key(|(members, _)| *members);
        let lane = match fewest {
            Some((0, lane)) => lane,
            Some((_, lane)) if all.len() >= LANES => lane,
            _ => {
                let lane = self.lane()?;
                all.push(lane.clone());
                lane
            }
        };
        self.told.metrics.followers.set(all.len() as i64);
        let id = self.seats.fetch_add(1, Ordering::Relaxed);
        let seat = (id, Weak::new());
        lane.members.lock().all.insert(partition, seat);
        Ok(Seat {
            lane,
            partition,
            id,
        })
    }

    fn lane(&self) -> Result<Arc<Lane>, StoreError> {
        let told = self.told.of_another();
        let lane = Arc::new(Lane {
            consumer: make_follower(&self.config, &told)?,
            told,
            topic: self.topic.clone(),
            members: Mutex::default(),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let runs = lane.clone();
        let name = "kafka-follow";
        let thread = std::thread::Builder::new().name(name.into());
        let started = thread.spawn(move || run(&runs));
        started.map_err(|error| StoreError::Io {
            operation: "start the thread",
            path: name.into(),
            detail: error.to_string(),
        })?;
        Ok(lane)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // Not waited for: this may run on one of their threads.
        for lane in self.all.lock().drain(..) {
            lane.end();
        }
    }
}

impl Lane {
    fn end(&self) {
        let _members = self.members.lock();
        self.stop.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether any broker answers, whichever partitions have no leader. Blocks.
    fn reaches_a_broker(&self) -> bool {
        let asked = self.consumer.fetch_metadata(Some(&self.topic), PROBE);
        asked.is_ok()
    }

    /// Sleeps until something is to be read, or for `time`.
    fn sleep(&self, time: Duration) {
        let mut members = self.members.lock();
        if !members.woken && !self.is_stopped() {
            self.wake.wait_for(&mut members, time);
        }
        members.woken = false;
    }
}

impl Seat {
    /// From now on the partition is read for this handle, where it wants that.
    pub(crate) fn take(&self, shared: &Arc<Shared>) {
        let mut members = self.lane.members.lock();
        members
            .all
            .insert(self.partition, (self.id, Arc::downgrade(shared)));
        members.woken = true;
        self.lane.wake.notify_all();
    }

    /// The partition may have to be read now.
    pub(crate) fn wake(&self) {
        self.lane.members.lock().woken = true;
        self.lane.wake.notify_all();
    }

    /// Nothing is read for this handle any more.
    pub(crate) fn leave(&self) {
        let mut members = self.lane.members.lock();
        let ours = members.all.get(&self.partition);
        if ours.is_some_and(|(id, _)| *id == self.id) {
            members.all.remove(&self.partition);
        }
    }

    /// A client to ask the brokers with.
    pub(crate) fn consumer(&self) -> &LogConsumer {
        &self.lane.consumer
    }

    /// When the partition's leader last answered this consumer.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.lane.told.hearing.of(self.partition)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

fn run(lane: &Arc<Lane>) {
    let mut following = Following {
        lane,
        assigned: BTreeMap::new(),
        ticked: Instant::now(),
        not_before: Instant::now(),
        failing: None,
    };
    while !lane.is_stopped() {
        let step = AssertUnwindSafe(|| following.step());
        if catch_unwind(step).is_err() {
            tracing::error!(
                topic = lane.topic,
                "what reads partitions panicked, which is a defect: they are read on"
            );
            following.fail();
        }
    }
}

struct Following<'a> {
    lane: &'a Arc<Lane>,
    /// The partitions that are read.
    assigned: BTreeMap<i32, Assigned>,
    ticked: Instant,
    /// Nothing is begun before.
    not_before: Instant,
    /// Since when reads have failed, and none has not, and when the last one did.
    failing: Option<(Instant, Instant)>,
}

/// A partition that is read.
struct Assigned {
    /// For which seat.
    id: u64,
    since: Instant,
    /// The offset that is next, and since when.
    next: (u64, Instant),
}

impl Assigned {
    /// Whether nothing comes although something is there, or nobody answers.
    fn is_stuck(&mut self, shared: &Shared) -> bool {
        let next = shared.next_offset();
        if next != self.next.0 {
            self.next = (next, Instant::now());
        }
        let waits = shared.expects_more() && self.next.1.elapsed() > STUCK;
        waits || self.since.elapsed() > STUCK && shared.silence() > STUCK
    }
}

/// Who has a seat, by partition.
type Present = BTreeMap<i32, (u64, Arc<Shared>)>;

impl Following<'_> {
    fn step(&mut self) {
        let members = self.lane.members.lock().all.clone();
        let present = members.into_iter().filter_map(|(partition, (id, weak))| {
            let shared = weak.upgrade()?;
            (!shared.is_stopped()).then_some((partition, (id, shared)))
        });
        let present: Present = present.collect();
        let ticks = self.ticked.elapsed() >= TICK;
        if ticks {
            self.ticked = Instant::now();
            self.probe(&present);
        }
        self.assign(&present, ticks);
        self.read(&present);
        if ticks {
            for (_, shared) in present.values() {
                shared.tick(Instant::now());
            }
        }
    }

    /// While no broker can be reached, nothing is begun: somebody has to look.
    fn probe(&self, present: &Present) {
        let health = &self.lane.told.health;
        if health.is_down() {
            let lane = self.lane.clone();
            health.look(move || (!lane.is_stopped()).then(|| lane.reaches_a_broker()));
        }
        let error = health.is_down().then(Health::error);
        for (_, shared) in present.values() {
            shared.reachable(error.clone());
        }
    }

    /// Begins to read what is to be read, and ends what is not.
    fn assign(&mut self, present: &Present, ticks: bool) {
        let stays = |partition: &i32, assigned: &mut Assigned| {
            let shared = present.get(partition).filter(|(id, _)| *id == assigned.id);
            shared.is_some_and(|(_, shared)| {
                shared.wants_to_read(QUIET) && !(ticks && assigned.is_stuck(shared))
            })
        };
        let ended: Vec<i32> = (self.assigned.iter_mut())
            .filter_map(|(partition, assigned)| (!stays(partition, assigned)).then_some(*partition))
            .collect();
        if !ended.is_empty() {
            let mut list = TopicPartitionList::new();
            for partition in ended {
                self.assigned.remove(&partition);
                list.add_partition(&self.lane.topic, partition);
            }
            if let Err(error) = self.lane.consumer.incremental_unassign(&list) {
                self.failed(&error);
                self.fail();
            }
        }
        if Instant::now() < self.not_before {
            return;
        }
        let mut list = TopicPartitionList::new();
        let mut begun = Vec::new();
        for (partition, (id, shared)) in present {
            if self.assigned.contains_key(partition) || !shared.wants_to_read(QUIET) {
                continue;
            }
            let next = i64::try_from(shared.next_offset()).unwrap_or(i64::MAX);
            let offset = Offset::Offset(next);
            match list.add_partition_offset(&self.lane.topic, *partition, offset) {
                Ok(()) => {
                    let now = Instant::now();
                    let assigned = Assigned {
                        id: *id,
                        since: now,
                        next: (shared.next_offset(), now),
                    };
                    begun.push((*partition, assigned));
                }
                Err(error) => self.failed(&error),
            }
        }
        if begun.is_empty() {
            return;
        }
        match self.lane.consumer.incremental_assign(&list) {
            Ok(()) => {
                self.lane.told.metrics.read_backs.inc_by(begun.len() as u64);
                self.assigned.extend(begun);
            }
            Err(error) => {
                self.failed(&error);
                self.fail();
            }
        }
    }

    fn read(&mut self, present: &Present) {
        let mut wait = match self.assigned.is_empty() {
            true => Duration::ZERO,
            false => STEP,
        };
        for _ in 0..MESSAGES_MAX {
            match self.lane.consumer.poll(std::mem::take(&mut wait)) {
                None => break,
                Some(Ok(message)) => {
                    self.failing = None;
                    self.lane.told.health.up();
                    let (partition, offset) = (message.partition(), message.offset());
                    let seat = self.assigned.get(&partition).map(|assigned| assigned.id);
                    let reader = present.get(&partition).filter(|(id, _)| seat == Some(*id));
                    if let (Some((_, shared)), Ok(offset)) = (reader, u64::try_from(offset)) {
                        let payload = message.payload().unwrap_or_default();
                        shared.seen(offset, Bytes::copy_from_slice(payload));
                    }
                }
                Some(Err(error)) if is_out_of_range(&error) => {
                    // What came next is in the archive by now, or was lost. The client does not say of
                    // which partition.
                    for (partition, (_, shared)) in present {
                        if self.assigned.contains_key(partition) {
                            shared.lose_place();
                        }
                    }
                    return;
                }
                Some(Err(error)) => {
                    self.failed(&error);
                    return;
                }
            }
        }
        if self.assigned.is_empty() {
            self.lane.sleep(TICK);
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        self.lane.told.told(error, "reading partitions of shards");
        if is_passing(error) {
            return;
        }
        let now = Instant::now();
        // One long ago was of another trouble.
        let before = self.failing.filter(|(_, last)| now - *last < ERRORS_LAST);
        let (mut since, _) = before.unwrap_or((now, now));
        if before.is_none() {
            let error = errors::text(error);
            tracing::warn!(
                topic = self.lane.topic,
                error,
                "a partition can not be read, and is tried again"
            );
        } else if now - since > ERRORS_LAST {
            since = now;
            self.fail();
        }
        self.failing = Some((since, now));
    }

    /// Everything is begun anew, after a moment.
    fn fail(&mut self) {
        self.assigned.clear();
        // In vain where the client is closing.
        let _ = self.lane.consumer.unassign();
        self.not_before = Instant::now() + PAUSE;
    }
}
