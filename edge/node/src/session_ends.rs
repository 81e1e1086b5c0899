//! Ends of sessions and subscriptions, of which an instance wants to hear: on their way to the owner of
//! the shard of the user's channel, which writes them into its log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gb6_core_model::{InstanceId, SessionId};
use gb6_core_wire::mesh::{RoomRef, SessionEnd, SessionHere};
use gb6_core_wire::record::SessionEvent;
use parking_lot::Mutex;

use crate::shards::ShardInbox;
use crate::shared::Shared;

/// What names ends over all shards, and which shard was told of each session.
pub(crate) struct SessionEnds {
    /// This life of the edge's process.
    pub(crate) process: u64,
    numbers: AtomicU64,
    /// Sessions of whose ends somebody wants to hear. Shards are told under this lock, so that what is
    /// said of a session comes in order.
    told: Mutex<HashMap<InstanceId, HashMap<u64, Told>>>,
}

/// A session, and who was told of it: that shard is told of its end too, wherever the instance is by
/// then. Else the session would stay known there.
struct Told {
    here: SessionHere,
    /// `None`: the placement had no shard for it.
    shard: Option<Arc<ShardInbox>>,
    /// The instance epoch of the placement by which it was told of.
    epoch: u64,
}

impl Default for SessionEnds {
    fn default() -> Self {
        Self {
            process: rand::random_range(1..=u64::MAX),
            numbers: AtomicU64::new(1),
            told: Mutex::default(),
        }
    }
}

impl SessionEnds {
    /// A number that no end of this process has had: above all before.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells the shards again of sessions whose user's channel lies in another one now, or whose shard
    /// has another task. `shard` finds the shard of a session, and the instance epoch. Instances that
    /// are `unmoved` are passed over. What has no shard now, as its instance is gone, stays where it
    /// was: its end is on the way.
    fn place(
        &self,
        unmoved: impl Fn(&InstanceId) -> bool,
        shard: impl Fn(&SessionHere) -> Option<(Arc<ShardInbox>, u64)>,
    ) {
        let mut instances = self.told.lock();
        let moved = instances.iter_mut().filter(|(i, _)| !unmoved(i));
        for told in moved.flat_map(|(_, sessions)| sessions.values_mut()) {
            let Some((now, epoch)) = shard(&told.here) else {
                continue;
            };
            told.epoch = epoch;
            if told.shard.as_ref().is_some_and(|s| Arc::ptr_eq(s, &now)) {
                continue;
            }
            if let Some(before) = told.shard.replace(now.clone()) {
                before.session_elsewhere(SessionId(told.here.session));
            }
            now.session_here(told.here.clone());
        }
    }
}

impl Shared {
    /// A session has begun. It is told of until [`Shared::session_gone`].
    pub(crate) fn session_here(self: &Arc<Self>, here: SessionHere) {
        let instance = InstanceId::from(here.instance.as_str());
        // The placement is looked at under the lock: a newer one finds the session there.
        let mut told = self.session_ends.told.lock();
        let (shard, epoch) = self.shard_of_ends(&here).unzip();
        if let Some(shard) = &shard {
            shard.session_here(here.clone());
        }
        let session = here.session;
        let epoch = epoch.unwrap_or_default();
        let new = Told { here, shard, epoch };
        told.entry(instance).or_default().insert(session, new);
    }

    /// A session that was told of has ended. The shard that knows it hears so.
    pub(crate) fn session_gone(
        self: &Arc<Self>,
        instance: &InstanceId,
        session: SessionId,
        code: u16,
        reason: &str,
    ) {
        let mut instances = self.session_ends.told.lock();
        let Some(sessions) = instances.get_mut(instance) else {
            return;
        };
        let told = sessions.remove(&session.0);
        if sessions.is_empty() {
            instances.remove(instance);
        }
        let Some(told) = told else {
            return;
        };
        let end = SessionEnd {
            of: told.here,
            instance_epoch: told.epoch,
            event: SessionEvent::Disconnect.into(),
            code: code.into(),
            reason: reason.to_owned(),
            ..SessionEnd::default()
        };
        match told.shard {
            Some(shard) => shard.session_ended(end),
            None => self.session_ended(end),
        }
    }

    /// A subscription has ended, or a session whose end a shard gave back. It is routed by the present
    /// placement: an instance that is not in it any more has nobody who wants to hear.
    pub(crate) fn session_ended(self: &Arc<Self>, mut end: SessionEnd) {
        if let Some((shard, epoch)) = self.shard_of_ends(&end.of) {
            end.instance_epoch = epoch;
            shard.session_ended(end);
        }
    }

    /// Tells shards of the sessions that they have not been told of.
    pub(crate) fn place_sessions(self: &Arc<Self>, unmoved: impl Fn(&InstanceId) -> bool) {
        let shard = |here: &SessionHere| self.shard_of_ends(here);
        self.session_ends.place(unmoved, shard);
    }

    /// The shard that is told of a session by the present placement, and the instance's epoch in it.
    fn shard_of_ends(self: &Arc<Self>, of: &SessionHere) -> Option<(Arc<ShardInbox>, u64)> {
        let room = RoomRef {
            instance: of.instance.clone(),
            channel: SessionEnd::home(&of.user),
        };
        let snapshot = self.snapshot.load();
        let placed = snapshot.instances.get(of.instance.as_str())?;
        let shard = self.shards.inbox_for(self, &snapshot, &room)?;
        Some((shard, placed.epoch.0))
    }
}
