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
    // overflow: none. Each shard has at most a few news of each kind under way, the store one look,
    // and one change of each record.
    news: Mutex<VecDeque<News>>,
    filled: Condvar,
}

impl NewsBox {
    /// Adds one.
    pub(crate) fn push(&self, news: News) {
        self.news.lock().push_back(news);
        self.filled.notify_one();
    }

    /// Everything that has come; waits for something, up to `wait`.
    pub(crate) fn take(&self, wait: Duration) -> VecDeque<News> {
        let mut news = self.news.lock();
        if news.is_empty() {
            self.filled.wait_for(&mut news, wait);
        }
        std::mem::take(&mut *news)
    }

    /// What has come and was not taken.
    pub(crate) fn len(&self) -> usize {
        self.news.lock().len()
    }
}
