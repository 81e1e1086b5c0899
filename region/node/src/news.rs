//! What the thread that looks after assignments hears: from the store, from shards and their
//! followers, from whoever drains the node.

use std::collections::VecDeque;
use std::time::Duration;

use gb6_core_model::ShardEpoch;
use gb6_core_ports::MapEntry;
use gb6_region_assign::Written;
use parking_lot::{Condvar, Mutex};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum News {
    /// A look at the store has ended.
    Looked {
        /// When it was begun, in ms of the node's clock.
        begun_ms: u64,
        revision: u64,
        changes: Vec<MapEntry>,
    },
    /// The store of agreed records went back to what it was earlier.
    Restored,
    /// A record that was read.
    Read {
        key: String,
        record: Option<(Vec<u8>, u64)>,
    },
    /// A change of a record has ended.
    Written { key: String, outcome: Written },
    /// A shard is served under this assignment epoch.
    Serving { shard: u32, epoch: u64 },
    /// The log's epochs are not below those of the assignment.
    EpochsUsedUp {
        shard: u32,
        epoch: u64,
        highest: ShardEpoch,
    },
    /// Nothing of a shard is in flight.
    Paused { shard: u32 },
    /// A shard is no longer served.
    Left { shard: u32 },
    /// A follower has read a log to its end, or can no longer say so.
    CaughtUp { shard: u32, caught_up: bool },
    /// Everything is to be given away.
    Drain,
    /// What was not given away is to be given up.
    GiveUp,
}

/// A queue of news.
#[derive(Default)]
pub(crate) struct NewsBox {
    // overflow: none. Each shard has at most a few news of each kind under way (what a follower says
    // replaces what it said), the store one look, for which the next one waits, and one change of each
    // record.
    news: Mutex<VecDeque<News>>,
    filled: Condvar,
    taken: Condvar,
}

/// How often whoever waits for room looks whether it is still to.
const STEP: Duration = Duration::from_millis(100);

impl NewsBox {
    /// Adds one.
    pub(crate) fn push(&self, news: News) {
        let mut all = self.news.lock();
        let same = all.iter_mut().find(|old| match (&**old, &news) {
            (News::CaughtUp { shard: old, .. }, News::CaughtUp { shard, .. }) => old == shard,
            _ => false,
        });
        match same {
            Some(old) => *old = news,
            None => all.push_back(news),
        }
        self.filled.notify_one();
    }

    /// Adds a look, once the one before was taken; `is_over` ends the waiting, and the look is lost.
    pub(crate) fn push_look(&self, look: News, is_over: impl Fn() -> bool) {
        let mut all = self.news.lock();
        while all.iter().any(|news| matches!(news, News::Looked { .. })) {
            if is_over() {
                return;
            }
            self.taken.wait_for(&mut all, STEP);
        }
        all.push_back(look);
        self.filled.notify_one();
    }

    /// Everything that has come; waits for something, up to `wait`.
    pub(crate) fn take(&self, wait: Duration) -> VecDeque<News> {
        let mut news = self.news.lock();
        if news.is_empty() {
            self.filled.wait_for(&mut news, wait);
        }
        self.taken.notify_all();
        std::mem::take(&mut *news)
    }

    /// What has come and was not taken.
    pub(crate) fn len(&self) -> usize {
        self.news.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn look(revision: u64) -> News {
        News::Looked {
            begun_ms: 0,
            revision,
            changes: Vec::new(),
        }
    }

    #[test]
    fn a_look_waits_until_the_one_before_was_taken() {
        let (news, over) = <(Arc<NewsBox>, Arc<AtomicBool>)>::default();
        news.push_look(look(1), || false);
        let (box_, is_over) = (news.clone(), over.clone());
        let looks = std::thread::spawn(move || {
            box_.push_look(look(2), || false);
            box_.push_look(look(3), || is_over.load(Ordering::SeqCst));
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let taken = news.take(Duration::from_secs(10));
            assert_eq!(taken.len(), 1, "one look at a time: {taken:?}");
            seen.extend(taken);
        }
        over.store(true, Ordering::SeqCst);
        assert!(looks.join().is_ok());
        let revisions = seen.iter().map(|news| match news {
            News::Looked { revision, .. } => *revision,
            other => panic!("{other:?}"),
        });
        assert_eq!(revisions.collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_a_follower_says_replaces_what_it_said() {
        let news = NewsBox::default();
        let says = |shard, caught_up| news.push(News::CaughtUp { shard, caught_up });
        for n in 0..100 {
            says(1, n % 2 == 0);
            says(2, true);
        }
        let taken = news.take(Duration::ZERO);
        let said = taken.iter().map(|news| match news {
            News::CaughtUp { shard, caught_up } => (*shard, *caught_up),
            other => panic!("{other:?}"),
        });
        assert_eq!(said.collect::<Vec<_>>(), [(1, false), (2, true)]);
    }
}
