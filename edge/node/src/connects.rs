//! The rate at which sessions may begin: when thousands come back at once, the ones that are served
//! are served well, those behind wait for a moment, and further ones are told to come back later,
//! which SDKs do with jitter.

use std::time::{Duration, Instant};

use gb6_core_obs::Gauge;
use gb6_edge_session::{ConnectLater, ConnectPace};
use parking_lot::Mutex;

/// The pace of beginning sessions.
#[derive(Debug)]
pub(crate) struct Connects {
    pace: Mutex<ConnectPace>,
    began: Instant,
    waiting: Gauge,
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
            pace: Mutex::new(ConnectPace::new(per_second, wait)),
            began: Instant::now(),
            waiting,
        }
    }

    /// Another pace from now on. Who waits keeps its turn.
    pub(crate) fn set(&self, per_second: Option<u32>, wait: Duration) {
        self.pace.lock().set(per_second, wait);
    }

    /// Waits for the turn of one session, holding what `aside` gives meanwhile. Whoever gives up
    /// waiting has had its turn.
    pub(crate) async fn enter<G>(&self, aside: impl FnOnce() -> G) -> Result<(), ConnectLater> {
        let turn = self.pace.lock().turn(self.began.elapsed(), rand::random());
        let wait = turn?;
        if !wait.is_zero() {
            self.waiting.inc();
            let _waiting = (Waiting(&self.waiting), aside());
            tokio::time::sleep(wait).await;
        }
        Ok(())
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

    #[tokio::test]
    async fn another_pace_is_in_force_at_once() {
        let connects = connects(Some(1), 0);
        connects.enter(|| ()).await.unwrap();
        assert!(connects.enter(|| ()).await.is_err());
        connects.set(None, Duration::ZERO);
        for _ in 0..100 {
            connects.enter(|| ()).await.unwrap();
        }
        connects.set(Some(1), Duration::ZERO);
        while connects.enter(|| ()).await.is_ok() {}
    }

    #[tokio::test]
    async fn those_that_wait_are_counted_until_they_are_served_or_gone() {
        let connects = connects(Some(10), 1_000);
        for _ in 0..10 {
            connects.enter(|| ()).await.unwrap();
        }
        let mut waits = std::pin::pin!(connects.enter(|| ()));
        let moment = Duration::from_millis(1);
        let looked = tokio::time::timeout(moment, waits.as_mut()).await;
        assert!(looked.is_err() && connects.waiting.get() == 1);
        {
            let mut gone = std::pin::pin!(connects.enter(|| ()));
            let looked = tokio::time::timeout(moment, gone.as_mut()).await;
            assert!(looked.is_err() && connects.waiting.get() == 2);
        }
        assert_eq!(connects.waiting.get(), 1);
        waits.await.unwrap();
        assert_eq!(connects.waiting.get(), 0);
    }
}
