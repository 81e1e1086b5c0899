//! Ends of sessions and subscriptions, of which an instance wants to hear: on their way to the owner of
//! the shard of the user's channel, which writes them into its log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gb6_core_model::InstanceId;
use gb6_core_wire::mesh::{RoomRef, SessionEnd, SessionHere};

use crate::shards::ShardInbox;
use crate::shared::Shared;

/// What names ends over all shards.
pub(crate) struct SessionEnds {
    /// This life of the edge's process.
    pub(crate) process: u64,
    numbers: AtomicU64,
}

impl Default for SessionEnds {
    fn default() -> Self {
        Self {
            process: rand::random_range(1..=u64::MAX),
            numbers: AtomicU64::new(1),
        }
    }
}

impl SessionEnds {
    /// A number that no end of this process has had: above all before.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

impl Shared {
    /// A session has begun.
    pub(crate) fn session_here(self: &Arc<Self>, here: SessionHere) {
        if let Some(shard) = self.shard_of_ends(&here) {
            shard.session_here(here);
        }
    }

    /// A session or a subscription has ended. It gets its number, and the instance epoch of the
    /// placement by which it is routed.
    pub(crate) fn session_ended(self: &Arc<Self>, mut end: SessionEnd) {
        let snapshot = self.snapshot.load();
        let instance = InstanceId::from(end.of.instance.as_str());
        let placed = snapshot.instances.get(&instance);
        end.instance_epoch = placed.map_or(0, |placed| placed.epoch.0);
        drop(snapshot);
        if let Some(shard) = self.shard_of_ends(&end.of) {
            shard.session_ended(end);
        }
    }

    fn shard_of_ends(self: &Arc<Self>, of: &SessionHere) -> Option<Arc<ShardInbox>> {
        let room = RoomRef {
            instance: of.instance.clone(),
            channel: SessionEnd::home(&of.user),
        };
        // An instance that is not placed any more has nobody who wants to hear.
        let snapshot = self.snapshot.load();
        self.shards.inbox_for(self, &snapshot, &room)
    }
}
