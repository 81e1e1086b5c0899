//! What a node says of itself: its beats, and its record's end.

use crate::interface::Action;
use crate::records::{NodeRecord, node_key};

use super::Assigner;

/// The least time between two beats.
const BEAT_MIN_MS: u64 = 20;
/// A node that has not seen for so many leases what others write says nothing itself.
const BLIND_LEASES: u64 = 2;

impl Assigner {
    /// Rewrites this node's record when that is due.
    pub(super) fn say(&mut self) {
        let key = node_key(&self.config.region, &self.config.node);
        if self.now_ms < self.next_beat_at || self.in_flight.contains_key(&key) {
            return;
        }
        if self.draining && self.mine.is_empty() && self.beat > 0 && !self.has_said() {
            return;
        }
        // It would not hear of what it is given: others are to take it for dead, and to serve that.
        let blind_at = |looked: u64| looked + BLIND_LEASES * self.config.lease_ms;
        if self.looked_at.is_some_and(|at| self.now_ms >= blind_at(at)) {
            return;
        }
        if !self.has_said() {
            // What this replaces is its last life's record as it is known, or this is not written.
            let seen = self.view.nodes.get(&self.config.node);
            let record = seen.and_then(|seen| seen.record.as_ref());
            self.said.replaced = record.map(NodeRecord::beat);
        }
        self.beat += 1;
        self.said.beat = self.beat;
        self.said.draining = self.draining;
        let ready = self.caught_up.iter().copied();
        self.said.ready = ready.filter(|shard| !self.is_unreached(*shard)).collect();
        self.said.cut_off = self.is_cut_off();
        self.beat_begun = self.now_ms;
        self.next_beat_at = self.now_ms + self.config.beat_ms;
        let value = self.said.encode();
        self.change(key, Some(value), None);
    }

    /// What it says has changed: the next beat does not wait for its time.
    pub(super) fn beat_soon(&mut self) {
        let soonest = self.beat_begun + BEAT_MIN_MS;
        self.next_beat_at = self.next_beat_at.min(soonest.max(self.now_ms));
    }

    /// Removes this node's record once it has nothing any more.
    pub(super) fn leave_region(&mut self) {
        let drains = self.draining && self.mine.is_empty();
        let (me, incarnation) = (&self.config.node, self.config.incarnation);
        let mut shards = self.view.shards.values();
        if !drains || shards.any(|seen| seen.record.is_of(me, incarnation)) {
            return;
        }
        let key = node_key(&self.config.region, &self.config.node);
        if self.has_said() {
            self.change(key, None, None);
        } else if self.in_flight.is_empty() {
            self.ended = true;
            self.act(Action::Drained);
        }
    }
}
