//! Which node of a region owns which shard: a pure machine that is told what the records of nodes and
//! assignments say and when they changed, and answers what this node should do about it.
//!
//! The records lie in a store that all nodes of the region share and that changes them by
//! compare-and-set only. Each change of an owner raises the shard's assignment epoch, so that an epoch
//! belongs to one life of one node for ever: two nodes may both believe for a while that they own a
//! shard, but never under one epoch, and the log lets the higher one alone commit.
//!
//! A node says that it lives by rewriting its record. Another one takes it for dead when the record did
//! not change for the lease on that other one's monotonic clock, counting only time in which it looked.

#![forbid(unsafe_code)]

mod balance;
mod command;
mod epoch;
mod interface;
mod machine;
mod owner;
mod records;
mod view;

pub use command::{CommandError, moved, released};
pub use epoch::{LOCAL_BITS, LOCAL_MAX, assignment_of, first_epoch, next_epoch};
pub use interface::{Action, Config, Expected, Gauges, Input, Written};
pub use machine::Assigner;
pub use records::{
    Key, LastBeat, NodeRecord, RecordError, ShardRecord, node_key, prefix, shard_key,
};
