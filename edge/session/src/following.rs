//! A subscription to a prefix: it is in the hub of every shard that has rooms of its instance, and
//! these agree here on its one answer and its one end.
//!
//! A hub counts itself in when the owner of its shard has answered. The last to do so answers the
//! subscribe and then opens the subscription; until then nobody delivers, so that the client's
//! answer is the first that it hears. Whoever has something to deliver in that moment waits for its
//! end: a client that has the answer misses nothing of what comes behind it. Whoever ends it first
//! says so.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use gb6_core_wire::mesh::ShardRef;

/// Some hubs have not counted themselves in.
const BEGINS: u8 = 0;
/// All have, and the subscribe is being answered.
const ANSWERED: u8 = 1;
/// Publications are delivered.
const OPEN: u8 = 2;
/// It is over, or never began.
const OVER: u8 = 3;

/// How far a subscription to a prefix is, shared by the hubs that have it.
#[derive(Debug)]
pub struct Following {
    shards: Vec<ShardRef>,
    missing: AtomicUsize,
    staying: AtomicUsize,
    stage: AtomicU8,
    /// Held while the subscribe is being answered, which is a push to a queue.
    answering: Mutex<()>,
}

/// What is left to do for the one that ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The subscribe is not answered: it is to fail.
    Unanswered,
    /// It was open: its session is to be told.
    Open,
    /// Nothing: it had ended.
    Before,
}

impl Following {
    /// One that begins, in these shards, of which there is at least one.
    pub fn new(shards: Vec<ShardRef>) -> Self {
        Self {
            missing: AtomicUsize::new(shards.len()),
            staying: AtomicUsize::new(shards.len()),
            stage: AtomicU8::new(BEGINS),
            answering: Mutex::default(),
            shards,
        }
    }

    /// The shards that it is in.
    pub fn shards(&self) -> &[ShardRef] {
        &self.shards
    }

    /// The hub of one shard has let go of it, or there is no such hub any more. `true`: the last has,
    /// and whoever says so answers what was asked. Once for each shard.
    pub fn left(&self) -> bool {
        self.staying.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The owner of one shard has answered. Where it was the last one, `answer` answers the subscribe,
    /// and the subscription is open. Once for each shard.
    pub(crate) fn confirmed(&self, answer: impl FnOnce()) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let _answering = self
            .answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.pass(BEGINS, ANSWERED) {
            answer();
            self.pass(ANSWERED, OPEN);
        }
    }

    /// Whether publications are delivered.
    pub(crate) fn is_open(&self) -> bool {
        self.settled() == OPEN
    }

    /// It can not go on.
    pub(crate) fn end(&self) -> Ended {
        loop {
            match self.settled() {
                OPEN if self.pass(OPEN, OVER) => return Ended::Open,
                BEGINS if self.pass(BEGINS, OVER) => return Ended::Unanswered,
                OVER => return Ended::Before,
                _ => {}
            }
        }
    }

    /// The stage that it is in when no answer is being given.
    fn settled(&self) -> u8 {
        match self.stage.load(Ordering::Acquire) {
            ANSWERED => {
                drop(self.answering.lock());
                self.stage.load(Ordering::Acquire)
            }
            stage => stage,
        }
    }

    fn pass(&self, from: u8, to: u8) -> bool {
        let passed = self
            .stage
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        passed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn following(shards: u32) -> Following {
        let shard = |shard| ShardRef {
            region: "eu".into(),
            shard,
        };
        Following::new((0..shards).map(shard).collect())
    }

    #[test]
    fn the_last_answers_and_opens() {
        let f = following(3);
        let mut answers = 0;
        for missing in [2, 1, 0] {
            assert!(!f.is_open());
            f.confirmed(|| answers += 1);
            assert_eq!(answers, usize::from(missing == 0));
        }
        assert!(f.is_open());
        assert_eq!(f.end(), Ended::Open);
        assert_eq!(f.end(), Ended::Before);
        assert!(!f.is_open());
        assert!(!f.left() && !f.left() && f.left());
    }

    #[test]
    fn what_comes_while_it_is_answered_waits_until_it_is_open() {
        let f = &following(1);
        let mut was_open = None;
        std::thread::scope(|threads| {
            let (asks, asked) = std::sync::mpsc::channel();
            let look = move || {
                asks.send(()).unwrap();
                f.is_open()
            };
            let mut looks = None;
            f.confirmed(|| {
                looks = Some(threads.spawn(look));
                asked.recv().unwrap();
            });
            was_open = looks.map(|looks| looks.join().unwrap());
        });
        assert_eq!(was_open, Some(true));
    }

    #[test]
    fn what_ended_before_it_began_is_never_answered() {
        let f = following(2);
        f.confirmed(|| panic!("one is missing"));
        assert_eq!(f.end(), Ended::Unanswered);
        f.confirmed(|| panic!("it is over"));
        assert!(!f.is_open());
        assert_eq!(f.end(), Ended::Before);
    }
}
