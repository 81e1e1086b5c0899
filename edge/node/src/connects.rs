//! The rate at which sessions may begin: when thousands come back at once, the ones that are served
//! are served well, those behind wait for a moment, and further ones are told to come back later,
//! which SDKs do with jitter.

use std::time::{Duration, Instant};

use gb6_core_obs::Gauge;
use parking_lot::Mutex;

/// Sessions that may begin at once are those of so long.
const BURST: Duration = Duration::from_secs(1);
/// The longest time that is named to whoever has to come back later, in seconds. Everybody is named
/// a random one.
const RETRY_MAX_S: u32 = 4;

/// The pace of beginning sessions.
#[derive(Debug)]
pub(crate) struct Connects {
    /// From one to the next, in ns; 0: no limit.
    interval: u64,
    /// How long one may wait for its turn. Overflow policy of this queue, which holds no more than
    /// begin in that time: who would wait longer is refused at once.
    wait: Duration,
    began: Instant,
    /// The turn of the next one, in ns since [`BURST`] before `began`.
    next: Mutex<u64>,
    waiting: Gauge,
}

/// There is no turn for it soon enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy {
    /// When it should come back, in seconds.
    pub(crate) retry_after_s: u32,
}

/// Counts one out of those that wait, however its waiting ends.
struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connects {
    /// `per_second` sessions; `None`: any number. One waits for `wait` at most.
    pub(crate) fn new(per_second: Option<u32>, wait: Duration, waiting: Gauge) -> Self {
        Self {
            interval: per_second.map_or(0, |rate| 1_000_000_000 / u64::from(rate.max(1))),
            wait,
            began: Instant::now(),
            next: Mutex::default(),
            waiting,
        }
    }

    /// Waits for the turn of one session. Whoever gives up waiting has had its turn.
    pub(crate) async fn enter(&self) -> Result<(), Busy> {
        let wait = self.turn(self.began.elapsed())?;
        if !wait.is_zero() {
            self.waiting.inc();
            let _waiting = Waiting(&self.waiting);
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// How long it is to the next turn, which is then taken.
    fn turn(&self, now: Duration) -> Result<Duration, Busy> {
        if self.interval == 0 {
            return Ok(Duration::ZERO);
        }
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // As if nobody had come for so long before it began.
        let now_ns = ns(now.saturating_add(BURST));
        let mut next = self.next.lock();
        // The burst ends with the one whose turn is now.
        let oldest = (now_ns + self.interval).saturating_sub(ns(BURST));
        let turn = (*next).max(oldest);
        let wait = turn.saturating_sub(now_ns);
        if wait > ns(self.wait) {
            return Err(Busy {
                retry_after_s: rand::random_range(1..=RETRY_MAX_S),
            });
        }
        *next = turn + self.interval;
        Ok(Duration::from_nanos(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_obs::Metrics;

    fn connects(per_second: Option<u32>, wait_ms: u64) -> Connects {
        let waiting = Metrics::bare().gauge("gb6_waiting", "For the test.");
        Connects::new(per_second, Duration::from_millis(wait_ms), waiting)
    }

    #[test]
    fn a_burst_then_the_rate_then_a_refusal() {
        let connects = connects(Some(100), 50);
        let at = |ms| connects.turn(Duration::from_millis(ms));
        let begin = 0;
        for n in 0..100 {
            assert_eq!(at(begin), Ok(Duration::ZERO), "{n}");
        }
        for n in 1..=5 {
            assert_eq!(at(begin), Ok(Duration::from_millis(10 * n)));
        }
        for _ in 0..100 {
            let busy = at(begin).unwrap_err();
            assert!((1..=RETRY_MAX_S).contains(&busy.retry_after_s));
        }
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
    fn without_a_rate_everybody_enters() {
        let connects = connects(None, 0);
        assert!((0..100_000).all(|_| connects.turn(Duration::ZERO) == Ok(Duration::ZERO)));
    }

    #[tokio::test]
    async fn those_that_wait_are_counted_until_they_are_served_or_gone() {
        let connects = connects(Some(10), 1_000);
        for _ in 0..10 {
            connects.enter().await.unwrap();
        }
        let mut waits = std::pin::pin!(connects.enter());
        let moment = Duration::from_millis(1);
        let looked = tokio::time::timeout(moment, waits.as_mut()).await;
        assert!(looked.is_err() && connects.waiting.get() == 1);
        {
            let mut gone = std::pin::pin!(connects.enter());
            let looked = tokio::time::timeout(moment, gone.as_mut()).await;
            assert!(looked.is_err() && connects.waiting.get() == 2);
        }
        assert_eq!(connects.waiting.get(), 1);
        waits.await.unwrap();
        assert_eq!(connects.waiting.get(), 0);
    }
}
