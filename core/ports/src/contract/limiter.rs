//! The contract of `RateLimiter`: who may use how much of a limit, whoever asks when.

use std::collections::BTreeMap;

use super::Random;
use crate::limiter::{LimitKey, RateLimiter, Share, WHOLE, Want};

/// Runs the suite on a limiter that nobody has asked yet.
pub fn all(limiter: &dyn RateLimiter) {
    who_is_alone_has_the_whole(limiter);
    neighbours_do_not_mix(limiter);
    the_idle_leave_room_and_keep_a_beginning(limiter);
    what_is_not_asked_for_again_goes_back(limiter);
    settled_shares_never_exceed_the_limit(limiter, 11, 300);
}

/// The limit of `user` of `instance`; "" for the whole instance's.
fn key(instance: &str, user: &str) -> LimitKey {
    LimitKey {
        instance: instance.into(),
        user: (!user.is_empty()).then(|| user.to_owned()),
    }
}

fn ask(limiter: &dyn RateLimiter, holder: &str, key: &LimitKey, demand: u64, now: u64) -> Share {
    let want = Want {
        key: key.clone(),
        demand,
    };
    let shares = limiter.lease(holder, &[want], now).expect("a share");
    assert_eq!(shares.len(), 1);
    let share = shares[0];
    assert!(share.parts >= 1 && share.parts <= WHOLE, "{share:?}");
    assert!(share.renew_ms > 0 && share.renew_ms * 2 <= share.valid_ms);
    share
}

fn who_is_alone_has_the_whole(limiter: &dyn RateLimiter) {
    let key = key("alone", "");
    for now in [1_000, 1_500, 900] {
        assert_eq!(ask(limiter, "e1", &key, 7_000, now).parts, WHOLE);
    }
    assert_eq!(limiter.lease("e1", &[], 1_500).expect("none"), []);
    // Whoever gives back holds nothing.
    ask(limiter, "e1", &key, 0, 1_600);
    assert_eq!(ask(limiter, "e2", &key, 1, 1_600).parts, WHOLE);
}

fn neighbours_do_not_mix(limiter: &dyn RateLimiter) {
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
        assert_eq!(ask(limiter, &holder, key, 1_000, 2_000).parts, WHOLE);
    }
    let wants: Vec<Want> = keys
        .iter()
        .map(|key| Want {
            key: key.clone(),
            demand: 1_000,
        })
        .collect();
    let shares = limiter.lease("e0", &wants, 2_000).expect("shares");
    let parts: Vec<u32> = shares.iter().map(|share| share.parts).collect();
    let half = WHOLE / 2;
    assert_eq!(parts, [WHOLE, half, half, half, half]);
}

fn the_idle_leave_room_and_keep_a_beginning(limiter: &dyn RateLimiter) {
    let key = key("busy", "u");
    ask(limiter, "idle", &key, 1, 3_000);
    let busy = ask(limiter, "busy", &key, 1_000_000, 3_000);
    assert!(busy.parts >= WHOLE / 10 * 7, "{busy:?}");
    for n in 0..8 {
        ask(limiter, &format!("more{n}"), &key, u64::MAX, 3_000);
    }
    let idle = ask(limiter, "idle", &key, 1, 3_100);
    assert!(idle.parts >= WHOLE / 20, "{idle:?}");
}

fn what_is_not_asked_for_again_goes_back(limiter: &dyn RateLimiter) {
    let key = key("gone", "");
    let first = ask(limiter, "e1", &key, 5, 4_000);
    let late = 4_000 + first.valid_ms;
    assert_eq!(ask(limiter, "e2", &key, 5, late - 1).parts, WHOLE / 2);
    assert_eq!(ask(limiter, "e2", &key, 5, late).parts, WHOLE);
}

/// Makes `steps` random changes that follow from `seed`; after each all holders ask once more.
pub fn settled_shares_never_exceed_the_limit(limiter: &dyn RateLimiter, seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    let mut demands: BTreeMap<u64, u64> = BTreeMap::new();
    let key = key("settled", "u");
    for step in 0..steps {
        let now = 10_000 + step as u64;
        let holder = random.below(12);
        match random.below(4) {
            0 => {
                demands.remove(&holder);
                ask(limiter, &format!("e{holder}"), &key, 0, now);
            }
            _ => {
                let magnitude = random.below(40);
                demands.insert(holder, 1 + random.below(1 << magnitude));
            }
        }
        let mut parts = BTreeMap::new();
        for _ in 0..2 {
            for (holder, demand) in &demands {
                let share = ask(limiter, &format!("e{holder}"), &key, *demand, now);
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
