//! The paces of sessions: how fast they may begin when thousands come back at once, and how a
//! draining edge spreads their ends.

use std::time::Duration;

/// Sessions that may begin at once are those of so long.
const BURST: Duration = Duration::from_secs(1);
/// The longest time that is named to whoever has to come back later, in seconds. Everybody is named
/// a random one.
const RETRY_MAX_S: u32 = 4;

/// The pace of beginning sessions: the ones that are served are served well, those behind wait for a
/// moment, and further ones are told to come back later, which SDKs do with jitter.
#[derive(Debug)]
pub struct ConnectPace {
    /// From one to the next, in ns; 0: no limit.
    interval: u64,
    /// How long one may wait for its turn. Overflow policy of this queue, which holds no more than
    /// begin in that time: who would wait longer is refused at once.
    wait: Duration,
    /// The turn of the next one, in ns since [`BURST`] before the driver's time began.
    next: u64,
}

/// There is no turn for a session soon enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectLater {
    /// When it should come back, in seconds.
    pub retry_after_s: u32,
}

impl ConnectPace {
    /// `per_second` sessions; `None`: any number. One waits for `wait` at most.
    pub fn new(per_second: Option<u32>, wait: Duration) -> Self {
        Self {
            interval: per_second.map_or(0, |rate| 1_000_000_000 / u64::from(rate.max(1))),
            wait,
            next: 0,
        }
    }

    /// Another pace from now on, in which turns that are taken count.
    pub fn set(&mut self, per_second: Option<u32>, wait: Duration) {
        let next = self.next;
        *self = Self::new(per_second, wait);
        self.next = next;
    }

    /// How long it is to the next turn, which is then taken. `now` is the time since the driver
    /// began; `spread` is random, and spreads those who have to come back.
    ///
    /// # Errors
    /// It would wait for too long: it has to come back later.
    pub fn turn(&mut self, now: Duration, spread: u32) -> Result<Duration, ConnectLater> {
        if self.interval == 0 {
            return Ok(Duration::ZERO);
        }
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // As if nobody had come for so long before it began.
        let now_ns = ns(now.saturating_add(BURST));
        // The burst ends with the one whose turn is now.
        let oldest = (now_ns + self.interval).saturating_sub(ns(BURST));
        let turn = self.next.max(oldest);
        let wait = turn.saturating_sub(now_ns);
        if wait > ns(self.wait) {
            return Err(ConnectLater {
                retry_after_s: 1 + spread % RETRY_MAX_S,
            });
        }
        self.next = turn + self.interval;
        Ok(Duration::from_nanos(wait))
    }
}

/// When the session that is `place`th of `count` is told to go, after a drain over `window` began:
/// the first at once, the others evenly.
pub fn drain_turn(window: Duration, place: usize, count: usize) -> Duration {
    window.mul_f64(place as f64 / count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_then_a_refusal() {
        let mut pace = ConnectPace::new(Some(100), Duration::from_millis(50));
        let mut spread = 0;
        let mut at = |ms| {
            spread += 1;
            pace.turn(Duration::from_millis(ms), spread)
        };
        let begin = 0;
        for n in 0..100 {
            assert_eq!(at(begin), Ok(Duration::ZERO), "{n}");
        }
        for n in 1..=5 {
            assert_eq!(at(begin), Ok(Duration::from_millis(10 * n)));
        }
        let mut told = std::collections::BTreeSet::new();
        for _ in 0..100 {
            told.insert(at(begin).unwrap_err().retry_after_s);
        }
        assert!(told.into_iter().eq(1..=RETRY_MAX_S));
        // A refusal took no turn of anybody's.
        assert_eq!(at(begin + 10), Ok(Duration::from_millis(50)));
        // And never more than the rate, however long nobody came.
        let later = begin + 60_000;
        let now = (0..1_000)
            .filter(|_| at(later) == Ok(Duration::ZERO))
            .count();
        assert_eq!(now, 100);
        let over = (0..2_000)
            .filter(|n| at(later + n) == Ok(Duration::ZERO))
            .count();
        assert!(over <= 200, "{over}");
    }

    #[test]
    fn another_rate_is_no_second_burst() {
        let mut pace = ConnectPace::new(Some(10), Duration::ZERO);
        let now = Duration::from_secs(60);
        assert_eq!((0..20).filter(|n| pace.turn(now, *n).is_ok()).count(), 10);
        pace.set(Some(5), Duration::ZERO);
        assert!(pace.turn(now, 0).is_err());
        let later = now + Duration::from_secs(1);
        assert_eq!((0..20).filter(|n| pace.turn(later, *n).is_ok()).count(), 5);
    }

    #[test]
    fn without_a_rate_everybody_enters() {
        let mut pace = ConnectPace::new(None, Duration::ZERO);
        assert!((0..100_000).all(|n| pace.turn(Duration::ZERO, n) == Ok(Duration::ZERO)));
    }

    #[test]
    fn a_drain_tells_everybody_within_its_window() {
        let window = Duration::from_secs(10);
        assert_eq!(drain_turn(window, 0, 1), Duration::ZERO);
        assert_eq!(drain_turn(window, 0, 0), Duration::ZERO);
        let turns: Vec<Duration> = (0..100).map(|n| drain_turn(window, n, 100)).collect();
        assert!(turns.windows(2).all(|w| w[0] < w[1]));
        assert!(turns.iter().all(|turn| *turn < window));
    }
}
