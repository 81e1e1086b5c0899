//! A standby: follows the log of a shard that another node owns, so that a takeover reads only what it
//! has not seen. It takes as much memory as owning the shard does.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::{Metrics, Registration};
use gb6_core_ports::{ShardLog, StoreError};
use gb6_core_wire::mesh::ShardRef;
use parking_lot::Mutex;

use crate::catch_ups::{May, Turn};
use crate::keeper::{NodeParts, bound_batches, machine_config};
use crate::lease::Clock;
use crate::news::{News, NewsBox};
use crate::panics::Guard;
use crate::recovery::{RecoveryError, Replay};
use crate::trouble::{BEHIND, LASTS};

/// How often it is looked whether the follower is to end.
const STEP: Duration = Duration::from_millis(10);
/// How often a follower that has caught up says so.
const TELL_AGAIN: Duration = Duration::from_millis(300);
/// Pause before a log that could not be read is opened again.
const RETRY: Duration = Duration::from_millis(500);

/// A log, and what was read of it.
type Followed = (Arc<dyn ShardLog>, Replay);

/// A standby that follows, on a thread of its own. Ends when dropped.
pub(crate) struct Follower {
    stop: Arc<AtomicBool>,
    /// Somebody wants what was followed.
    taken: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Followed>>>,
    hearing: Arc<Hearing>,
    lag: Arc<Lag>,
    _metrics: Registration,
}

/// When the log last answered.
struct Hearing {
    clock: Clock,
    heard: Mutex<Heard>,
}

struct Heard {
    /// Or when the follower began.
    last: Duration,
    answered: bool,
}

impl Hearing {
    fn new(clock: Clock) -> Arc<Self> {
        let heard = Heard {
            last: clock.now(),
            answered: false,
        };
        Arc::new(Self {
            clock,
            heard: Mutex::new(heard),
        })
    }

    /// Asks the log, which answers from what it knows.
    fn hear(&self, log: &dyn ShardLog) -> Duration {
        let silence = log.silence();
        let mut heard = self.heard.lock();
        heard.answered = true;
        if let Some(last) = self.clock.now().checked_sub(silence) {
            heard.last = heard.last.max(last);
        }
        silence
    }

    /// For so long nobody asked it, since others were to be read.
    fn excuse(&self, waited: Duration) {
        let mut heard = self.heard.lock();
        heard.last = (heard.last + waited).min(self.clock.now());
    }

    /// Whether it has answered of late; `None`: it is asked for the first time.
    fn answers(&self) -> Option<bool> {
        let heard = self.heard.lock();
        let recent = self.clock.now().saturating_sub(heard.last) < LASTS;
        (heard.answered || !recent).then_some(recent)
    }
}

/// What is shown of a standby.
#[derive(Default)]
struct Lag {
    /// Records that it has not read.
    behind: AtomicU64,
    next: AtomicU64,
    errors: AtomicU64,
    caught_up: AtomicBool,
}

impl Lag {
    /// So far it has been read.
    fn read(&self, replay: &Replay) {
        let behind = replay.end.saturating_sub(replay.next);
        self.behind.store(behind, Ordering::Relaxed);
        self.next.store(replay.next, Ordering::Relaxed);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Follower {
    /// Begins to follow a shard.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(
        node: &Arc<NodeParts>,
        shard: ShardRef,
        news: Arc<NewsBox>,
    ) -> Result<Self, StoreError> {
        let (stop, taken) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let lag = Arc::new(Lag::default());
        let hearing = Hearing::new(node.config.clock.clone());
        let registration = export(&node.deps.metrics, shard.shard, lag.clone());
        let name = format!("standby of shard {}/{}", shard.region, shard.shard);
        let following = Following {
            guard: node.panics.guard("standby", name),
            node: node.clone(),
            shard,
            news,
            stop: stop.clone(),
            taken: taken.clone(),
            lag: lag.clone(),
            hearing: hearing.clone(),
        };
        let name = format!("standby-{}", following.shard.shard);
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || following.run())
            .map_err(|error| StoreError::Io {
                operation: "start the thread",
                path: name,
                detail: error.to_string(),
            })?;
        Ok(Self {
            stop,
            taken,
            thread: Some(thread),
            hearing,
            lag,
            _metrics: registration,
        })
    }

    /// Whether the log has answered of late; `None`: that is not known yet.
    pub(crate) fn log_answers(&self) -> Option<bool> {
        self.hearing.answers()
    }

    /// Whether it has read the log to its end, a moment ago.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.lag.caught_up.load(Ordering::Relaxed)
    }

    /// Ends following: the log and what was read of it; `None` where it could not be read. Blocks for
    /// as long as a page takes to be read.
    pub(crate) fn take(mut self) -> Option<Followed> {
        self.taken.store(true, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        // A thread that panicked, which it reported, has followed nothing.
        self.thread.take()?.join().ok().flatten()
    }
}

struct Following {
    guard: Guard,
    node: Arc<NodeParts>,
    shard: ShardRef,
    news: Arc<NewsBox>,
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicBool>,
    lag: Arc<Lag>,
    hearing: Arc<Hearing>,
}

impl Following {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits; whether the follower is to end.
    fn wait(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while !self.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(STEP));
        }
        true
    }

    fn run(self) -> Option<Followed> {
        loop {
            let mut caught_up = false;
            match self.guard.run(|| self.follow(&mut caught_up)) {
                // What nobody wants is closed here: it may wait for the runtime that the follower was
                // dropped on.
                Ok(followed) => return followed.filter(|_| self.taken.load(Ordering::SeqCst)),
                Err(error) => {
                    self.lag.errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(region = self.shard.region, shard = self.shard.shard, %error, "the log of a shard can not be followed, and is read again");
                }
            }
            if caught_up {
                self.tell(false);
            }
            if self.wait(RETRY.max(self.guard.pause())) {
                return None;
            }
        }
    }

    fn tell(&self, caught_up: bool) {
        self.lag.caught_up.store(caught_up, Ordering::Relaxed);
        let shard = self.shard.shard;
        self.news.push(News::CaughtUp { shard, caught_up });
    }

    /// Waits until the log may be read; whether the follower is to end.
    fn wait_for(&self, turn: &Turn, log: Option<&dyn ShardLog>) -> bool {
        let clock = &self.node.config.clock;
        let mut looked = clock.now();
        while let May::Wait { others_read } = turn.may() {
            if self.wait(STEP) {
                return true;
            }
            let now = clock.now();
            match log {
                Some(log) => {
                    self.hearing.hear(log);
                }
                // Where nobody reads anything it may be lost for all.
                None if others_read => self.hearing.excuse(now.saturating_sub(looked)),
                None => {}
            }
            looked = now;
        }
        self.is_over()
    }

    /// Follows until it is to end: what was read, where that was begun.
    fn follow(&self, caught_up: &mut bool) -> Result<Option<Followed>, RecoveryError> {
        let turn = self.node.catch_ups.come();
        if self.wait_for(&turn, None) {
            return Ok(None);
        }
        let mut turn = Some(turn);
        let log = (self.node.deps.open_log)(ShardId(self.shard.shard))?;
        let mut machine = machine_config(&self.node.config, &self.shard);
        bound_batches(&mut machine, &log.caps());
        let mut snapshot = self.node.deps.snapshot.borrow().clone();
        let hear = || {
            self.hearing.hear(&*log);
        };
        let mut replay = Replay::begin(&log, &machine, &snapshot, hear)?;
        self.lag.read(&replay);
        let mut told = Instant::now();
        loop {
            // By its rules what follows is kept.
            let newest = self.node.deps.snapshot.borrow().clone();
            if !Arc::ptr_eq(&newest, &snapshot) {
                snapshot = newest;
                replay.shard.set_snapshot(snapshot.clone());
            }
            let mut more = true;
            while more && !self.is_over() {
                if let Some(turn) = &turn
                    && self.wait_for(turn, Some(&*log))
                {
                    break;
                }
                more = replay.read_page(&log)?;
                self.hearing.hear(&*log);
                if let Some(turn) = &turn {
                    turn.reads();
                }
                // It concerns the index, which its owner keeps.
                while replay.shard.poll_output().is_some() {}
                self.lag.read(&replay);
            }
            if self.is_over() {
                return Ok(Some((log, replay)));
            }
            // From now on only what is new is read.
            turn = None;
            // What was read to its end may be what was fetched before the log was lost.
            let behind = self.hearing.hear(&*log) >= BEHIND;
            if behind && std::mem::take(caught_up) {
                self.tell(false);
            }
            // Whoever does not say it again is no longer taken to have caught up.
            if !behind && (!*caught_up || told.elapsed() >= TELL_AGAIN) {
                *caught_up = true;
                self.guard.works();
                told = Instant::now();
                self.tell(true);
            }
            if self.wait(self.node.config.standby_look) {
                return Ok(Some((log, replay)));
            }
            let end = log.range()?.next;
            let behind = end.saturating_sub(replay.next);
            self.lag.behind.store(behind, Ordering::Relaxed);
        }
    }
}

/// Shows how far a standby is.
fn export(metrics: &Metrics, shard: u32, lag: Arc<Lag>) -> Registration {
    let shard = shard.to_string();
    metrics.collect(move |out| {
        let labels = [("shard", shard.as_str())];
        out.gauge(
            "gb6_standby_lag_records",
            "Records of a followed shard's log that this standby had not read when it last looked.",
            &labels,
            lag.behind.load(Ordering::Relaxed) as f64,
        );
        out.gauge(
            "gb6_standby_caught_up",
            "1 while a standby can take its shard over: it has read the log to its end, and the log answers.",
            &labels,
            f64::from(u8::from(lag.caught_up.load(Ordering::Relaxed))),
        );
        out.gauge(
            "gb6_standby_position",
            "The position that a standby reads next.",
            &labels,
            lag.next.load(Ordering::Relaxed) as f64,
        );
        out.counter(
            "gb6_standby_errors_total",
            "How often the log of a followed shard could not be read, and was begun again.",
            &labels,
            lag.errors.load(Ordering::Relaxed),
        );
    })
}
