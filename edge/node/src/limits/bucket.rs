//! One limit that edges keep together, as this edge has it: a token bucket with the edge's share of
//! the limit's rate and burst. Pure: time is a parameter.
//!
//! Until the edge has been given a share, and when its share has ended because the owner could not
//! be asked for that long, it keeps to the whole limit by itself.

use gb6_core_model::snapshot::CommandRate;

/// The whole of a limit, in the parts that shares count.
const WHOLE: u32 = 1_000_000;
/// One command. A millisecond of one part of a rate of one a second is one of these.
const COMMAND: u128 = 1_000_000_000;
/// After how long what was not answered is asked again, in ms.
const ASK_AGAIN_MS: u64 = 1_000;

/// The state of one limit.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// What may be taken now; `None`: nothing was taken yet, and the burst is whole.
    level: Option<u128>,
    at: u64,
    parts: u32,
    /// When the share ends.
    until: u64,
    /// Commands since the last question, refused ones too.
    asked_for: u64,
    /// When the last question was sent.
    reported_at: u64,
    /// When the next one is due, if the limit is used.
    due: u64,
    /// Whether the owner may hold a share for this edge.
    holds: bool,
}

impl Bucket {
    pub(super) fn new(now: u64) -> Self {
        Self {
            level: None,
            at: now,
            parts: WHOLE,
            until: 0,
            asked_for: 0,
            reported_at: now,
            due: 0,
            holds: false,
        }
    }

    fn parts(&self, now: u64) -> u128 {
        match now < self.until {
            true => u128::from(self.parts),
            false => u128::from(WHOLE),
        }
    }

    /// Takes a command of `rate`, if there is one.
    pub(super) fn take(&mut self, now: u64, rate: CommandRate) -> bool {
        self.asked_for = self.asked_for.saturating_add(1);
        let parts = self.parts(now);
        let most = (u128::from(rate.burst) * parts * (COMMAND / u128::from(WHOLE))).max(COMMAND);
        let passed = u128::from(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        let earned = passed * u128::from(rate.per_second) * parts;
        let level = match self.level {
            None => most,
            Some(level) => (level + earned).min(most),
        };
        let taken = level >= COMMAND;
        self.level = Some(if taken { level - COMMAND } else { level });
        taken
    }

    /// Gives back what was just taken.
    pub(super) fn give_back(&mut self) {
        self.level = self.level.map(|level| level + COMMAND);
    }

    /// What to tell the owner now, in thousandths of a command a second; `None`: nothing is due.
    pub(super) fn report(&mut self, now: u64) -> Option<u64> {
        if now < self.due {
            return None;
        }
        if self.asked_for == 0 {
            // Not used any more: the share goes to those who do.
            return std::mem::take(&mut self.holds).then_some(0);
        }
        let passed = now.saturating_sub(self.reported_at).max(1);
        let demand = u128::from(self.asked_for) * 1_000_000 / u128::from(passed);
        self.asked_for = 0;
        self.reported_at = now;
        self.due = now + ASK_AGAIN_MS;
        self.holds = true;
        Some(u64::try_from(demand).unwrap_or(u64::MAX).max(1))
    }

    /// The owner gave a share.
    pub(super) fn shared(&mut self, now: u64, parts: u32, valid_ms: u64, renew_ms: u64) {
        self.parts = parts.clamp(1, WHOLE);
        self.until = now.saturating_add(valid_ms);
        self.due = self.reported_at.saturating_add(renew_ms);
    }

    /// Whether nobody would miss it.
    pub(super) fn is_idle(&self) -> bool {
        self.asked_for == 0 && !self.holds
    }

    /// Whether it is used without a share: the owner does not answer.
    pub(super) fn is_alone(&self, now: u64) -> bool {
        self.holds && now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: CommandRate = CommandRate {
        per_second: 10,
        burst: 4,
    };

    fn taken(bucket: &mut Bucket, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(now, RATE)).count()
    }

    #[test]
    fn a_share_is_a_part_of_rate_and_burst() {
        let mut bucket = Bucket::new(0);
        assert_eq!(taken(&mut bucket, 0, 9), 4, "without a share all of it");
        assert_eq!(bucket.report(10), Some(9 * 1_000_000 / 10));
        bucket.shared(20, WHOLE / 2, 30_000, 1_000);
        assert_eq!(taken(&mut bucket, 1_020, 9), 2, "half the burst");
        assert_eq!(taken(&mut bucket, 1_220, 9), 1, "half the rate");
        // A share of next to nothing lets one command through now and then.
        bucket.shared(1_220, 1, 30_000, 1_000);
        assert_eq!(taken(&mut bucket, 9_000_000, 1), 1);
    }

    #[test]
    fn a_slow_rate_is_not_lost_in_small_steps() {
        let slow = CommandRate {
            per_second: 1,
            burst: 1,
        };
        let mut bucket = Bucket::new(0);
        bucket.shared(0, WHOLE / 3, u64::MAX, 1_000);
        let taken = (0..30_000).filter(|now| bucket.take(*now, slow)).count();
        assert!((10..=11).contains(&taken), "{taken}");
    }

    #[test]
    fn losing_the_owner_means_the_last_share_and_then_the_whole_limit() {
        let mut bucket = Bucket::new(0);
        taken(&mut bucket, 0, 1);
        bucket.report(0);
        bucket.shared(0, WHOLE / 4, 30_000, 1_000);
        assert_eq!(taken(&mut bucket, 29_000, 9), 1);
        assert!(bucket.report(29_000).is_some() && !bucket.is_alone(29_999));
        assert!(bucket.is_alone(30_000));
        assert_eq!(taken(&mut bucket, 40_000, 9), 4);
        // What is not answered is asked again, though not at once.
        assert_eq!(bucket.report(29_500), None);
        assert!(bucket.report(40_000).is_some());
    }

    #[test]
    fn what_is_used_no_more_is_given_back_once() {
        let mut bucket = Bucket::new(0);
        assert!(bucket.is_idle() && bucket.report(0).is_none());
        taken(&mut bucket, 100, 1);
        assert!(bucket.report(100).is_some() && !bucket.is_idle());
        bucket.shared(100, WHOLE, 30_000, 5_000);
        assert_eq!(bucket.report(5_099), None);
        assert_eq!(bucket.report(5_100), Some(0));
        assert!(bucket.is_idle());
        assert_eq!(bucket.report(9_000), None);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            steps in prop::collection::vec((0_u64..2_000, 0_usize..30, 1_u32..=WHOLE), 1..60)
        ) {
            let mut bucket = Bucket::new(0);
            let (mut now, mut all) = (0, 0);
            for (passed, tries, parts) in steps {
                now += passed;
                bucket.shared(now, parts, 1_000, 500);
                all += taken(&mut bucket, now, tries) as u64;
                let most = u64::from(RATE.burst) + now * u64::from(RATE.per_second) / 1_000 + 1;
                prop_assert!(all <= most, "{all} by {now} ms");
            }
        }
    }
}
