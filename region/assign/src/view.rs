//! What a node knows of its region: the records, and for how long each node has been silent.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::NodeId;

use crate::records::{LastBeat, NodeRecord, ShardRecord};

/// Time since something was seen to happen, in ms of looking.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Since {
    ms: u64,
    /// So much of the time that is told next has passed before it happened.
    owed: u64,
}

impl Since {
    fn now(owed: u64) -> Self {
        Self { ms: 0, owed }
    }

    fn passed(&mut self, ms: u64) {
        let paid = ms.min(self.owed);
        self.owed -= paid;
        self.ms += ms - paid;
    }
}

/// A node as it is known.
#[derive(Clone, Debug)]
pub(crate) struct SeenNode {
    /// Its record; `None`: it was removed.
    pub(crate) record: Option<NodeRecord>,
    pub(crate) revision: u64,
    /// Known from before the store went back: whatever is told is newer.
    pub(crate) outdated: bool,
    /// For how long its record has not changed.
    silent: Since,
    /// For how long this life of it has been known, or it has been gone.
    age: Since,
    /// The last beat of the life before, where it was seen, and for how long there has been none.
    before: Option<(LastBeat, Since)>,
    /// For how long it has said that it reaches the log, or that it does not.
    cut_off: Since,
    /// For how long it has said that it keeps up with each shard.
    ready: BTreeMap<u32, Since>,
}

/// A shard as it is known.
#[derive(Clone, Debug)]
pub(crate) struct SeenShard {
    pub(crate) record: ShardRecord,
    pub(crate) revision: u64,
    /// As of a node.
    outdated: bool,
    /// For how long the record has been as it is.
    age: Since,
    /// It was removed: the record is what is left to know, that of a shard that nobody owns.
    pub(crate) gone: bool,
}

/// Whether what is told of a record, which exists or does not, is no news to who knows it at `known`. That
/// it does not exist may be told at the revision at which it did: where somebody removed it beside the
/// store, nothing says at which one. It comes back at a later one.
fn is_old(known: u64, (exists, revision): (bool, u64), (existed, outdated): (bool, bool)) -> bool {
    let removed = existed && !exists && revision == known;
    revision <= known && !removed && !outdated
}

impl SeenShard {
    fn knows(&self, exists: bool, revision: u64) -> bool {
        is_old(
            self.revision,
            (exists, revision),
            (!self.gone, self.outdated),
        )
    }
}

impl SeenNode {
    fn knows(&self, exists: bool, revision: u64) -> bool {
        let existed = self.record.is_some();
        is_old(self.revision, (exists, revision), (existed, self.outdated))
    }

    /// Counts anew for shards that it has not said before.
    fn says_ready(&mut self, record: &Option<NodeRecord>, now: Since) {
        let ready = record.iter().flat_map(|record| &record.ready);
        let before = std::mem::take(&mut self.ready);
        let since = |shard: &u32| before.get(shard).copied().unwrap_or(now);
        self.ready = ready.map(|shard| (*shard, since(shard))).collect();
    }
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) nodes: BTreeMap<NodeId, SeenNode>,
    pub(crate) shards: BTreeMap<u32, SeenShard>,
    /// Everything up to this revision is known; single records may be newer.
    pub(crate) revision: u64,
    /// Raised whenever an owner changes.
    pub(crate) owners_changed: u64,
    /// Shards whose record can not be read: nobody touches them.
    pub(crate) unreadable: BTreeSet<u32>,
    /// How long ago the look was begun from which time is counted on. What is told now may have been
    /// written at any time since.
    pub(crate) look_ms: u64,
}

impl View {
    /// Time passed in which records were looked at.
    pub(crate) fn looked_for(&mut self, ms: u64) {
        for node in self.nodes.values_mut() {
            node.silent.passed(ms);
            node.age.passed(ms);
            if let Some((_, silent)) = &mut node.before {
                silent.passed(ms);
            }
            node.cut_off.passed(ms);
            node.ready.values_mut().for_each(|ready| ready.passed(ms));
        }
        for shard in self.shards.values_mut() {
            shard.age.passed(ms);
        }
    }

    /// The store went back: it has yet to be told what is there.
    pub(crate) fn restored(&mut self) {
        self.revision = 0;
        for node in self.nodes.values_mut() {
            (node.revision, node.outdated) = (0, true);
        }
        for shard in self.shards.values_mut() {
            (shard.revision, shard.outdated) = (0, true);
        }
    }

    /// The store takes the records of the node `me` again, which it refused for a lease. It may have taken
    /// nobody's meanwhile, as where its disk is full: the silence of the others begins now.
    pub(crate) fn heard_again(&mut self, me: &NodeId) {
        let now = Since::now(self.look_ms);
        for (name, node) in &mut self.nodes {
            if name == me {
                continue;
            }
            node.silent = now;
            if let Some((_, silent)) = &mut node.before {
                *silent = now;
            }
        }
    }

    /// A node's record as it is at `revision`. Older news than what is known is passed over.
    pub(crate) fn node(&mut self, name: &NodeId, record: Option<NodeRecord>, revision: u64) {
        let now = Since::now(self.look_ms);
        let life = |record: &Option<NodeRecord>| record.as_ref().map(|r| r.incarnation);
        let cut_off = |record: &Option<NodeRecord>| record.as_ref().is_some_and(|r| r.cut_off);
        match self.nodes.get_mut(name) {
            Some(seen) if seen.knows(record.is_some(), revision) => {}
            Some(seen) => {
                let same_life = life(&seen.record) == life(&record);
                if !same_life {
                    let last = seen.record.as_ref().map(NodeRecord::beat);
                    let replaced = record.as_ref().and_then(|record| record.replaced);
                    let last = last.filter(|last| Some(*last) == replaced);
                    seen.before = last.map(|last| (last, seen.silent));
                    seen.age = now;
                    seen.ready.clear();
                }
                if !same_life || cut_off(&seen.record) != cut_off(&record) {
                    seen.cut_off = now;
                }
                seen.says_ready(&record, now);
                seen.silent = now;
                seen.record = record;
                seen.revision = revision;
                seen.outdated = false;
            }
            None => {
                let mut seen = SeenNode {
                    record: None,
                    revision,
                    outdated: false,
                    silent: now,
                    age: now,
                    before: None,
                    cut_off: now,
                    ready: BTreeMap::new(),
                };
                seen.says_ready(&record, now);
                seen.record = record;
                self.nodes.insert(name.clone(), seen);
            }
        }
    }

    /// A shard's record as it is at `revision`; `None`: there is none. Older news is passed over.
    pub(crate) fn shard(&mut self, shard: u32, record: Option<ShardRecord>, revision: u64) {
        let known = self.shards.get(&shard);
        if known.is_some_and(|seen| seen.knows(record.is_some(), revision)) {
            return;
        }
        let owner = |record: &ShardRecord| (record.node.clone(), record.epoch);
        let before = known.map(|seen| owner(&seen.record));
        let gone = record.is_none();
        // Its epochs go on where they were, as far as this node knows.
        let left = || ShardRecord {
            epoch: before.as_ref().map_or(0, |(_, epoch)| *epoch),
            ..ShardRecord::unowned()
        };
        let record = record.unwrap_or_else(left);
        if before != Some(owner(&record)) {
            self.owners_changed += 1;
        }
        self.unreadable.remove(&shard);
        // A shard names nodes that this one may never have seen: their silence begins now.
        if let Some(name) = &record.node
            && !self.nodes.contains_key(name)
        {
            self.node(&name.clone(), None, 0);
        }
        let seen = SeenShard {
            record,
            revision,
            outdated: false,
            age: Since::now(self.look_ms),
            gone,
        };
        self.shards.insert(shard, seen);
    }

    /// For how long a shard that nobody owns may have been taken, in ms of looking; for ever where
    /// nobody ever owned it. Where its record was removed, whoever served it may say so first.
    pub(crate) fn free_for(&self, shard: u32, lease_ms: u64) -> Option<u64> {
        match self.shards.get(&shard) {
            None => Some(u64::MAX),
            Some(seen) if seen.gone => seen.age.ms.checked_sub(lease_ms),
            Some(seen) => Some(seen.age.ms),
        }
    }

    /// For how long this life of a node has not been heard, in ms of looking.
    pub(crate) fn silence(&self, name: &NodeId, incarnation: u64) -> u64 {
        let Some(seen) = self.nodes.get(name) else {
            return 0;
        };
        match &seen.record {
            Some(record) if record.incarnation == incarnation => seen.silent.ms,
            // Another life took its place, or the record was removed: it could write until then, unless
            // the last that was seen of it is known to have been its last.
            _ => match &seen.before {
                Some((last, silent)) if last.incarnation == incarnation => silent.ms,
                _ => seen.age.ms,
            },
        }
    }

    /// Nodes that are heard, by name; those that drain are not among them.
    pub(crate) fn takers(&self, lease_ms: u64) -> Vec<NodeId> {
        let heard = self.nodes.iter().filter(|(_, seen)| {
            let takes = seen.record.as_ref().is_some_and(|r| !r.draining);
            takes && seen.silent.ms < lease_ms
        });
        heard.map(|(name, _)| name.clone()).collect()
    }

    /// The node's record while it is heard and does not drain.
    pub(crate) fn taker(&self, name: &NodeId, lease_ms: u64) -> Option<&NodeRecord> {
        let seen = self.nodes.get(name)?;
        let record = seen.record.as_ref()?;
        (!record.draining && seen.silent.ms < lease_ms).then_some(record)
    }

    /// Whether a node says that it does not reach the log, and for how long it has said what it says,
    /// in ms of looking.
    pub(crate) fn cut_off_said(&self, name: &NodeId) -> Option<(bool, u64)> {
        let seen = self.nodes.get(name)?;
        Some((seen.record.as_ref()?.cut_off, seen.cut_off.ms))
    }

    /// How many nodes that are heard say that they do not reach the log.
    pub(crate) fn cut_off(&self, lease_ms: u64) -> usize {
        let takers = self
            .nodes
            .keys()
            .filter_map(|name| self.taker(name, lease_ms));
        takers.filter(|record| record.cut_off).count()
    }

    /// For how long the node has followed the shard and kept up, in ms of looking.
    pub(crate) fn ready_for(&self, name: &NodeId, shard: u32, lease_ms: u64) -> Option<u64> {
        self.taker(name, lease_ms)?;
        Some(self.nodes.get(name)?.ready.get(&shard)?.ms)
    }

    /// Whether the node follows the shard and has caught up.
    pub(crate) fn is_ready(&self, name: &NodeId, shard: u32, lease_ms: u64) -> bool {
        self.taker(name, lease_ms)
            .is_some_and(|record| record.ready.contains(&shard))
    }
}
