//! Where the records of sessions lie in a shard's log: told by the shard's actor as it commits, so
//! that whoever sends webhooks reads these records alone and not the log around them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_wire::record::{Kind, Record};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Positions kept for one instance; what lies before the oldest kept one is found by reading the
/// log.
const POSITIONS_MAX: usize = 10_000;

/// The positions of the records of sessions of one shard, by instance. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Mutex<State>>);

struct State {
    /// Everything before it is committed.
    end: Position,
    /// Instances that somebody follows.
    followed: HashMap<String, Marks>,
}

struct Marks {
    /// From here on every record of a session of the instance is among `positions`.
    from: Position,
    positions: VecDeque<Position>,
    wake: Arc<Notify>,
}

/// What to read next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The log itself, which was not followed from that position on.
    Scan,
    /// The records at these positions; then everything before the last number is read.
    At(Vec<Position>, Position),
    /// Nothing: everything before this position is read.
    Nothing(Position),
}

impl Feed {
    /// Of a log whose next record takes position `next`.
    pub(crate) fn new(next: Position) -> Self {
        Self(Arc::new(Mutex::new(State {
            end: next,
            followed: HashMap::new(),
        })))
    }

    /// A batch was committed.
    pub(crate) fn committed(&self, batch: &[Record]) {
        let Some(last) = batch.last() else { return };
        let mut state = self.0.lock();
        state.end = last.position + 1;
        if state.followed.is_empty() {
            return;
        }
        for record in batch.iter().filter(|r| r.kind == Kind::Session as i32) {
            if let Some(marks) = state.followed.get_mut(&record.instance) {
                // overflow: the oldest goes, and is found in the log.
                if marks.positions.len() >= POSITIONS_MAX
                    && let Some(oldest) = marks.positions.pop_front()
                {
                    marks.from = oldest + 1;
                }
                marks.positions.push_back(record.position);
                marks.wake.notify_one();
            }
        }
    }

    /// Follows an instance until what is answered is dropped. One at a time follows it.
    pub(super) fn follow(&self, instance: &str) -> Follower {
        let mut state = self.0.lock();
        let wake = Arc::<Notify>::default();
        let marks = Marks {
            from: state.end,
            positions: VecDeque::new(),
            wake: wake.clone(),
        };
        state.followed.insert(instance.to_owned(), marks);
        Follower {
            feed: self.clone(),
            instance: instance.to_owned(),
            wake,
        }
    }

    /// Positions kept for an instance.
    pub(super) fn kept(&self, instance: &str) -> usize {
        let state = self.0.lock();
        let marks = state.followed.get(instance);
        marks.map_or(0, |marks| marks.positions.len())
    }
}

/// One instance of a [`Feed`].
pub(super) struct Follower {
    pub(super) feed: Feed,
    pub(super) instance: String,
    wake: Arc<Notify>,
}

impl Follower {
    /// What to read from `from` on, at most `max` records. Everything before was read.
    pub(super) fn next(&self, from: Position, max: usize) -> Next {
        self.passed(from);
        let state = self.feed.0.lock();
        let Some(marks) = state.followed.get(&self.instance) else {
            return Next::Scan;
        };
        if from < marks.from {
            return Next::Scan;
        }
        let positions: Vec<_> = marks.positions.iter().take(max).copied().collect();
        match positions.last() {
            None => Next::Nothing(state.end.max(from)),
            Some(_) if positions.len() == marks.positions.len() => {
                Next::At(positions, state.end.max(from))
            }
            Some(last) => {
                let to = last + 1;
                Next::At(positions, to)
            }
        }
    }

    /// Everything before `to` was read.
    pub(super) fn passed(&self, to: Position) {
        let mut state = self.feed.0.lock();
        if let Some(marks) = state.followed.get_mut(&self.instance) {
            let gone = marks.positions.partition_point(|p| *p < to);
            marks.positions.drain(..gone);
        }
    }

    /// Waits until there may be something new. Safe to cancel.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.feed.0.lock();
        let ours = |marks: &Marks| Arc::ptr_eq(&marks.wake, &self.wake);
        if state.followed.get(&self.instance).is_some_and(ours) {
            state.followed.remove(&self.instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instance: &str, position: Position, kind: Kind) -> Record {
        Record {
            kind: kind.into(),
            instance: instance.into(),
            position,
            ..Record::default()
        }
    }

    #[test]
    fn sessions_of_the_instance_alone_are_told_from_the_beginning_on() {
        let feed = Feed::new(10);
        let follower = feed.follow("demo");
        assert_eq!(follower.next(9, 10), Next::Scan);
        assert_eq!(follower.next(10, 10), Next::Nothing(10));
        feed.committed(&[
            record("demo", 10, Kind::Message),
            record("demo", 11, Kind::Session),
            record("acme", 12, Kind::Session),
            record("demo", 13, Kind::Session),
            record("demo", 14, Kind::Message),
        ]);
        assert_eq!(follower.next(10, 10), Next::At(vec![11, 13], 15));
        assert_eq!(follower.next(10, 1), Next::At(vec![11], 12));
        follower.passed(12);
        assert_eq!(feed.kept("demo"), 1);
        assert_eq!(follower.next(12, 1), Next::At(vec![13], 15));
        follower.passed(15);
        assert_eq!(follower.next(15, 1), Next::Nothing(15));
        drop(follower);
        feed.committed(&[record("demo", 15, Kind::Session)]);
        assert_eq!(feed.kept("demo"), 0, "nobody follows it");
        assert_eq!(feed.follow("demo").next(15, 1), Next::Scan);
    }

    #[test]
    fn what_does_not_fit_is_read_from_the_log() {
        let feed = Feed::new(0);
        let follower = feed.follow("demo");
        let most = POSITIONS_MAX as u64;
        let batch: Vec<_> = (0..most + 5)
            .map(|p| record("demo", p, Kind::Session))
            .collect();
        feed.committed(&batch);
        assert_eq!(feed.kept("demo"), POSITIONS_MAX);
        assert_eq!(follower.next(4, 1), Next::Scan);
        assert_eq!(follower.next(5, 1), Next::At(vec![5], 6));
    }
}
