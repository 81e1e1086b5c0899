//! How many standbys of a node read their logs to the end at once, when they begin: a node that is given many
//! shards to follow would else read as many logs and checkpoints at the same time.
//!
//! Who comes first reads first, and has its place until it has read to the end: from then on only what is
//! new is read, for which no place is needed. Shards that the node is to serve come before all of them:
//! while it reads any of these, nobody gets a place, and who has one reads no further. (Of one of which
//! nothing can be read nobody knows when that will be.) Who gets no further
//! keeps no other waiting, for what it waits for may be lost for its shard alone; of those there are so
//! many at most, for it may be slow for all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::{Gauge, Metrics};
use parking_lot::Mutex;

use crate::recoveries::{Recoveries, STILL, STILL_MAX};

/// The places of a node.
pub(crate) struct CatchUps {
    max: usize,
    still_max: Duration,
    owners: Arc<Recoveries>,
    state: Mutex<State>,
    waiting: Gauge,
    running: Gauge,
}

#[derive(Default)]
struct State {
    /// Who waits, the first in front.
    // overflow: none. Each standby of the node waits at most once.
    waiting: VecDeque<u64>,
    /// Who has a place.
    reading: BTreeMap<u64, Reader>,
    /// The number of who came last.
    number: u64,
}

#[derive(Clone, Copy)]
struct Reader {
    /// When something was last read, or it got its place.
    last: Instant,
    /// Something was read.
    reads: bool,
}

/// What a standby may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum May {
    /// Read on; it has a place from the first time on.
    Read,
    /// Wait. Others read meanwhile, or nobody does: that says nothing good of the logs.
    Wait { others_read: bool },
}

/// The right to read one log to its end; given back when dropped.
pub(crate) struct Turn {
    number: u64,
    of: Arc<CatchUps>,
}

impl CatchUps {
    /// Places for `max` standbys, at least one, of a node that recovers its own shards like this.
    pub(crate) fn new(max: usize, owners: Arc<Recoveries>, metrics: &Metrics) -> Self {
        Self {
            max: max.max(1),
            still_max: STILL_MAX,
            owners,
            state: Mutex::default(),
            waiting: metrics.gauge(
                "gb6_standby_catch_ups_waiting",
                "Standbys of this node that wait to begin, because as many as may be read their logs to the end, or shards of the node's own are recovered.",
            ),
            running: metrics.gauge(
                "gb6_standby_catch_ups_running",
                "Standbys of this node that read their logs to the end, having begun.",
            ),
        }
    }

    /// Comes to wait for a place.
    pub(crate) fn come(self: &Arc<Self>) -> Turn {
        let mut state = self.state.lock();
        state.number += 1;
        let number = state.number;
        state.waiting.push_back(number);
        self.show(&state);
        drop(state);
        Turn {
            number,
            of: self.clone(),
        }
    }

    fn show(&self, state: &State) {
        let number = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
        self.waiting.set(number(state.waiting.len()));
        self.running.set(number(state.reading.len()));
    }
}

impl Turn {
    /// What it may do now. Does not wait.
    pub(crate) fn may(&self) -> May {
        let of = &*self.of;
        let mut state = of.state.lock();
        if of.owners.read_on() {
            // It stands still for others.
            if let Some(reader) = state.reading.get_mut(&self.number) {
                reader.last = Instant::now();
            }
            return May::Wait { others_read: true };
        }
        if state.reading.contains_key(&self.number) {
            return May::Read;
        }
        let gets_on = |reader: &&Reader| reader.last.elapsed() < of.still_max;
        let busy = state.reading.values().filter(gets_on);
        let others_read = busy.clone().any(|reader| reader.reads);
        let free = busy.count() < of.max && state.reading.len() < of.max * (1 + STILL);
        if !free || state.waiting.front() != Some(&self.number) {
            return May::Wait { others_read };
        }
        state.waiting.pop_front();
        let (last, reads) = (Instant::now(), false);
        state.reading.insert(self.number, Reader { last, reads });
        of.show(&state);
        May::Read
    }

    /// Something was read.
    pub(crate) fn reads(&self) {
        if let Some(reader) = self.of.state.lock().reading.get_mut(&self.number) {
            (reader.last, reader.reads) = (Instant::now(), true);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.waiting.retain(|number| *number != self.number);
        state.reading.remove(&self.number);
        self.of.show(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Ownership;
    use crate::recoveries::Progress;

    fn catch_ups(max: usize, still_max: Duration) -> (Arc<CatchUps>, Arc<Recoveries>, Metrics) {
        let metrics = Metrics::bare();
        let owners = Arc::new(Recoveries::new(1, &metrics));
        let catch_ups = CatchUps {
            still_max,
            ..CatchUps::new(max, owners.clone(), &metrics)
        };
        (Arc::new(catch_ups), owners, metrics)
    }

    fn may_read(turn: &Turn) -> bool {
        turn.may() == May::Read
    }

    fn shown(metrics: &Metrics, waiting: u32, running: u32) {
        let text = metrics.text();
        for (name, value) in [("waiting", waiting), ("running", running)] {
            let line = format!("gb6_standby_catch_ups_{name} {value}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn so_many_read_at_once_and_who_came_first_is_next() {
        let (catch_ups, _, metrics) = catch_ups(2, STILL_MAX);
        let mut turns: VecDeque<Turn> = (0..5).map(|_| catch_ups.come()).collect();
        shown(&metrics, 5, 0);
        // Whoever asks first.
        let mut reads: Vec<bool> = turns.iter().rev().map(may_read).collect();
        assert_eq!(reads, [false, false, false, false, true]);
        reads = turns.iter().map(may_read).collect();
        assert_eq!(reads, [true, true, false, false, false]);
        shown(&metrics, 3, 2);
        // Nobody knows yet whether the logs can be read.
        let others_read = false;
        assert_eq!(turns[4].may(), May::Wait { others_read });
        turns[0].reads();
        let others_read = true;
        assert_eq!(turns[4].may(), May::Wait { others_read });
        // One that waits gives up, one that reads has read all.
        drop(turns.remove(2));
        drop(turns.pop_front());
        reads = turns.iter().map(may_read).collect();
        assert_eq!(reads, [true, true, false]);
        drop(turns);
        shown(&metrics, 0, 0);
    }

    #[tokio::test]
    async fn nobody_reads_while_a_shard_of_the_nodes_own_is_read() {
        let (catch_ups, owners, metrics) = catch_ups(2, STILL_MAX);
        let (reads, waits) = (catch_ups.come(), catch_ups.come());
        assert!(may_read(&reads));
        let place = owners.place(false).await;
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let recovers = owners.clone();
        let progress = Arc::new(Progress::of(Ownership::Placed));
        let made = progress.clone();
        let recovered = tokio::spawn(async move {
            let recovering = tokio::spawn(async move { ended.await.is_ok() });
            recovers.end(place, &progress, recovering).await
        });
        assert!(may_read(&reads), "nothing of it was read yet");
        let owners_read = async {
            while may_read(&reads) {
                made.read();
                tokio::task::yield_now().await;
            }
        };
        let within = std::time::Duration::from_secs(30);
        assert!(tokio::time::timeout(within, owners_read).await.is_ok());
        let others_read = true;
        assert_eq!(waits.may(), May::Wait { others_read });
        shown(&metrics, 1, 1);
        assert!(end.send(()).is_ok() && recovered.await.is_ok());
        assert!(may_read(&reads) && may_read(&waits));
    }

    #[test]
    fn who_gets_no_further_keeps_no_other_waiting_and_there_are_so_many_of_them() {
        let (catch_ups, _, metrics) = catch_ups(1, Duration::ZERO);
        let turns: Vec<Turn> = (0..2 + STILL).map(|_| catch_ups.come()).collect();
        let reads = turns.iter().filter(|turn| may_read(turn)).count();
        assert_eq!(reads, 1 + STILL);
        shown(&metrics, 1, 1 + STILL as u32);
        let (catch_ups, ..) = self::catch_ups(1, Duration::from_secs(60));
        let turns = [catch_ups.come(), catch_ups.come()];
        assert!(may_read(&turns[0]));
        turns[0].reads();
        assert!(!may_read(&turns[1]));
    }
}
