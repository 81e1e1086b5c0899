//! One timer wheel for all connections of an edge. A connection has at most a few entries in it
//! and no timer of its own: at tens of thousands of connections that is the difference between
//! one timer and tens of thousands.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Something that can be told that its time has come.
pub(crate) trait Due: Send + Sync {
    /// The time asked for has come, or the wheel's horizon was reached first.
    fn due(&self);
}

/// Buckets of a ring: with the default tick of 250 ms the horizon is a minute.
const BUCKETS: usize = 256;

/// A ring of buckets, one tick apart.
pub(crate) struct Wheel<T> {
    ring: Mutex<Ring<T>>,
    tick_ms: u64,
}

struct Ring<T> {
    buckets: Vec<Vec<Arc<T>>>,
    /// The tick that was turned last.
    now: u64,
}

impl<T: Due> Wheel<T> {
    /// A wheel that turns every `tick_ms`.
    pub(crate) fn new(tick_ms: u64) -> Self {
        Self {
            ring: Mutex::new(Ring {
                buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
                now: 0,
            }),
            tick_ms: tick_ms.max(1),
        }
    }

    /// Has `who` told at `at_ms` (of the clock that [`Wheel::turn`] is given) or up to one tick
    /// later; a time beyond the horizon is told at the horizon, and asked for again then. Returns
    /// the time at which it will be told.
    pub(crate) fn add(&self, at_ms: u64, who: Arc<T>) -> u64 {
        let mut ring = self.ring.lock();
        let tick = at_ms.div_ceil(self.tick_ms);
        let tick = tick.clamp(ring.now + 1, ring.now + BUCKETS as u64 - 1);
        ring.buckets[tick as usize % BUCKETS].push(who);
        tick * self.tick_ms
    }

    /// Turns to `now_ms` and tells everybody whose time has come.
    pub(crate) fn turn(&self, now_ms: u64) {
        let until = now_ms / self.tick_ms;
        loop {
            let due = {
                let mut ring = self.ring.lock();
                if ring.now >= until {
                    return;
                }
                // After a long pause one round visits every bucket; more would find them empty.
                if until - ring.now > BUCKETS as u64 {
                    ring.now = until - BUCKETS as u64;
                }
                ring.now += 1;
                let bucket = ring.now as usize % BUCKETS;
                std::mem::take(&mut ring.buckets[bucket])
            };
            // Outside the lock: whoever is told may ask for its next time at once.
            due.iter().for_each(|who| who.due());
        }
    }

    /// How often [`Wheel::turn`] is to be called.
    pub(crate) fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Told(AtomicU64);
    impl Due for Told {
        fn due(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    proptest! {
        /// Told once, never early, at most a tick late, however unevenly the wheel turns.
        #[test]
        fn on_time(
            entries in proptest::collection::vec((0u64..20_000, 0u64..20_000), 1..50),
            mut turns in proptest::collection::vec(0u64..30_000, 1..50),
        ) {
            let wheel = Wheel::new(100);
            turns.sort_unstable();
            turns.push(60_000);
            let mut waiting: Vec<(u64, u64, Arc<Told>)> = Vec::new();
            let mut entries: Vec<_> = entries;
            entries.sort_by_key(|(added, _)| *added);
            let mut entries = entries.into_iter().peekable();
            for now in turns {
                while let Some((added, delay)) = entries.next_if(|(added, _)| *added <= now) {
                    wheel.turn(added);
                    let told = Arc::new(Told::default());
                    wheel.add(added + delay, told.clone());
                    waiting.push((added, added + delay, told));
                }
                wheel.turn(now);
                for (added, at, told) in &waiting {
                    let n = told.0.load(Ordering::Relaxed);
                    prop_assert!(n <= 1);
                    // An entry can not fire in the tick in which it was added.
                    let latest = (*at).max(added / 100 * 100 + 100).div_ceil(100) * 100;
                    if now >= latest {
                        prop_assert_eq!(n, 1, "at {} not told at {}", at, now);
                    }
                    if now < *at {
                        prop_assert_eq!(n, 0, "at {} told at {}", at, now);
                    }
                }
            }
        }
    }

    #[test]
    fn beyond_the_horizon_is_told_at_the_horizon() {
        let wheel = Wheel::new(1);
        let told = Arc::new(Told::default());
        wheel.add(10_000, told.clone());
        wheel.turn(254);
        assert_eq!(told.0.load(Ordering::Relaxed), 0);
        wheel.turn(255);
        assert_eq!(told.0.load(Ordering::Relaxed), 1);
    }
}
