//! Whose turn it is to commit: the shards of a node share its disk and its processors.
//!
//! A sync costs about the same whether it carries one record or a thousand, so shards that sync at
//! the same time only make each other's batches small. Here they take turns, first come first
//! served, and a shard forms its batch when its turn begins: what arrived while it waited shares
//! one sync. On a disk whose syncs take long, several shards have a turn at once, so that waiting
//! for turns never adds up.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A sync that takes so long lets one more shard commit at the same time.
const SYNC_US: u64 = 1_000;
/// How much one sync moves the average: an eighth.
const SMOOTHING: u64 = 8;

/// The turns of one node.
#[derive(Default)]
pub(crate) struct CommitTurns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Bounded by the shards of the node: each waits at most once.
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// The average of what turns took, in microseconds.
    average_us: u64,
}

impl State {
    fn allowed(&self) -> usize {
        1 + usize::try_from(self.average_us / SYNC_US).unwrap_or(usize::MAX - 1)
    }
}

/// The right to commit one batch; given up when dropped.
pub(crate) struct Turn {
    turns: Arc<CommitTurns>,
    /// How long the sync took, once it is known.
    pub(crate) sync_us: Option<u64>,
}

/// A turn that was asked for.
pub(crate) enum Asked {
    /// It has come.
    Now(Turn),
    /// It comes when others have had theirs. Dropping it gives it up.
    Later(oneshot::Receiver<Turn>),
}

impl CommitTurns {
    /// Asks for a turn.
    pub(crate) fn ask(self: &Arc<Self>) -> Asked {
        let mut state = self.state.lock();
        if state.running < state.allowed() && state.waiting.is_empty() {
            state.running += 1;
            drop(state);
            return Asked::Now(self.turn());
        }
        let (give, take) = oneshot::channel();
        state.waiting.push_back(give);
        Asked::Later(take)
    }

    fn turn(self: &Arc<Self>) -> Turn {
        Turn {
            turns: self.clone(),
            sync_us: None,
        }
    }

    fn ended(self: &Arc<Self>, sync_us: Option<u64>) {
        let mut state = self.state.lock();
        state.running -= 1;
        if let Some(took) = sync_us {
            state.average_us =
                (state.average_us * (SMOOTHING - 1) + took.min(SYNC_US * 1024)) / SMOOTHING;
        }
        let mut next = Vec::new();
        while state.running < state.allowed()
            && let Some(waiting) = state.waiting.pop_front()
        {
            // Who has given up waiting gets none.
            if !waiting.is_closed() {
                state.running += 1;
                next.push(waiting);
            }
        }
        // A turn that finds nobody is dropped, which locks the state again.
        drop(state);
        for waiting in next {
            let _ = waiting.send(self.turn());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.ended(self.sync_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(turns: &Arc<CommitTurns>) -> Turn {
        match turns.ask() {
            Asked::Now(turn) => turn,
            Asked::Later(_) => panic!("a turn was free"),
        }
    }

    fn later(turns: &Arc<CommitTurns>) -> oneshot::Receiver<Turn> {
        match turns.ask() {
            Asked::Now(_) => panic!("no turn was free"),
            Asked::Later(turn) => turn,
        }
    }

    #[test]
    fn one_after_the_other_in_the_order_of_asking() {
        let turns = Arc::new(CommitTurns::default());
        let mut first = now(&turns);
        let mut second = later(&turns);
        let gone = later(&turns);
        let mut third = later(&turns);
        drop(gone);
        assert!(second.try_recv().is_err());
        first.sync_us = Some(100);
        drop(first);
        let turn = second.try_recv().expect("it is its turn");
        assert!(third.try_recv().is_err());
        drop(turn);
        drop(
            third
                .try_recv()
                .expect("the one that gave up is passed over"),
        );
        drop(now(&turns));
    }

    #[test]
    fn a_turn_that_arrives_at_nobody_goes_on_to_the_next() {
        let turns = Arc::new(CommitTurns::default());
        let first = now(&turns);
        let second = later(&turns);
        let mut third = later(&turns);
        drop(first);
        // It was given, and whoever asked is gone without having taken it.
        drop(second);
        drop(third.try_recv().expect("it is its turn"));
    }

    #[test]
    fn a_slow_disk_lets_several_have_a_turn_and_a_fast_one_not() {
        let turns = Arc::new(CommitTurns::default());
        for _ in 0..100 {
            let mut turn = now(&turns);
            turn.sync_us = Some(3 * SYNC_US + SYNC_US / 2);
            drop(turn);
        }
        let several: Vec<Turn> = (0..4).map(|_| now(&turns)).collect();
        let mut fifth = later(&turns);
        drop(several);
        drop(fifth.try_recv().expect("it is its turn"));
        for _ in 0..100 {
            let mut turn = now(&turns);
            turn.sync_us = Some(200);
            drop(turn);
        }
        let only = now(&turns);
        drop(later(&turns));
        drop(only);
    }
}
