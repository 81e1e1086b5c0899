//! A clock of nodes that a test sets forward: so much time passes for leases, and for the silence of logs,
//! as nodes have done what they do in it, however slow the machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gb6_region_node::Clock;

use crate::edge::PATIENCE;

/// How far it is set forward at once: as often as nodes rewrite their records.
const STEP: Duration = Duration::from_millis(300);

/// It goes on by itself too.
#[derive(Clone)]
pub(crate) struct TestClock {
    began: Instant,
    ahead_ms: Arc<AtomicU64>,
}

impl TestClock {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            ahead_ms: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    /// As nodes read it.
    pub(crate) fn of_nodes(&self) -> Clock {
        let clock = self.clone();
        Clock::by(move || clock.now())
    }

    /// Goes one step forward, and waits until every number that `acts` gives has changed since: whoever it
    /// is of has done something in the new time.
    pub(crate) fn step<const N: usize>(&self, acts: impl Fn() -> [u64; N]) {
        let before = acts();
        let step = STEP.as_millis() as u64;
        self.ahead_ms.fetch_add(step, Ordering::SeqCst);
        let began = Instant::now();
        while acts()
            .iter()
            .zip(&before)
            .any(|(now, before)| now == before)
        {
            assert!(began.elapsed() < PATIENCE, "a node does nothing any more");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets so much time pass, in steps.
    pub(crate) fn pass<const N: usize>(&self, time: Duration, acts: impl Fn() -> [u64; N]) {
        let until = self.now() + time;
        while self.now() < until {
            self.step(&acts);
        }
    }
}
