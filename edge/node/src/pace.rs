//! A pace that several tasks share: so many a second in all.

use parking_lot::Mutex;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u64,
    /// Thousandths that may be saved up.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    thousandths: u64,
    counted_at: u64,
}

impl Pace {
    /// `per_second`, and at most `burst` at once.
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        let most = burst.max(1) * 1000;
        Self {
            per_second,
            most,
            state: Mutex::new(State {
                thousandths: most,
                counted_at: 0,
            }),
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&self, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        let passed = now_ms.saturating_sub(state.counted_at);
        state.counted_at = state.counted_at.max(now_ms);
        let earned = passed.saturating_mul(self.per_second);
        state.thousandths = state.thousandths.saturating_add(earned).min(self.most);
        let taken = state.thousandths >= 1000;
        if taken {
            state.thousandths -= 1000;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_take_together_is_one_pace() {
        let pace = Pace::new(500, 50);
        let mut taken = 0;
        for now in (0..10_000).step_by(50) {
            // Four that would take a hundred each.
            taken += (0..400).filter(|_| pace.take(now)).count();
        }
        assert_eq!(taken, 50 + 9_950 / 2);
        // Time that goes back gives nothing.
        assert!(!pace.take(0));
    }
}
