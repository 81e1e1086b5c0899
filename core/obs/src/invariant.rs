//! Named invariants that are checked while a node runs. A violation panics in tests and in builds
//! with debug assertions; in a release build it is counted and logged, and the node goes on, so
//! the caller must still do something safe with what it found.

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
    /// A4: a publish is answered with an offset only after its record is durable.
    AckAfterCommit = "ack_after_commit";
    /// A5: nothing waits in a queue beyond its bound.
    QueueWithinBound = "queue_within_bound";
    /// A7: what belongs to one instance never reaches another.
    InstanceIsolation = "instance_isolation";
    /// A8: within a room record time never falls.
    RecordTime = "record_time";
    /// A room's offsets are consecutive from 1.
    OffsetsConsecutive = "offsets_consecutive";
    /// A session is given a room's publications in order, each once, none left out.
    DeliveryInOrder = "delivery_in_order";
    /// A shard's epoch only rises, and nothing is committed under an old one.
    ShardEpochRises = "shard_epoch_rises";
    /// Positions in a shard's log are consecutive.
    PositionsConsecutive = "positions_consecutive";
    /// One message id in one room by one user has one record within the window.
    DedupeUnique = "dedupe_unique";
    /// An edge has no more unanswered publishes of an instance than it was given credit for.
    CreditRespected = "credit_respected";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

static VIOLATIONS: [AtomicU64; Invariant::ALL.len()] =
    [const { AtomicU64::new(0) }; Invariant::ALL.len()];

/// How often `invariant` was violated in this process without a panic.
pub fn violations(invariant: Invariant) -> u64 {
    VIOLATIONS[invariant as usize].load(Ordering::Relaxed)
}

/// Reports a violation: the target of [`check_invariant!`](crate::check_invariant). Panics when
/// `strict`, otherwise counts it and logs the 1st, 2nd, 4th, 8th … of its kind, so that a broken
/// invariant on a hot path does not fill the disk.
///
/// # Panics
/// When `strict`.
#[cold]
#[track_caller]
pub fn violated(invariant: Invariant, strict: bool, what: fmt::Arguments<'_>) {
    assert!(!strict, "invariant {invariant} violated: {what}");
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
        let before = violations(Invariant::CreditRespected);
        violated(
            Invariant::CreditRespected,
            false,
            format_args!("1 too many"),
        );
        assert_eq!(violations(Invariant::CreditRespected), before + 1);
        let line = format!(
            "gb6_invariant_violations_total{{invariant=\"credit_respected\"}} {}\n",
            before + 1
        );
        assert!(Metrics::new().text().contains(&line));
    }
}
