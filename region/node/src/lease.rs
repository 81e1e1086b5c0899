//! Until when nobody can have taken this node for dead, by a clock that goes on while the machine sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a node reckons its lease by, and for how long a log has been silent: the time since some moment,
/// with that in which the machine was suspended. The system's unless another is given.
#[derive(Clone, Default)]
pub struct Clock {
    /// What is read in place of the system's.
    given: Option<Arc<dyn Fn() -> Duration + Send + Sync>>,
}

impl Clock {
    /// One that is read like this. It never goes back.
    pub fn by(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let given = Some(Arc::new(now) as Arc<_>);
        Self { given }
    }

    pub(crate) fn now(&self) -> Duration {
        self.given.as_ref().map_or_else(awake_or_not, |now| now())
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = match self.given {
            None => "system",
            Some(_) => "given",
        };
        write!(f, "Clock({whose})")
    }
}

/// Until when nobody can have taken this node for dead.
pub(crate) struct NodeLease {
    clock: Clock,
    began: Duration,
    /// For how long nobody takes a node for dead.
    length: Duration,
    /// In ms of this node's clock.
    fresh_until: AtomicU64,
}

impl NodeLease {
    /// One by the system's clock.
    #[cfg(test)]
    pub(crate) fn new(length: Duration) -> Self {
        Self::by(Clock::default(), length)
    }

    pub(crate) fn by(clock: Clock, length: Duration) -> Self {
        Self {
            began: clock.now(),
            clock,
            length,
            fresh_until: AtomicU64::new(0),
        }
    }

    /// The node's clock: ms since it began.
    pub(crate) fn now_ms(&self) -> u64 {
        let since = self.clock.now().saturating_sub(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long nobody takes a node for dead.
    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    pub(crate) fn set(&self, fresh_until: u64) {
        self.fresh_until.store(fresh_until, Ordering::SeqCst);
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.now_ms() < self.fresh_until.load(Ordering::SeqCst)
    }
}

/// The time since some moment, with that in which the machine was suspended: others have gone on
/// meanwhile, and may have taken what this node owned. `std::time::Instant` stands still then. (The clock
/// of a virtual machine that its host has stopped may do so too: what it reads then is of the time before
/// for up to a lease, what it writes is fenced by the log.)
#[cfg(target_os = "linux")]
fn awake_or_not() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::Boottime);
    // Neither is negative, as the kernel counts from its own start.
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// As far as the system says it.
#[cfg(not(target_os = "linux"))]
fn awake_or_not() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_clock_goes_as_others_do_and_a_lease_ends_by_it() {
        let (began, lease) = (Instant::now(), NodeLease::new(Duration::from_secs(60)));
        assert!(!lease.is_fresh(), "nobody has heard of it");
        lease.set(lease.now_ms() + 60_000);
        assert!(lease.is_fresh());
        std::thread::sleep(Duration::from_millis(30));
        let (now, least) = (lease.now_ms(), began.elapsed().as_millis());
        // Each is cut to whole ms.
        assert!(now >= 29 && u128::from(now) <= least + 1, "{now}");
        lease.set(now);
        assert!(!lease.is_fresh());
    }
}
