//! A subscription to a prefix: it is in the hub of every shard that has rooms of its instance, and
//! these agree here on its one answer and its one end.
//!
//! A hub counts itself in when the owner of its shard has answered. The last to do so answers the
//! subscribe and then opens the subscription; until then nobody delivers, so that the client's
//! answer is the first that it hears. Whoever ends it first says so.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

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
}

/// What is left to do for the one that ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The subscribe is not answered: it is to fail.
    Unanswered,
    /// It was open: its session is to be told.
    Open,
    /// Its answer is on its way: to be ended again.
    NotYet,
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

    /// The owner of one shard has answered. `true`: it was the last: whoever says so answers the
    /// subscribe and opens it. Once for each shard.
    pub(crate) fn confirmed(&self) -> bool {
        self.missing.fetch_sub(1, Ordering::AcqRel) == 1 && self.pass(BEGINS, ANSWERED)
    }

    /// The subscribe is answered.
    pub(crate) fn open(&self) {
        self.pass(ANSWERED, OPEN);
    }

    /// Whether publications are delivered.
    pub(crate) fn is_open(&self) -> bool {
        self.stage.load(Ordering::Acquire) == OPEN
    }

    /// It can not go on.
    pub(crate) fn end(&self) -> Ended {
        if self.pass(OPEN, OVER) {
            Ended::Open
        } else if self.pass(BEGINS, OVER) {
            Ended::Unanswered
        } else if self.stage.load(Ordering::Acquire) == OVER {
            Ended::Before
        } else {
            Ended::NotYet
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
        assert!(!f.confirmed() && !f.confirmed() && !f.is_open());
        assert!(f.confirmed() && !f.is_open());
        assert_eq!(f.end(), Ended::NotYet);
        f.open();
        assert!(f.is_open());
        assert_eq!(f.end(), Ended::Open);
        assert_eq!(f.end(), Ended::Before);
        assert!(!f.is_open());
        assert!(!f.left() && !f.left() && f.left());
    }

    #[test]
    fn what_ended_before_it_began_is_never_answered() {
        let f = following(2);
        assert!(!f.confirmed());
        assert_eq!(f.end(), Ended::Unanswered);
        assert!(!f.confirmed());
        f.open();
        assert!(!f.is_open());
        assert_eq!(f.end(), Ended::Before);
    }
}
