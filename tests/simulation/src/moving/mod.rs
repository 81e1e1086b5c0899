//! One instance moves from one shard's log into another while it is written, and others are too.
//!
//! Two shards, each with a log and a disk of its own, serve three instances: one that moves, one
//! that stays in the first shard, one that was in the second before. Publishers and subscribers at
//! two edges use the product's hubs. A mover follows the first log for the instance, imports it
//! into the second, seals it in the first, imports the rest, opens it in the second; then the
//! edges are told. In three of four runs a shard or the mover dies in the middle.

mod check;
mod mover;
mod people;
mod shards;
mod world;

use std::collections::BTreeMap;

pub use world::run;

/// Who dies in the middle of the move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Death {
    /// Nobody.
    Nobody,
    /// The owner of the log that the instance leaves.
    Source,
    /// The owner of the log that it goes to.
    Target,
    /// Who carries it over: the next one begins from the start.
    Mover,
}

impl Death {
    /// Every kind.
    pub const ALL: [Death; 4] = [Death::Nobody, Death::Source, Death::Target, Death::Mover];
}

/// What a run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Decides everything else.
    pub seed: u64,
    /// Who dies.
    pub death: Death,
}

impl Move {
    /// The move of a seed: who dies goes in turn.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            death: Death::ALL[(seed % 4) as usize],
        }
    }
}

/// What a run that ended well has done. Equal for equal moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Messages of the instance before the seal, and after the opening.
    pub records: (usize, usize),
    /// Publishes acknowledged, by instance.
    pub acknowledged: BTreeMap<&'static str, usize>,
    /// Publishes answered 1002: sealed here, or not yet open there.
    pub moving: u64,
    /// Publishes answered as duplicates: written before the seal, asked again after the opening.
    pub duplicates: u64,
    /// Records that the mover found to be imported already.
    pub repeated: u64,
    /// The slowest publish of the instances that do not move, before the move began, in ms.
    pub slowest_before_ms: u64,
    /// The slowest one while it went on, in ms; without ones that a death or a broken link held up.
    pub slowest_during_ms: u64,
    /// How many were measured for that.
    pub measured_during: usize,
    /// From the seal's commit to the opening's, in ms.
    pub closed_ms: u64,
    /// A digest of everything that happened, in order.
    pub digest: u64,
}

/// The instance that moves, the one that stays, the one that is there already.
pub(crate) const INSTANCES: [&str; 3] = ["moves", "stays", "host"];
/// Edges.
pub(crate) const EDGES: usize = 2;
/// Index of the shard that the instance leaves.
pub(crate) const SOURCE: usize = 0;
/// Index of the shard that it goes to.
pub(crate) const TARGET: usize = 1;
/// The instance epoch before the move, of the seal, and of the opening.
pub(crate) const EPOCHS: (u64, u64, u64) = (1, 2, 3);
/// Rooms of each instance.
pub(crate) const ROOMS: [&str; 2] = ["room:a", "room:b"];
