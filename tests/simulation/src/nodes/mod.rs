//! A region of several nodes that share a map of agreed records and a log for each shard.
//!
//! The machine of assignments (`region/assign`) decides in every process who owns what, by the
//! records in the map and a clock that runs at a rate of its own. What it says is done as the product's
//! driver does it, with the product's shard machine: shards are followed, acquired in their log,
//! written, paused, handed over. Edges find the owners by what nodes tell them. The map and the logs are
//! the reference engines, behind paths on which requests take time, are lost, or arrive when whoever
//! sent them has long been replaced. Nodes have no paths to each other: they meet in the map and in
//! the logs alone.
//!
//! Publishers and subscribers use the product's hubs; readers ask whoever believes that it owns a
//! shard, and must never be told less than somebody was told before they asked.

mod check;
mod edges;
mod faults;
mod log;
mod map;
mod members;
mod owner;
mod people;
mod replay;
mod service;
mod serving;
mod world;

use std::collections::BTreeMap;

pub use faults::Fault;
pub use world::run;

/// What may happen in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// Everything that can go wrong, one fault meeting what another has left.
    Anything,
    /// One node dies at a time, and comes back when all is well.
    Deaths,
    /// Nothing goes wrong: shards are moved by hand, nodes drain, leave, come back and join.
    Orderly,
}

/// What a run is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Decides everything else.
    pub seed: u64,
    /// What may happen.
    pub course: Course,
}

/// What a run that ended well has done. Equal for equal plans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Messages in the logs at the end.
    pub records: usize,
    /// Publishes acknowledged.
    pub acknowledged: usize,
    /// Publishes answered that it is not known whether they were written, or that they were not.
    pub failed: u64,
    /// Publishes answered as duplicates.
    pub duplicates: u64,
    /// Answers of readers that were looked at.
    pub reads: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// How often a shard began to be served.
    pub acquired: u64,
    /// Those of them whose node had followed the log before.
    pub followed: u64,
    /// Batches that came from an owner that had been replaced, and counted for nothing.
    pub fenced: u64,
    /// Requests that arrived at a map or a log after their sender had given them up.
    pub late: u64,
    /// How often an owner that could not rely on its lease asked the log whether it still is one.
    pub confirmed: u64,
    /// Those of them that were told that another one is.
    pub deposed: u64,
    /// The longest time in which a shard had no owner that served it, in ms of real time; where anything
    /// may happen, since nothing went wrong any more.
    pub unserved_ms: u64,
    /// The slowest publish that was acknowledged, in ms.
    pub slowest_ms: u64,
    /// Events handled.
    pub events: u64,
    /// A digest of everything that happened, in order.
    pub digest: u64,
}

/// Shards of the region, with one instance in each.
pub(crate) const SHARDS: usize = 4;
/// Edges.
pub(crate) const EDGES: usize = 2;
/// The nodes that the region begins with.
pub(crate) const FOUNDERS: [&str; 3] = ["r0", "r1", "r2"];
/// The node that may join.
pub(crate) const JOINER: &str = "r3";
/// The room of every instance.
pub(crate) const ROOM: &str = "room:a";

/// The instance of a shard.
pub(crate) fn instance(shard: usize) -> String {
    format!("i{shard}")
}
