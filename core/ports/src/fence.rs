//! The fence: under which ownership a write is made.

use std::fmt;
use std::sync::Arc;

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};

/// Ownership of a shard by one life of one process. Every durable write is made under one; a
/// write under an old one is never acknowledged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fence {
    /// The region that the shard belongs to.
    pub region: Arc<str>,
    /// The shard.
    pub shard: ShardId,
    /// The ownership's number: raised by every acquisition.
    pub shard_epoch: ShardEpoch,
    /// The owner: random for each life of a process, never 0.
    pub owner_incarnation: Incarnation,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shard {}/{} epoch {} owner {:016x}",
            self.region, self.shard, self.shard_epoch, self.owner_incarnation.0
        )
    }
}
