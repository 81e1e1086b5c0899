//! Whose turn it is to commit: the shards of a node share its disk and its processors.
//!
//! A sync costs about the same whether it carries one record or a thousand, so shards that sync at
//! the same time only make each other's batches small. Here they take turns, first come first
//! served, and a shard forms its batch when its turn begins: what arrived while it waited shares
//! one sync. On a disk whose syncs take long, several shards have a turn at once, so that waiting
//! for turns never adds up; and beside one turn that takes long another one begins, so that a hiccup
//! of the disk in one shard is not one of all.
//!
//! A shard in which an instance waits that commits less than its share goes first, so that a
//! flooding instance, which is in several shards, does not let the others wait for all of its
//! commits. Of two turns in a row one at most is given so: the others go on at half of the pace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A sync that takes so long lets one more shard commit at the same time.
const SYNC_US: u64 = 1_000;
/// Below so many records a sync two shards have a turn at once: larger batches would save little,
/// and waiting is most of what a publish takes.
const FEW_RECORDS: u64 = 4;
/// A turn that has taken so long, of whatever average, lets another one begin beside it.
const LONG: Duration = Duration::from_millis(2);
/// How much one sync moves the average: an eighth.
const SMOOTHING: u64 = 8;

/// The turns of one node.
#[derive(Default)]
pub(crate) struct CommitTurns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The turns that were given and have not ended, with their beginnings.
    running: Vec<(u64, Instant)>,
    /// Bounded by the shards of the node: each waits at most once, here or in `urgent`.
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
    /// Those that go first.
    urgent: VecDeque<(u64, oneshot::Sender<Turn>)>,
    /// Whether the last turn was given out of order.
    jumped: bool,
    next_number: u64,
    /// The average of what turns took, in microseconds.
    average_us: u64,
    /// The average of the records that their syncs carried, in [`SMOOTHING`]ths.
    average_records: u64,
}

impl State {
    fn allowed(&self, now: Instant) -> usize {
        let long = |began: Instant| now.saturating_duration_since(began) >= LONG;
        let long = self.running.iter().filter(|(_, began)| long(*began));
        let few = self.average_records < FEW_RECORDS * SMOOTHING;
        1 + usize::from(few)
            + long.count()
            + usize::try_from(self.average_us / SYNC_US).unwrap_or(1024)
    }

    /// Counts a turn that begins; its number.
    fn begin(&mut self, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.running.push((number, now));
        number
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let in_order = self.urgent.is_empty() || (self.jumped && !self.waiting.is_empty());
        self.jumped = !in_order;
        let queue = match in_order {
            true => &mut self.waiting,
            false => &mut self.urgent,
        };
        queue.pop_front().map(|(_, waiting)| waiting)
    }
}

/// The right to commit one batch; given up when dropped.
pub(crate) struct Turn {
    turns: Arc<CommitTurns>,
    number: u64,
    /// How long the sync took and how many records it carried, once that is known.
    pub(crate) synced: Option<(u64, u32)>,
}

/// A turn that was asked for.
pub(crate) enum Asked {
    /// It has come.
    Now(Turn),
    /// It comes when others have had theirs. Dropping it gives it up.
    Later(Wait),
}

/// A place among those that wait for their turn.
pub(crate) struct Wait {
    turns: Arc<CommitTurns>,
    number: u64,
    urgent: bool,
    turn: oneshot::Receiver<Turn>,
    /// When it is looked whether the running turns take long.
    look_at: Instant,
}

impl Wait {
    /// Goes before those in which nobody waits that commits less than its share.
    pub(crate) fn hurry(&mut self) {
        if self.urgent {
            return;
        }
        self.urgent = true;
        let mut state = self.turns.state.lock();
        // Where it is not found its turn has come.
        if let Some(at) = state.waiting.iter().position(|(n, _)| *n == self.number)
            && let Some(entry) = state.waiting.remove(at)
        {
            state.urgent.push_back(entry);
        }
    }

    /// The turn, when it comes; `None` when it will not.
    pub(crate) async fn turn(&mut self) -> Option<Turn> {
        loop {
            tokio::select! {
                biased;
                turn = &mut self.turn => return turn.ok(),
                // By the clock: this future may be made anew before a timer of its own is over.
                () = tokio::time::sleep_until(self.look_at) => {
                    self.look_at = Instant::now() + LONG;
                    self.turns.give(Instant::now());
                }
            }
        }
    }
}

impl CommitTurns {
    /// Asks for a turn.
    pub(crate) fn ask(self: &Arc<Self>) -> Asked {
        let mut state = self.state.lock();
        let now = Instant::now();
        let nobody_waits = state.waiting.is_empty() && state.urgent.is_empty();
        if state.running.len() < state.allowed(now) && nobody_waits {
            let number = state.begin(now);
            drop(state);
            return Asked::Now(self.turn(number));
        }
        let (give, take) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back((number, give));
        Asked::Later(Wait {
            turns: self.clone(),
            number,
            urgent: false,
            turn: take,
            look_at: now + LONG,
        })
    }

    fn turn(self: &Arc<Self>, number: u64) -> Turn {
        Turn {
            turns: self.clone(),
            number,
            synced: None,
        }
    }

    fn ended(self: &Arc<Self>, number: u64, synced: Option<(u64, u32)>) {
        let mut state = self.state.lock();
        state.running.retain(|(running, _)| *running != number);
        if let Some((took, records)) = synced {
            state.average_us =
                (state.average_us * (SMOOTHING - 1) + took.min(SYNC_US * 1024)) / SMOOTHING;
            state.average_records -= state.average_records / SMOOTHING;
            state.average_records += u64::from(records);
        }
        drop(state);
        self.give(Instant::now());
    }

    /// Gives turns to those that wait, as far as there may be more.
    fn give(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        let mut next = Vec::new();
        while state.running.len() < state.allowed(now)
            && let Some(waiting) = state.next()
        {
            // Who has given up waiting gets none.
            if !waiting.is_closed() {
                next.push((state.begin(now), waiting));
            }
        }
        // A turn that finds nobody is dropped, which locks the state again.
        drop(state);
        for (number, waiting) in next {
            let _ = waiting.send(self.turn(number));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.ended(self.number, self.synced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 64;

    /// The turns of a node whose syncs carry many records.
    fn busy() -> Arc<CommitTurns> {
        let turns = Arc::new(CommitTurns::default());
        for _ in 0..20 {
            now(&turns).synced = Some((100, MANY));
        }
        turns
    }

    #[test]
    fn two_at_once_while_syncs_carry_little() {
        let turns = busy();
        for _ in 0..100 {
            now(&turns).synced = Some((100, 1));
        }
        let both = (now(&turns), now(&turns));
        drop(later(&turns));
        drop(both);
        for _ in 0..20 {
            now(&turns).synced = Some((100, MANY));
        }
        let only = now(&turns);
        drop(later(&turns));
        drop(only);
    }

    fn now(turns: &Arc<CommitTurns>) -> Turn {
        match turns.ask() {
            Asked::Now(turn) => turn,
            Asked::Later(_) => panic!("a turn was free"),
        }
    }

    fn wait(turns: &Arc<CommitTurns>) -> Wait {
        match turns.ask() {
            Asked::Now(_) => panic!("no turn was free"),
            Asked::Later(wait) => wait,
        }
    }

    fn later(turns: &Arc<CommitTurns>) -> oneshot::Receiver<Turn> {
        wait(turns).turn
    }

    #[tokio::test]
    async fn beside_a_turn_that_takes_long_another_one_begins() {
        let turns = busy();
        let begin = Instant::now();
        let stuck = now(&turns);
        let (mut second, mut third) = (wait(&turns), wait(&turns));
        let turn = second.turn().await.expect("a turn");
        assert!(begin.elapsed() >= LONG);
        // Only one more: the third waits for the second, or until that takes long too.
        turns.give(begin + LONG);
        assert!(third.turn.try_recv().is_err());
        drop(turn);
        let turn = third.turn.try_recv().expect("its turn");
        drop(stuck);
        drop(later(&turns));
        drop(turn);
        drop(now(&turns));
    }

    #[test]
    fn who_hurries_goes_first_but_not_twice_in_a_row() {
        let turns = busy();
        let first = now(&turns);
        let mut waits: Vec<Wait> = (0..6).map(|_| wait(&turns)).collect();
        for n in [2, 4, 5] {
            waits[n].hurry();
            waits[n].hurry();
        }
        let mut order = Vec::new();
        let mut held = Some(first);
        while order.len() < waits.len() {
            drop(held.take());
            let (n, turn) = waits
                .iter_mut()
                .enumerate()
                .find_map(|(n, w)| Some((n, w.turn.try_recv().ok()?)))
                .expect("somebody has a turn");
            order.push(n);
            held = Some(turn);
        }
        assert_eq!(order, [2, 0, 4, 1, 5, 3]);
        // One whose turn has come hurries in vain.
        waits[0].hurry();
        drop(held);
        drop(now(&turns));
    }

    #[test]
    fn one_after_the_other_in_the_order_of_asking() {
        let turns = busy();
        let mut first = now(&turns);
        let mut second = later(&turns);
        let gone = later(&turns);
        let mut third = later(&turns);
        drop(gone);
        assert!(second.try_recv().is_err());
        first.synced = Some((100, MANY));
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
        let turns = busy();
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
        let turns = busy();
        for _ in 0..100 {
            let mut turn = now(&turns);
            turn.synced = Some((3 * SYNC_US + SYNC_US / 2, MANY));
            drop(turn);
        }
        let several: Vec<Turn> = (0..4).map(|_| now(&turns)).collect();
        let mut fifth = later(&turns);
        drop(several);
        drop(fifth.try_recv().expect("it is its turn"));
        for _ in 0..100 {
            let mut turn = now(&turns);
            turn.synced = Some((200, MANY));
            drop(turn);
        }
        let only = now(&turns);
        drop(later(&turns));
        drop(only);
    }
}
