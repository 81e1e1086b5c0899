//! A circuit breaker: who has failed again and again is left alone for a while, so that nobody
//! waits for it in vain.

/// When a breaker opens and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerConfig {
    /// Failures in a row after which it opens.
    pub failures: u32,
    /// How long it stays open before one request may try again, in ms.
    pub open_ms: u64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            open_ms: 5_000,
        }
    }
}

/// The state of one server. Times are `now_ms` of a monotonic clock.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many requests have failed since one succeeded.
    Closed(u32),
    /// Nobody tries before this time.
    Open(u64),
    /// One tries; the next may at this time, should it never tell.
    Trying(u64),
}

impl Breaker {
    /// Closed.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed(0),
        }
    }

    /// Whether a request may be made now. Where it may, [`Breaker::done`] must be told what came
    /// of it.
    pub fn may_try(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed(_) => true,
            State::Open(until) | State::Trying(until) if now_ms >= until => {
                self.state = State::Trying(now_ms.saturating_add(self.config.open_ms));
                true
            }
            State::Open(_) | State::Trying(_) => false,
        }
    }

    /// A request has succeeded or failed.
    pub fn done(&mut self, now_ms: u64, succeeded: bool) {
        self.state = match (self.state, succeeded) {
            (_, true) => State::Closed(0),
            (State::Closed(failures), false) if failures + 1 < self.config.failures => {
                State::Closed(failures + 1)
            }
            // One that was begun before it opened says nothing new.
            (State::Open(until), false) => State::Open(until),
            (_, false) => State::Open(now_ms.saturating_add(self.config.open_ms)),
        };
    }

    /// Whether requests are refused now.
    pub fn is_open(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed(_) => false,
            State::Open(until) | State::Trying(until) => now_ms < until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig {
            failures: 3,
            open_ms: 100,
        })
    }

    fn fail(breaker: &mut Breaker, now_ms: u64) {
        assert!(breaker.may_try(now_ms));
        breaker.done(now_ms, false);
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_closes_it() {
        let mut b = breaker();
        fail(&mut b, 0);
        fail(&mut b, 1);
        assert!(b.may_try(2));
        b.done(2, true);
        fail(&mut b, 3);
        fail(&mut b, 4);
        assert!(!b.is_open(4));
        fail(&mut b, 5);
        assert!(b.is_open(5) && !b.may_try(104));
        assert!(b.may_try(105));
        assert!(!b.may_try(106), "only one tries");
        b.done(107, true);
        assert!(b.may_try(107) && b.may_try(107));
    }

    #[test]
    fn a_try_that_fails_opens_it_again_and_one_that_never_tells_gives_way() {
        let mut b = breaker();
        (0..3).for_each(|n| fail(&mut b, n));
        assert!(b.may_try(102));
        b.done(110, false);
        assert!(!b.may_try(209) && b.may_try(210));
        assert!(!b.may_try(309) && b.may_try(310));
    }

    #[test]
    fn late_failures_do_not_prolong_it() {
        let mut b = breaker();
        assert!(b.may_try(0));
        (0..3).for_each(|n| fail(&mut b, n));
        b.done(90, false);
        assert!(b.may_try(102));
    }
}
