//! The rate of one connection's commands: a token bucket that may go into debt.

use gb6_core_model::snapshot::CommandRate;

/// What is to be done with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is within the rate.
    Accept,
    /// It is over it: error 111.
    Refuse,
    /// Commands have been over it for too long: disconnect 3013.
    Disconnect,
}

/// A token bucket in thousandths of a command. Refused commands cost too: a client that goes on
/// regardless owes a whole burst after a while, and is disconnected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    thousandths: i64,
    at: u64,
    started: bool,
}

impl Bucket {
    /// A command came.
    pub(super) fn take(&mut self, now: u64, rate: Option<CommandRate>) -> Verdict {
        let Some(rate) = rate else {
            return Verdict::Accept;
        };
        let burst = i64::from(rate.burst.max(1)) * 1000;
        if !self.started {
            self.started = true;
            self.thousandths = burst;
        } else {
            let passed = i64::try_from(now.saturating_sub(self.at)).unwrap_or(i64::MAX);
            let earned = passed.saturating_mul(i64::from(rate.per_second));
            self.thousandths = self.thousandths.saturating_add(earned).min(burst);
        }
        self.at = now;
        let accepted = self.thousandths >= 1000;
        self.thousandths -= 1000;
        match accepted {
            true => Verdict::Accept,
            false if self.thousandths > -burst => Verdict::Refuse,
            false => Verdict::Disconnect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate_then_debt() {
        let rate = Some(CommandRate {
            per_second: 10,
            burst: 5,
        });
        let mut b = Bucket::default();
        assert_eq!([(); 5].map(|()| b.take(0, rate)), [Verdict::Accept; 5]);
        assert_eq!(b.take(0, rate), Verdict::Refuse);
        assert_eq!(b.take(100, rate), Verdict::Refuse, "the debt comes first");
        assert_eq!(b.take(300, rate), Verdict::Accept);
        assert_eq!([(); 4].map(|()| b.take(300, rate)), [Verdict::Refuse; 4]);
        assert_eq!(b.take(300, rate), Verdict::Disconnect);
        assert_eq!(b.take(60_000, rate), Verdict::Accept);
        assert_eq!(Bucket::default().take(0, None), Verdict::Accept);
    }
}
