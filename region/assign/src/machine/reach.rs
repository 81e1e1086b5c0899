//! Whether the logs of its shards answer this node, and which others say that theirs do not: who does
//! not reach the log is given nothing that another can serve.
//!
//! That the log is lost for everybody looks alike to each node, but not in the same moment. So what
//! one node says of itself moves nothing before it has said it for a while, and a node that has come
//! back is not given what it was not ready for before.

use std::collections::BTreeMap;

use gb6_core_model::NodeId;

use super::Assigner;

/// For how long a node is not to take a shard that it could not serve: what it can read it may still not
/// be able to write. Also for how long a node that has no log to hear is taken not to hear any.
const UNABLE_MS: u64 = 30_000;
/// For how long a shard is taken to be read slowly after that was told.
const SLOW_MS: u64 = 1_000;
/// For how long a standby must have been ready before an owner that can not serve the shard gives it
/// away: where the log was lost for everybody, the owner hears it again at about the same time.
const READY_MS: u64 = 3_000;
/// For how long a standby must have said that it does not reach the log, and another that it does,
/// before that one takes its place.
const SAID_MS: u64 = 5_000;

/// What is known of the logs.
#[derive(Default)]
pub(super) struct Reach {
    /// Shards that could not be served by this node, and until when that is taken to last.
    unable: BTreeMap<u32, u64>,
    /// Shards that this node takes long to read, and until when that is taken to last.
    slow: BTreeMap<u32, u64>,
    /// Whether the logs of owned and followed shards have answered of late, as far as it was told.
    heard: BTreeMap<u32, bool>,
    /// Until when this node is taken not to reach any log.
    cut_off_until: u64,
}

impl Reach {
    /// A shard of this node's is served, and its log answers.
    pub(super) fn able(&mut self, shard: u32) {
        self.unable.remove(&shard);
        self.slow.remove(&shard);
        self.heard.insert(shard, true);
    }

    /// Whether its log answers is not known any more.
    pub(super) fn forget(&mut self, shard: u32) {
        self.slow.remove(&shard);
        self.heard.remove(&shard);
    }
}

impl Assigner {
    /// A shard of this node's can not be served.
    pub(super) fn unable(&mut self, shard: u32) {
        if self.mine.contains_key(&shard) {
            let until = self.now_ms + UNABLE_MS;
            self.reach.unable.insert(shard, until);
            self.reach.heard.insert(shard, false);
        }
    }

    /// A shard of this node's takes long to read. Its log answers all the same, and so may others.
    pub(super) fn slow(&mut self, shard: u32) {
        if self.mine.contains_key(&shard) {
            self.reach.slow.insert(shard, self.now_ms + SLOW_MS);
        }
    }

    /// Whether a log answers.
    pub(super) fn heard(&mut self, shard: u32, heard: bool) {
        if heard && self.mine.contains_key(&shard) {
            self.reach.able(shard);
        } else if self.mine.contains_key(&shard) || self.following.contains(&shard) {
            self.reach.heard.insert(shard, heard);
        }
    }

    /// Looks whether any log is reached. One of a shard that is this node's and can not be served is not,
    /// whatever it lets be read.
    pub(super) fn look_at_reach(&mut self) {
        let before = self.is_cut_off();
        if !self.reach.heard.is_empty() {
            let reached = self.reach.heard.values().any(|heard| *heard);
            self.reach.cut_off_until = match reached {
                true => 0,
                false => self.now_ms + UNABLE_MS,
            };
        }
        if before != self.is_cut_off() {
            self.beat_soon();
        }
    }

    /// Whether this node reaches no log.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.now_ms < self.reach.cut_off_until
    }

    /// Whether this node could not serve a shard just now.
    pub(crate) fn is_unable(&self, shard: u32) -> bool {
        let until = self.reach.unable.get(&shard);
        until.is_some_and(|until| self.now_ms < *until)
    }

    /// Whether this node takes long to read a shard before it can serve it.
    pub(crate) fn is_slow(&self, shard: u32) -> bool {
        let until = self.reach.slow.get(&shard);
        until.is_some_and(|until| self.now_ms < *until)
    }

    /// Whether a shard can not be served by this node, or its log does not answer.
    pub(crate) fn is_unreached(&self, shard: u32) -> bool {
        self.is_unable(shard) || self.reach.heard.get(&shard) == Some(&false)
    }

    /// Of these nodes those that do not say that they reach no log; all, where all say so.
    pub(crate) fn able_of(&self, takers: &[NodeId]) -> Vec<NodeId> {
        let able = takers.iter().filter(|name| !self.says_cut_off(name));
        let able: Vec<NodeId> = able.cloned().collect();
        match able.is_empty() {
            true => takers.to_vec(),
            false => able,
        }
    }

    /// Whether a node that takes shards has something of it, as far as it says: that is so too of one
    /// that says that it reaches no log, where nobody says otherwise.
    pub(crate) fn is_able_taker(&self, name: &NodeId) -> bool {
        let taker = self.view.taker(name, self.config.lease_ms);
        taker.is_some_and(|record| !record.cut_off || self.able.contains(name))
    }

    fn says_cut_off(&self, name: &NodeId) -> bool {
        let taker = self.view.taker(name, self.config.lease_ms);
        taker.is_some_and(|record| record.cut_off)
    }

    /// Whether another node takes shards and does not say that it reaches no log.
    pub(super) fn another_is_able(&self) -> bool {
        let mut takers = self.takers.iter();
        takers.any(|name| *name != self.config.node && !self.says_cut_off(name))
    }

    /// Whether `standby` has lost the log for so long, and `other` reached it, that this one is the
    /// better standby.
    pub(crate) fn is_better_standby(&self, other: &NodeId, standby: &NodeId) -> bool {
        let said = |name: &NodeId, wanted: bool| {
            let said = self.view.cut_off_said(name);
            said.is_some_and(|(cut_off, ms)| cut_off == wanted && ms >= SAID_MS)
        };
        said(standby, true) && said(other, false)
    }

    /// Whether a standby has kept up for so long that it may have a shard which its owner does not
    /// reach.
    pub(crate) fn keeps_up(&self, standby: &NodeId, shard: u32) -> bool {
        let lease = self.config.lease_ms;
        let ready = self.view.ready_for(standby, shard, lease);
        ready.is_some_and(|ms| ms >= READY_MS)
    }
}
