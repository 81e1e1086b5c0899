//! What the threads of one shard's handle share: its live part under a lock, and who waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::{Position, ShardId};
use gb6_core_obs::metrics::Gauge;
use gb6_core_ports::{Acquire, Acquired, Commit, Completion, Fence, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::{Archive, Live as Unarchived};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::consumer::Consumer;

use crate::chores::{Chore, Done};
use crate::cluster::Cluster;
use crate::ends;
use crate::errors;
use crate::fetch::{is_passing, is_silence, is_unknown};
use crate::lanes::Seat;
use crate::live::{Answer, Counts, Live, Outgoing};
use crate::producer::{Delivery, Receiver};
use crate::share::{Share, What};
use crate::staging::{Given, WAITING_BYTES_MAX};
use crate::tail::Tail;

/// How long an acquisition may take: reading what lies before it included.
const ACQUIRE_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a question is repeated.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a partition's leader may take to say where it ends, before it is asked who leads now, and twice
/// as long each time after: a leader that fell silent without a word stays the client's until somebody asks.
const LEADER_SAYS: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Shared {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) topic: String,
    pub(crate) shard: ShardId,
    /// What reads the partition for this handle.
    pub(crate) seat: Seat,
    /// What it has done that takes longer.
    chore: Mutex<Option<Done>>,
    /// Where the partition goes on must be found out.
    lost_place: AtomicBool,
    /// When Kafka last answered something that this handle asked, or its producer sent.
    answered: Mutex<Instant>,
    pub(crate) archive: Archive,
    state: Mutex<State>,
    answers: Mutex<Answers>,
    /// Held while something is taken from the live part and handed to the producer: in the same order.
    sending: Mutex<()>,
    /// Something was read or answered.
    changed: Condvar,
    /// The offset before which somebody wants everything to be read.
    target: AtomicU64,
    stop: AtomicBool,
    live_bytes: Gauge,
    pub(crate) share: Share,
}

struct State {
    live: Live,
    counted: Counts,
}

/// Answers that are due, in order.
#[derive(Default)]
struct Answers {
    due: VecDeque<Answer>,
    /// A thread gives answers: it gives those that come meanwhile too, so that they stay in order.
    answering: bool,
}

impl Shared {
    /// Of a shard whose archive keeps what lies from `first` up to `tail`.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        shard: ShardId,
        seat: Seat,
        archive: Archive,
        (tail, first): (Tail, Position),
    ) -> Self {
        let config = &cluster.config;
        let mut live = Live::new(
            &cluster.topic,
            shard,
            tail,
            config.timeout,
            config.cache_bytes_max,
        );
        live.first = first;
        let live_bytes = &cluster.told.metrics.live_bytes;
        Self {
            topic: cluster.topic.clone(),
            shard,
            seat,
            chore: Mutex::default(),
            lost_place: AtomicBool::new(false),
            answered: Mutex::new(Instant::now()),
            archive,
            state: Mutex::new(State {
                live,
                counted: Counts::default(),
            }),
            answers: Mutex::default(),
            sending: Mutex::new(()),
            changed: Condvar::new(),
            target: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            live_bytes: live_bytes.with(&[&shard.to_string()]),
            share: cluster.budget.share(),
            cluster,
        }
    }

    pub(crate) fn partition(&self) -> i32 {
        self.shard.0 as i32
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Begins to be read, and has `chore` done.
    ///
    /// # Errors
    /// `Io`: there is no thread for it.
    pub(crate) fn begin(self: &Arc<Self>, chore: Arc<dyn Chore>) -> Result<(), StoreError> {
        *self.chore.lock() = Some(self.cluster.chores.begin(chore)?);
        self.seat.take(self);
        Ok(())
    }

    /// Nothing is read or done for this handle any more. Waits for what is being done, unless this thread
    /// does it.
    pub(crate) fn stop(&self) {
        // Under the lock, so that nobody begins to wait meanwhile.
        {
            let _state = self.state.lock();
            self.stop.store(true, Ordering::Release);
        }
        self.changed.notify_all();
        self.seat.leave();
        let chore = self.chore.lock().take();
        drop(chore);
    }

    /// The partition does not hold what comes next: it is not read until it is known where it goes on.
    pub(crate) fn lose_place(&self) {
        self.lost_place.store(true, Ordering::Release);
        if let Some(chore) = &*self.chore.lock() {
            chore.hurry();
        }
    }

    /// Finds out where the partition goes on, where that is to be done; whether it is not known yet.
    pub(crate) fn find_place(&self, patience: Duration) -> bool {
        if !self.lost_place.load(Ordering::Acquire) {
            return false;
        }
        // The client does not say whose place it lost: most partitions of a lane have theirs, and need no
        // archive, which may be away.
        let found = match self.has_its_place(patience) {
            Ok(false) => self.jump(patience),
            had => had.map(|_| ()),
        };
        match found {
            Err(error) if error.retryable() => {
                tracing::warn!(topic = self.topic, shard = %self.shard, %error, "where the log goes on can not be told yet");
                return true;
            }
            // What else is wrong is kept with the live part.
            _ => {}
        }
        self.lost_place.store(false, Ordering::Release);
        self.seat.wake();
        false
    }

    /// Looks at the live part.
    pub(crate) fn live<T>(&self, look: impl FnOnce(&Live) -> T) -> T {
        look(&self.state.lock().live)
    }

    /// Changes the live part, then gives the answers that are due.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Live) -> T) -> T {
        let result = self.alter(change);
        self.answer();
        result
    }

    /// Changes the live part; whoever calls it lets answers be given, once it holds no lock.
    fn alter<T>(&self, change: impl FnOnce(&mut Live) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state.live);
        self.count(&mut state);
        if state.live.has_answers() {
            let mut answers = self.answers.lock();
            while let Some(answer) = state.live.answer() {
                answers.due.push_back(answer);
            }
        }
        let look = state.live.waits_for_others();
        drop(state);
        self.changed.notify_all();
        if look {
            self.seat.wake();
        }
        result
    }

    /// Gives answers, one by one and in order, without a lock: who gets one may ask for more.
    fn answer(&self) {
        let mut answers = self.answers.lock();
        if answers.answering {
            return;
        }
        answers.answering = true;
        while let Some(answer) = answers.due.pop_front() {
            MutexGuard::unlocked(&mut answers, || {
                if let Answer::Commit(_, Ok(commit)) = &answer {
                    let seconds = commit.elapsed_us as f64 / 1e6;
                    self.cluster.told.metrics.commit_seconds.observe(seconds);
                }
                // A defect of whoever is answered costs nobody else an answer; the panic itself reported it.
                let give = std::panic::AssertUnwindSafe(|| answer.give());
                if std::panic::catch_unwind(give).is_err() {
                    tracing::error!(topic = self.topic, shard = %self.shard, "who was answered by the log panicked");
                }
            });
        }
        answers.answering = false;
    }

    fn count(&self, state: &mut State) {
        let (now, told) = (state.live.counts, state.counted);
        if now == told {
            return;
        }
        let metrics = &self.cluster.told.metrics;
        metrics.fenced.inc_by(now.fenced - told.fenced);
        metrics
            .passed_over
            .inc_by(now.passed_over - told.passed_over);
        metrics.foreign.inc_by(now.foreign - told.foreign);
        state.counted = now;
    }

    pub(crate) fn acquire(
        self: &Arc<Self>,
        fence: Fence,
        acquire: Acquire,
        done: Completion<Acquired>,
    ) {
        let sending = self.sending.lock();
        let now = Instant::now();
        let outgoing = self.alter(|live| live.acquire(fence, acquire, now, ACQUIRE_PATIENCE, done));
        if let Some(outgoing) = outgoing {
            self.send(outgoing);
        }
        drop(sending);
        self.answer();
    }

    pub(crate) fn append(
        self: &Arc<Self>,
        fence: &Fence,
        batch: Vec<Record>,
        done: Completion<Commit>,
    ) {
        // Encoded before anybody waits for it.
        let batch = Given::new(fence, batch);
        self.go_on(|live| live.append(fence, batch, Instant::now(), done));
    }

    /// As [`Shared::change`], and what can be produced then is.
    fn go_on(self: &Arc<Self>, change: impl FnOnce(&mut Live)) {
        let has_outgoing = self.alter(|live| {
            change(live);
            live.has_outgoing()
        });
        if has_outgoing {
            let _sending = self.sending.lock();
            while let Some(outgoing) = self.outgoing() {
                self.send(outgoing);
            }
        }
        self.answer();
    }

    fn outgoing(&self) -> Option<Outgoing> {
        self.state.lock().live.outgoing()
    }

    /// Hands a message to the producer.
    fn send(self: &Arc<Self>, Outgoing { token, message }: Outgoing) {
        let delivery = Delivery {
            receiver: self.clone(),
            token,
        };
        let producer = &self.cluster.producer;
        if let Err(error) = producer.send(&self.topic, self.partition(), &message, delivery) {
            self.alter(|live| live.failed(token, &error));
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&self, now: Instant) {
        let cache_max = self.cluster.config.cache_bytes_max;
        let cached_max = self.share.of(What::Cached, cache_max);
        let waiting_max = self.share.of(What::Waiting, WAITING_BYTES_MAX);
        let (bytes, cached, waiting) = self.change(|live| {
            live.expire(now);
            live.bound(cached_max, waiting_max);
            (
                live.kept().live_bytes(),
                live.kept().cache_bytes(),
                live.waiting_bytes(),
            )
        });
        self.share.uses(What::Cached, cached);
        self.share.uses(What::Waiting, waiting);
        self.live_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn reachable(&self, error: Option<StoreError>) {
        self.state.lock().live.reachable(error);
    }

    /// Whether the partition is to be read: unless it is this handle alone that writes to it.
    pub(crate) fn wants_to_read(&self, quiet: Duration) -> bool {
        let target = self.target.load(Ordering::Acquire);
        self.live(|live| {
            let writes = live.wrote.is_some_and(|wrote| wrote.elapsed() < quiet);
            live.check_whole().is_ok()
                && !self.lost_place.load(Ordering::Acquire)
                && (!live.is_owner()
                    || !writes
                    || live.waits_for_others()
                    || target > live.tail().offset)
        })
    }

    /// Whether something lies in the partition that is not read yet.
    pub(crate) fn expects_more(&self) -> bool {
        let target = self.target.load(Ordering::Acquire);
        self.live(|live| live.waits_for_others() || target > live.tail().offset)
    }

    pub(crate) fn next_offset(&self) -> u64 {
        self.live(|live| live.tail().offset)
    }

    /// The partition holds a message.
    pub(crate) fn seen(self: &Arc<Self>, offset: u64, message: Bytes) {
        self.go_on(|live| {
            // What is wrong with it is kept with the live part, and told to who asks.
            let _ = live.seen(offset, message, Instant::now());
        });
    }

    /// The offsets of the first message of the partition and of the next one.
    pub(crate) fn watermarks(&self, timeout: Duration) -> Result<(u64, u64), StoreError> {
        let deadline = Instant::now() + timeout;
        let mut patience = LEADER_SAYS;
        let (low, high) = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let consumer = self.seat.consumer();
            let answer =
                consumer.fetch_watermarks(&self.topic, self.partition(), left.min(patience));
            match answer {
                Ok(found) => break found,
                Err(error) if is_silence(&error) && left > patience => {
                    // Where nobody answers, the next question fails too.
                    let asks = patience.min(left - patience);
                    let _ = consumer.fetch_metadata(Some(&self.topic), asks);
                    patience *= 2;
                }
                // While a partition gets another leader, or not every broker knows a new topic.
                Err(error) if (is_passing(&error) || is_unknown(&error)) && left > AGAIN => {
                    std::thread::sleep(AGAIN);
                }
                Err(error) => {
                    return Err(errors::unavailable(
                        "the partition's end can not be asked",
                        &error,
                    ));
                }
            }
        };
        self.heard();
        let number = |offset| u64::try_from(offset).unwrap_or(0);
        Ok((number(low), number(high)))
    }

    /// Kafka has answered.
    fn heard(&self) {
        *self.answered.lock() = Instant::now();
    }

    /// As [`gb6_core_ports::ShardLog::silence`].
    pub(crate) fn silence(&self) -> Duration {
        let answered = *self.answered.lock();
        let read = self.seat.heard();
        read.map_or(answered, |read| read.max(answered)).elapsed()
    }

    /// Waits until everything that is in the partition now has been read.
    pub(crate) fn catch_up(&self, patience: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + patience;
        let (_, high) = self.watermarks(patience)?;
        self.target.fetch_max(high, Ordering::AcqRel);
        let mut state = self.state.lock();
        loop {
            state.live.check_whole()?;
            if state.live.tail().offset >= high {
                return Ok(());
            }
            if self.is_stopped() {
                return Err(StoreError::Closed);
            }
            self.seat.wake();
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(StoreError::Unavailable {
                    cause: format!(
                        "the partition could not be read to its end within {patience:?}"
                    ),
                });
            }
        }
    }

    /// As [`gb6_core_ports::ShardLog::confirm`].
    pub(crate) fn confirm(self: &Arc<Self>, fence: &Fence) -> Result<(), StoreError> {
        let timeout = self.cluster.config.timeout;
        let deadline = Instant::now() + timeout;
        let sending = self.sending.lock();
        let outgoing = self.alter(|live| live.confirm(fence))?;
        let token = outgoing.token;
        self.send(outgoing);
        drop(sending);
        self.answer();
        let mut state = self.state.lock();
        let answer = loop {
            if let Some(answer) = state.live.confirmed(token) {
                break answer;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break Err(StoreError::Unavailable {
                    cause: format!("Kafka did not show within {timeout:?} who owns the shard"),
                });
            }
        };
        state.live.forget_confirm(token);
        answer
    }

    /// Whether nothing that is in the partition now, as far as its leader says, deposes `fence`: for what
    /// is fenced in the archive too.
    pub(crate) fn look(&self, fence: &Fence) -> Result<(), StoreError> {
        self.live(|live| live.check(fence))?;
        self.catch_up(self.cluster.config.timeout)?;
        self.live(|live| live.check(fence))
    }

    /// Whether what is read next lies within what Kafka holds, or at its end.
    fn has_its_place(&self, patience: Duration) -> Result<bool, StoreError> {
        let read = self.next_offset();
        let (low, high) = self.watermarks(patience)?;
        Ok((low..=high).contains(&read))
    }

    /// The partition no longer holds, or does not hold yet, what comes next: goes on behind the archive.
    pub(crate) fn jump(&self, patience: Duration) -> Result<(), StoreError> {
        // In this order: Kafka's end is asked after what is held against it was read there, and the archive
        // after Kafka's beginning, for what is deleted was archived before.
        let read = self.next_offset();
        let (low, high) = self.watermarks(patience)?;
        self.refresh()?;
        let next = self.next_offset();
        let lost = |detail: String| StoreError::Corrupt {
            segment: self.topic.clone(),
            byte: next,
            position: self.live(|live| live.tail().next),
            detail,
        };
        let whole = if next < low {
            Err(lost(format!(
                "Kafka holds it from offset {low} on, and the archive ends before: records are lost"
            )))
        } else {
            let proven = || ends::proven(&self.cluster, self.shard, self.cluster.config.timeout);
            ends::check(read, high, proven, |end| {
                lost(format!(
                    "Kafka ends at offset {end}: the topic was made anew, or lost what it had acknowledged"
                ))
            })
        };
        match whole {
            Err(error) if !error.retryable() => {
                self.change(|live| live.breaks(error.clone()));
                Err(error)
            }
            whole => whole,
        }
    }

    /// Learns what others have archived.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        self.archive.refresh()?;
        self.adopt(None)
    }

    /// What is archived by now is read from there. `bytes` is what the live part said of its end, if it
    /// did.
    pub(crate) fn adopt(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        let (tail, first) = resume(&self.archive)?;
        self.change(|live| {
            if tail.offset > live.kept().begin().offset {
                live.archived(tail, bytes);
            }
            live.first = live.first.max(first);
        });
        Ok(())
    }

    /// Waits until nothing of this handle waits for its answer.
    pub(crate) fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.live.is_waiting() && !self.changed.wait_until(&mut state, deadline).timed_out()
        {
        }
    }

    /// What does not lie in the archive.
    pub(crate) fn unarchived(&self) -> Unarchived {
        self.live(|live| Unarchived {
            next: live.tail().next,
            bytes: live.kept().live_bytes(),
        })
    }

    /// The first position that does not lie in the archive.
    pub(crate) fn live_from(&self) -> Position {
        self.live(|live| live.kept().begin().next)
    }
}

impl Receiver for Shared {
    fn delivered(self: Arc<Self>, token: u64, result: Result<u64, StoreError>) {
        if result.is_ok() {
            self.heard();
        }
        self.go_on(|live| match result {
            // What is wrong with the log is kept with the live part, and told to who asks.
            Ok(offset) => {
                let _ = live.delivered(token, offset, Instant::now());
            }
            Err(error) => live.failed(token, &error),
        });
    }
}

/// Where the log goes on behind an archive, and the first position that the archive keeps.
pub(crate) fn resume(archive: &Archive) -> Result<(Tail, Position), StoreError> {
    let (range, bytes) = archive.end();
    if bytes.is_empty() {
        return Ok((Tail::default(), range.first));
    }
    let tail = Tail::decode(&bytes).filter(|tail| tail.next == range.next);
    let found = tail.map(|tail| (tail, range.first));
    found.ok_or_else(|| StoreError::Conflict {
        what: "the archive of this shard does not say where it goes on in Kafka: it was made by another \
               engine of logs"
            .into(),
    })
}
