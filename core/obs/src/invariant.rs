//! Named invariants that are checked while a node runs. A violation panics in tests and in builds
//! with debug assertions; in a release build it is counted and logged, and the node goes on, so
//! the caller must still do something safe with what it found.
//!
//! A name stands here only if something checks it: a counter that nothing can raise is no alarm.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::Samples;

macro_rules! invariants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// What must always hold, by name. The numbers A1 to A8 are those of
        /// `docs/architecture.md`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Invariant { $($(#[$doc])* $variant,)+ }

        impl Invariant {
            /// Every invariant.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$variant,)+];

            /// Its name in metrics and logs.
            pub fn name(self) -> &'static str {
                match self { $(Invariant::$variant => $name,)+ }
            }
        }
    };
}

invariants! {
    /// A4: a publish is answered with an offset only after its record is durable. Checked on every
    /// commit and every acknowledgement of a region.
    AckAfterCommit = "ack_after_commit";
    /// A5: nothing waits in a queue beyond its bound. Checked where an edge takes from its queues,
    /// and on every report of the machines' own sums.
    QueueWithinBound = "queue_within_bound";
    /// A7: what belongs to one instance never reaches another. Checked on every request of a
    /// session and on every frame that a room hands to one.
    InstanceIsolation = "instance_isolation";
    /// A8: within a room record time never falls. Checked on every committed message.
    RecordTime = "record_time";
    /// A room's offsets are consecutive. Checked on every committed message.
    OffsetsConsecutive = "offsets_consecutive";
    /// Nothing is committed under another ownership than the one that serves. Checked on every
    /// commit.
    CommittedUnderFence = "committed_under_fence";
    /// Positions in a shard's log are consecutive. Checked on every commit.
    PositionsConsecutive = "positions_consecutive";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

static VIOLATIONS: [AtomicU64; Invariant::ALL.len()] =
    [const { AtomicU64::new(0) }; Invariant::ALL.len()];

type Seen = [u64; Invariant::ALL.len()];

thread_local! {
    static COUNTED: Cell<Option<Seen>> = const { Cell::new(None) };
}

/// See [`counted`].
#[derive(Debug)]
pub struct Counted {
    before: Option<Seen>,
}

impl Counted {
    /// Violations on this thread since [`counted`] was called.
    pub fn of(&self, invariant: Invariant) -> u64 {
        COUNTED.get().map_or(0, |seen| seen[invariant as usize])
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNTED.set(self.before);
    }
}

/// Until the guard is dropped, violations on this thread are counted as in a release build: for
/// tests of what a node does after one.
#[must_use]
pub fn counted() -> Counted {
    Counted {
        before: COUNTED.replace(Some([0; Invariant::ALL.len()])),
    }
}

/// How often `invariant` was violated in this process without a panic.
pub fn violations(invariant: Invariant) -> u64 {
    VIOLATIONS[invariant as usize].load(Ordering::Relaxed)
}

/// Reports a violation: the target of [`check_invariant!`](crate::check_invariant). Panics when
/// `strict`, unless this thread is to count, otherwise counts it and logs the 1st, 2nd, 4th, 8th … of its kind, so that a broken
/// invariant on a hot path does not fill the disk.
///
/// # Panics
/// When `strict` and not under [`counted`].
#[cold]
#[inline(never)]
#[track_caller]
pub fn violated(invariant: Invariant, strict: bool, what: fmt::Arguments<'_>) {
    let seen = COUNTED.get();
    assert!(
        !strict || seen.is_some(),
        "invariant {invariant} violated: {what}"
    );
    if let Some(mut seen) = seen {
        seen[invariant as usize] += 1;
        COUNTED.set(Some(seen));
    }
    let count = VIOLATIONS[invariant as usize].fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_power_of_two() {
        let place = std::panic::Location::caller();
        tracing::error!(%invariant, count, %place, "invariant violated: {what}");
    }
}

/// Checks an invariant: `check_invariant!(Invariant::RecordTime, a <= b, "time fell from {a} to
/// {b}")`. Gives whether it holds, so that the caller can refuse to go on. A violation panics in
/// tests and with debug assertions, and is counted in `gb6_invariant_violations_total` otherwise.
#[macro_export]
macro_rules! check_invariant {
    ($invariant:expr, $holds:expr, $($what:tt)+) => {{
        let holds: bool = $holds;
        if !holds {
            $crate::invariant::violated(
                $invariant,
                cfg!(any(test, debug_assertions)),
                ::core::format_args!($($what)+),
            );
        }
        holds
    }};
}

pub(crate) fn collect(out: &mut Samples) {
    for invariant in Invariant::ALL {
        out.counter(
            "gb6_invariant_violations_total",
            "Violations of a named invariant: anything but 0 is a bug in GB6.",
            &[("invariant", invariant.name())],
            violations(*invariant),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn names_are_unique_label_values() {
        let mut names: Vec<_> = Invariant::ALL.iter().map(|i| i.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Invariant::ALL.len());
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
    }

    #[test]
    fn what_holds_passes() {
        assert!(check_invariant!(
            Invariant::RecordTime,
            1 < 2,
            "never shown"
        ));
    }

    #[test]
    #[should_panic(expected = "invariant record_time violated: time fell from 5 to 4")]
    fn a_violation_panics_in_tests() {
        check_invariant!(
            Invariant::RecordTime,
            4 > 5,
            "time fell from {} to {}",
            5,
            4
        );
    }

    #[test]
    fn a_violation_is_counted_in_release() {
        let before = violations(Invariant::QueueWithinBound);
        violated(
            Invariant::QueueWithinBound,
            false,
            format_args!("1 too many"),
        );
        assert_eq!(violations(Invariant::QueueWithinBound), before + 1);
        let line = format!(
            "gb6_invariant_violations_total{{invariant=\"queue_within_bound\"}} {}\n",
            before + 1
        );
        assert!(Metrics::new().text().contains(&line));
    }

    #[test]
    fn a_test_can_have_violations_counted_on_its_own_thread() {
        let before = violations(Invariant::InstanceIsolation);
        let guard = counted();
        assert_eq!(guard.of(Invariant::InstanceIsolation), 0);
        assert!(!check_invariant!(
            Invariant::InstanceIsolation,
            1 > 2,
            "counted"
        ));
        assert_eq!(guard.of(Invariant::InstanceIsolation), 1);
        assert_eq!(guard.of(Invariant::RecordTime), 0);
        drop(guard);
        assert_eq!(violations(Invariant::InstanceIsolation), before + 1);
        let strict = std::panic::catch_unwind(|| {
            check_invariant!(Invariant::InstanceIsolation, 1 > 2, "strict again")
        });
        assert!(strict.is_err());
    }
}
