//! The contract of `RateLimiter`: who may use how much of a limit, whoever asks when.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Random;
use crate::limiter::{LimitKey, RateLimiter, Share, WHOLE, Want};

/// The clock that a limiter goes by.
pub trait Time {
    /// Now, in ms.
    fn now_ms(&self) -> u64;
    /// Goes on when so many ms have passed.
    fn pass(&self, ms: u64);
}

/// A clock that stands still until it is set on: for engines that go by what they are told.
#[derive(Debug, Default)]
pub struct SetTime(Cell<u64>);

impl Time for SetTime {
    fn now_ms(&self) -> u64 {
        self.0.get()
    }

    fn pass(&self, ms: u64) {
        self.0.set(self.0.get() + ms);
    }
}

/// Time as it passes: for engines with a clock of their own.
#[derive(Debug)]
pub struct RealTime(Instant);

impl Default for RealTime {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Time for RealTime {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn pass(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

/// Runs the suite on a limiter that nobody has asked yet.
pub fn all(limiter: &dyn RateLimiter, time: &dyn Time) {
    who_is_alone_has_the_whole(limiter, time);
    neighbours_do_not_mix(limiter, time);
    the_idle_leave_room_and_keep_a_beginning(limiter, time);
    what_is_not_asked_for_again_goes_back(limiter, time);
    settled_shares_never_exceed_the_limit(limiter, time, 11, 300);
}

/// The limit of `user` of `instance`; "" for the whole instance's.
fn key(instance: &str, user: &str) -> LimitKey {
    LimitKey {
        instance: instance.into(),
        user: (!user.is_empty()).then(|| user.to_owned()),
    }
}

type Engine<'a> = (&'a dyn RateLimiter, &'a dyn Time);

fn ask((limiter, time): Engine, holder: &str, key: &LimitKey, demand: u64) -> Share {
    let want = Want {
        key: key.clone(),
        demand,
    };
    let shares = limiter
        .lease(holder, &[want], time.now_ms())
        .expect("a share");
    assert_eq!(shares.len(), 1);
    let share = shares[0];
    assert!(share.parts >= 1 && share.parts <= WHOLE, "{share:?}");
    assert!(share.renew_ms > 0 && share.renew_ms * 2 <= share.valid_ms);
    share
}

fn who_is_alone_has_the_whole(limiter: &dyn RateLimiter, time: &dyn Time) {
    let (engine, key) = ((limiter, time), key("alone", ""));
    for _ in 0..3 {
        assert_eq!(ask(engine, "e1", &key, 7_000).parts, WHOLE);
    }
    assert_eq!(limiter.lease("e1", &[], time.now_ms()).expect("none"), []);
    // Whoever gives back holds nothing.
    ask(engine, "e1", &key, 0);
    assert_eq!(ask(engine, "e2", &key, 1).parts, WHOLE);
}

fn neighbours_do_not_mix(limiter: &dyn RateLimiter, time: &dyn Time) {
    // Names that are prefixes of each other, and an instance beside a user of its name.
    let keys = [
        key("a", "b"),
        key("ab", ""),
        key("a", ""),
        key("a", "bb"),
        key("ab", "b"),
    ];
    for (n, key) in keys.iter().enumerate() {
        let holder = format!("e{n}");
        assert_eq!(ask((limiter, time), &holder, key, 1_000).parts, WHOLE);
    }
    let wants: Vec<Want> = keys
        .iter()
        .map(|key| Want {
            key: key.clone(),
            demand: 1_000,
        })
        .collect();
    let shares = limiter.lease("e0", &wants, time.now_ms()).expect("shares");
    let parts: Vec<u32> = shares.iter().map(|share| share.parts).collect();
    let half = WHOLE / 2;
    assert_eq!(parts, [WHOLE, half, half, half, half]);
}

fn the_idle_leave_room_and_keep_a_beginning(limiter: &dyn RateLimiter, time: &dyn Time) {
    let (engine, key) = ((limiter, time), key("busy", "u"));
    ask(engine, "idle", &key, 1);
    let busy = ask(engine, "busy", &key, 1_000_000);
    assert!(busy.parts >= WHOLE / 10 * 7, "{busy:?}");
    for n in 0..8 {
        ask(engine, &format!("more{n}"), &key, u64::MAX);
    }
    let idle = ask(engine, "idle", &key, 1);
    assert!(idle.parts >= WHOLE / 20, "{idle:?}");
}

fn what_is_not_asked_for_again_goes_back(limiter: &dyn RateLimiter, time: &dyn Time) {
    let (engine, key) = ((limiter, time), key("gone", ""));
    let first = ask(engine, "e1", &key, 5);
    time.pass(first.valid_ms / 2);
    assert_eq!(ask(engine, "e2", &key, 5).parts, WHOLE / 2);
    time.pass(first.valid_ms.div_ceil(2));
    assert_eq!(ask(engine, "e2", &key, 5).parts, WHOLE);
}

/// Makes `steps` random changes that follow from `seed`; after each all holders ask once more.
pub fn settled_shares_never_exceed_the_limit(
    limiter: &dyn RateLimiter,
    time: &dyn Time,
    seed: u64,
    steps: usize,
) {
    let engine = (limiter, time);
    let mut random = Random::new(seed);
    let mut demands: BTreeMap<u64, u64> = BTreeMap::new();
    let key = key("settled", "u");
    for step in 0..steps {
        let holder = random.below(12);
        match random.below(4) {
            0 => {
                demands.remove(&holder);
                ask(engine, &format!("e{holder}"), &key, 0);
            }
            _ => {
                let magnitude = random.below(40);
                demands.insert(holder, 1 + random.below(1 << magnitude));
            }
        }
        let mut parts = BTreeMap::new();
        for _ in 0..2 {
            for (holder, demand) in &demands {
                let share = ask(engine, &format!("e{holder}"), &key, *demand);
                parts.insert(*holder, share.parts);
            }
        }
        let sum: u64 = parts.values().map(|parts| u64::from(*parts)).sum();
        let all = u64::from(WHOLE);
        assert!(sum <= all, "seed {seed}, step {step}: {parts:?}");
        // And no more than rounding is lost.
        assert!(parts.is_empty() || sum + 64 >= all, "{parts:?}");
    }
}
