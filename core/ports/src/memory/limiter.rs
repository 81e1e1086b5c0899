//! Shares of limits in memory: the reference, and what the owner of an instance's home shard keeps.
//! When it is lost the edges ask anew, and nothing has to be restored.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::limiter::{LimitKey, RateLimiter, Share, VALID_MS, Want};

/// Limits that are shared out; about 200 bytes each.
const KEYS_MAX: usize = 500_000;
/// Edges that share one limit.
const HOLDERS_MAX: usize = 4_096;

/// The limits in use.
#[derive(Debug)]
pub struct MemoryRateLimiter {
    state: Mutex<State>,
    keys_max: usize,
}

#[derive(Debug, Default)]
struct State {
    limits: HashMap<LimitKey, Vec<Holder>>,
    /// When limits that nobody uses any more are looked for next.
    sweep_at: u64,
}

#[derive(Debug)]
struct Holder {
    name: Box<str>,
    demand: u64,
    until: u64,
}

impl Default for MemoryRateLimiter {
    fn default() -> Self {
        Self::with_keys(KEYS_MAX)
    }
}

impl MemoryRateLimiter {
    /// One that shares out at most `keys_max` limits at once.
    pub fn with_keys(keys_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            keys_max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves is whole: every change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits that are shared out now.
    pub fn len(&self) -> usize {
        self.state().limits.len()
    }

    /// Whether no limit is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RateLimiter for MemoryRateLimiter {
    fn lease(&self, holder: &str, wants: &[Want], now_ms: u64) -> Result<Vec<Share>, StoreError> {
        let mut state = self.state();
        state.sweep(now_ms);
        let share = |want| state.share(holder, want, now_ms, self.keys_max);
        Ok(wants.iter().map(share).collect())
    }
}

impl State {
    /// Forgets limits whose shares have all ended.
    fn sweep(&mut self, now: u64) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + VALID_MS / 2;
        self.limits.retain(|_, holders| {
            holders.retain(|holder| holder.until > now);
            !holders.is_empty()
        });
    }

    fn share(&mut self, name: &str, want: &Want, now: u64, keys_max: usize) -> Share {
        let whole = Share::whole(VALID_MS);
        if !self.limits.contains_key(&want.key) {
            // overflow: a limit more than can be kept is not shared out; each edge has the whole.
            if want.demand == 0 || self.limits.len() >= keys_max {
                return whole;
            }
            self.limits.insert(want.key.clone(), Vec::new());
        }
        let Some(holders) = self.limits.get_mut(&want.key) else {
            return whole;
        };
        holders.retain(|holder| holder.until > now && *holder.name != *name);
        if want.demand == 0 {
            if holders.is_empty() {
                self.limits.remove(&want.key);
            }
            return whole;
        }
        // overflow: an edge more than can be counted has an equal share, which nobody else lacks.
        if holders.len() < HOLDERS_MAX {
            holders.push(Holder {
                name: name.into(),
                demand: want.demand,
                until: now + VALID_MS,
            });
        }
        let all: u128 = holders.iter().map(|h| u128::from(h.demand)).sum();
        Share::of(want.demand, all, holders.len() as u64, VALID_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::WHOLE;

    #[test]
    fn keeps_the_contract() {
        use crate::contract::limiter::{SetTime, all, settled_shares_never_exceed_the_limit};
        all(&MemoryRateLimiter::default(), &SetTime::default());
        for seed in 0..20 {
            let (limiter, time) = (MemoryRateLimiter::default(), SetTime::default());
            settled_shares_never_exceed_the_limit(&limiter, &time, seed, 200);
        }
    }

    #[test]
    fn a_clock_that_goes_back_takes_nothing() {
        let limiter = MemoryRateLimiter::default();
        let want = Want {
            key: LimitKey {
                instance: "demo".into(),
                user: None,
            },
            demand: 7,
        };
        for now in [1_000, 1_500, 900] {
            let shares = limiter.lease("e1", std::slice::from_ref(&want), now);
            assert_eq!(shares.unwrap()[0].parts, WHOLE);
        }
    }

    #[test]
    fn limits_beyond_the_bound_are_not_shared_out() {
        let limiter = MemoryRateLimiter::with_keys(2);
        let want = |user: &str, demand| Want {
            key: LimitKey {
                instance: "demo".into(),
                user: Some(user.to_owned()),
            },
            demand,
        };
        let ask = |holder, user, now| limiter.lease(holder, &[want(user, 1)], now).unwrap()[0];
        for user in ["a", "b", "c"] {
            ask("e1", user, 0);
        }
        assert_eq!(limiter.len(), 2);
        assert_eq!(ask("e2", "c", 0).parts, WHOLE);
        assert_eq!(ask("e2", "b", 0).parts, WHOLE / 2);
        // When the others have ended there is room again.
        ask("e1", "c", VALID_MS);
        assert_eq!(limiter.len(), 1);
        assert_eq!(ask("e2", "c", VALID_MS).parts, WHOLE / 2);
        limiter.lease("e1", &[want("c", 0)], VALID_MS).unwrap();
        limiter.lease("e2", &[want("c", 0)], VALID_MS).unwrap();
        assert!(limiter.is_empty());
    }
}
