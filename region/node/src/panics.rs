//! What a panic of a part that runs for long costs: that part's work of the moment, and nothing else.
//!
//! A panic is a defect of ours, or of an engine's client. The part reports it, is not ready until it does
//! something well again, and goes on after a pause that grows. What can not go on without a lie, such as
//! what decides which shards are this node's, ends the node instead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use gb6_core_obs::health::{Component, Health};
use gb6_core_obs::metrics::{Counter, CounterFamily, Label, Metrics};
use gb6_core_ports::StoreError;
use parking_lot::Mutex;

/// Kinds of parts that are told apart.
const PARTS_MAX: usize = 16;
/// The pause after the first of several panics that follow each other.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where panics are told. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Panics {
    total: CounterFamily,
    health: Health,
}

impl Panics {
    pub(crate) fn new(metrics: &Metrics, health: &Health) -> Self {
        Self {
            total: metrics.counter_family(
                "gb6_region_panics_total",
                "Panics of parts of the region that run for long: defects. All but `assignments`, with which the node ends, are begun again.",
                &[Label::new("part", PARTS_MAX)],
            ),
            health: health.clone(),
        }
    }

    /// Counts a panic of a part of this kind.
    pub(crate) fn count(&self, part: &'static str) {
        self.total.with(&[part]).inc();
    }

    /// One part: of a kind, for the metric, and `name`, for people.
    pub(crate) fn guard(&self, part: &'static str, name: String) -> Guard {
        Guard {
            panics: self.total.with(&[part]),
            health: self.health.clone(),
            name,
            trouble: Mutex::default(),
        }
    }
}

/// Looks after one part.
pub(crate) struct Guard {
    panics: Counter,
    health: Health,
    name: String,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    /// What says that the part is not ready, after a panic.
    component: Option<Component>,
    pause: Duration,
}

impl Guard {
    /// Does a piece of the part's work. A panic is told, and answered as an error that is worth another
    /// attempt.
    pub(crate) fn run<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.done(catch_unwind(AssertUnwindSafe(work)).ok())
    }

    /// As [`Guard::run`], of work that waits.
    pub(crate) async fn run_async<T, E: From<StoreError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.done(AssertUnwindSafe(work).catch_unwind().await.ok())
    }

    /// How long to pause before the next attempt, beside what the part does after any error: zero where
    /// the last one did not panic.
    pub(crate) fn pause(&self) -> Duration {
        self.trouble.lock().pause
    }

    /// The part does what it is for. A piece of work that ends well says so by itself.
    pub(crate) fn works(&self) {
        let mut trouble = self.trouble.lock();
        trouble.pause = Duration::ZERO;
        if let Some(component) = trouble.component.take() {
            component.retire();
            tracing::info!(part = self.name, "what panicked works again");
        }
    }

    fn done<T, E: From<StoreError>>(&self, done: Option<Result<T, E>>) -> Result<T, E> {
        match done {
            Some(Ok(done)) => {
                self.works();
                Ok(done)
            }
            // It says nothing of the defect.
            Some(Err(error)) => {
                self.trouble.lock().pause = Duration::ZERO;
                Err(error)
            }
            None => Err(self.panicked().into()),
        }
    }

    fn panicked(&self) -> StoreError {
        self.panics.inc();
        let mut trouble = self.trouble.lock();
        trouble.pause = (trouble.pause * 2).clamp(PAUSE, PAUSE_MAX);
        // The panic itself was reported where it happened.
        tracing::error!(part = self.name, again_in = ?trouble.pause, "a part of the region panicked, which is a defect; it begins again");
        let component = trouble
            .component
            .get_or_insert_with(|| self.health.register(&self.name));
        component.not_ready("it panicked, and begins again: the log of this node says where");
        StoreError::Unavailable {
            cause: format!("{} panicked", self.name),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // What has ended keeps nobody from being ready.
        if let Some(component) = self.trouble.lock().component.take() {
            component.retire();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::panic, reason = "panics are what is looked after")]
    fn a_panic_is_told_and_paused_after_until_something_goes_well() {
        let (metrics, health) = (Metrics::bare(), Health::new());
        let other = health.register("other");
        other.ready();
        let guard = Panics::new(&metrics, &health).guard("standby", "standby of eu/3".into());
        let well = |guard: &Guard| guard.run(|| Ok::<_, StoreError>(7));
        assert_eq!(well(&guard), Ok(7));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let answer = guard.run(|| -> Result<(), StoreError> { panic!("a defect") });
            let answer = answer.expect_err("it panicked");
            assert!(answer.to_string().contains("standby of eu/3 panicked"));
            pauses.push(guard.pause().as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        let told = r#"gb6_region_panics_total{part="standby"} 8"#;
        assert!(metrics.text().contains(told), "{}", metrics.text());
        let not_ready = |health: &Health| health.now().not_ready().contains_key("standby of eu/3");
        assert!(not_ready(&health));
        let failed = guard.run(|| {
            Err::<(), _>(StoreError::Unavailable {
                cause: "another".into(),
            })
        });
        assert!(failed.is_err() && guard.pause().is_zero() && not_ready(&health));
        assert_eq!(well(&guard), Ok(7));
        assert!(health.now().is_ready(), "it works again");
        let ended = guard.run(|| -> Result<(), StoreError> { panic!("a defect") });
        assert!(ended.is_err() && !health.now().is_ready());
        drop(guard);
        assert!(health.now().is_ready(), "it has ended");
    }
}
