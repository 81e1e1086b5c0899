//! A log whose answers are about something else than what it was given: no acknowledgement may come
//! of one (invariant A4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gb6_core_model::Position;
use gb6_core_model::snapshot::Namespace;
use gb6_core_obs::Invariant;
use gb6_core_obs::invariant::violations;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, Fence, LogLayer, RetentionPlan, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;
use parking_lot::{Condvar, Mutex};

use crate::edge::{Machine, PATIENCE};

/// What goes wrong with the logs of a machine, and what is seen of it.
#[derive(Default)]
pub(crate) struct Faults {
    /// While set, answers to appends name one position more than was written.
    pub(crate) lies: AtomicBool,
    /// How often a log was asked for.
    pub(crate) acquires: AtomicUsize,
    /// Set: the writer of the log that is open ends with the next batch.
    pub(crate) ends: AtomicBool,
    /// Set: it ends with the next trim.
    pub(crate) ends_in_trim: AtomicBool,
    /// Set: the next read of single records keeps what it has read until it is let go.
    pub(crate) holds: AtomicBool,
    held: Mutex<bool>,
    let_go: Condvar,
    /// Set: the next plan of retention takes its time.
    pub(crate) slow_plan: AtomicBool,
    /// Whether it does.
    pub(crate) planning: AtomicBool,
    /// Retention runs that have done what was asked for.
    pub(crate) planned: AtomicUsize,
}

impl Faults {
    /// Whether a read has its records and is held.
    pub(crate) fn is_holding(&self) -> bool {
        *self.held.lock()
    }

    /// Lets it go.
    pub(crate) fn let_go(&self) {
        *self.held.lock() = false;
        self.let_go.notify_all();
    }

    fn read(&self) {
        if self.holds.swap(false, Ordering::SeqCst) {
            let mut held = self.held.lock();
            *held = true;
            self.let_go
                .wait_while_for(&mut held, |held| *held, 2 * PATIENCE);
        }
    }
}

/// A log that is as good as the one below it, but for its faults.
pub(crate) struct LyingLog {
    below: Arc<dyn ShardLog>,
    faults: Arc<Faults>,
    ended: AtomicBool,
}

impl LyingLog {
    pub(crate) fn new(below: Arc<dyn ShardLog>, faults: Arc<Faults>) -> Self {
        Self {
            below,
            faults,
            ended: AtomicBool::new(false),
        }
    }
}

impl LogLayer for LyingLog {
    fn below(&self) -> &dyn ShardLog {
        &*self.below
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        if self.ended.load(Ordering::SeqCst) {
            return done.finish(Err(StoreError::Closed));
        }
        if self.faults.ends.swap(false, Ordering::SeqCst) {
            self.ended.store(true, Ordering::SeqCst);
            return drop(done);
        }
        let faults = self.faults.clone();
        let answer = move |mut answer: Result<Commit, StoreError>| {
            if let (Ok(commit), true) = (&mut answer, faults.lies.load(Ordering::SeqCst)) {
                commit.next += 1;
            }
            done.finish(answer);
        };
        self.below.append(fence, batch, Completion::new(answer));
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        self.faults.acquires.fetch_add(1, Ordering::SeqCst);
        if self.ended.load(Ordering::SeqCst) {
            return done.finish(Err(StoreError::Closed));
        }
        self.below.acquire(fence, acquire, done);
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        let records = self.below.read_at(positions);
        self.faults.read();
        records
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        if self.faults.ends_in_trim.swap(false, Ordering::SeqCst) {
            self.ended.store(true, Ordering::SeqCst);
        }
        if self.ended.load(Ordering::SeqCst) {
            return Err(StoreError::OutcomeUnknown {
                cause: "the writer has ended".into(),
            });
        }
        self.below.trim(fence, to)
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.faults.planned.fetch_add(1, Ordering::SeqCst);
        if self.faults.slow_plan.swap(false, Ordering::SeqCst) {
            self.faults.planning.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(500));
            self.faults.planning.store(false, Ordering::SeqCst);
        }
        self.below.plan_retention(first_kept, settled)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_about_something_else_acknowledges_nothing() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    let before = violations(Invariant::AckAfterCommit);
    machine.faults.lies.store(true, Ordering::SeqCst);
    let answer = edge.try_publish(1, 2, "2".into()).await;
    assert_eq!(answer, None, "the stream ends instead");
    // With debug assertions the actor panics, without them it counts; the log is read again.
    let counted = violations(Invariant::AckAfterCommit) - before;
    assert_eq!(counted, u64::from(!cfg!(debug_assertions)));
    machine.faults.lies.store(false, Ordering::SeqCst);
    drop(edge);
    region.drain().await;
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let resent = edge.publish(1, 2, "2".into()).await;
    assert_eq!(resent, (2, 0), "it was written, and its resend finds it");
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_writer_has_ended_is_opened_again() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    machine.faults.ends.store(true, Ordering::SeqCst);
    let answer = edge.try_publish(1, 2, "2".into()).await;
    assert_eq!(answer, None, "the stream ends instead");
    drop(edge);
    let mut edge = machine.edge_again("e1").await;
    assert_eq!(edge.publish(1, 2, "2".into()).await, (2, 0));
    region.drain().await;
}

/// Nobody publishes, so that no batch finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_writer_has_ended_in_a_trim_is_opened_again() {
    let mut machine = Machine::new(Namespace::default());
    machine.config.retention_interval = Duration::from_millis(1);
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    machine.faults.ends_in_trim.store(true, Ordering::SeqCst);
    while edge.next().await.is_some() {}
    drop(edge);
    let mut edge = machine.edge_again("e1").await;
    assert_eq!(edge.publish(1, 2, "2".into()).await, (2, 0));
    region.drain().await;
}
