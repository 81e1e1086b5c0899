//! What an owner does with the assignments of its shards: it names standbys, and hands over.

use gb6_core_model::NodeId;

use crate::balance::Loads;
use crate::interface::Action;
use crate::machine::Assigner;
use crate::records::ShardRecord;

/// Shards that a draining node hands over at once.
const DRAINED_AT_ONCE: usize = 8;
/// How long a shard whose hand-over did not come to pass is left alone.
const AGAIN_MS: u64 = 1_000;

/// After how long a shard is given on that this node was given and could never serve, though it reaches
/// other logs.
const PASSED_ON_MS: u64 = 60_000;

/// Where the driver stands with a shard that this node owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// It reads the log and acquires.
    Starting,
    Serving,
    /// It was told to finish what is in flight, at this time.
    Pausing(u64),
    /// Nothing is in flight, since it was told at this time.
    Paused(u64),
    /// It was told to stop.
    Leaving,
}

/// A shard that this node owns.
#[derive(Clone, Debug)]
pub(crate) struct Mine {
    pub(crate) epoch: u64,
    pub(crate) stage: Stage,
    /// The assignment epoch must be above this one: the log's are of it.
    pub(crate) raise_above: Option<u64>,
    /// When it became this node's.
    since: u64,
    /// Not handed over before.
    not_before: u64,
}

impl Mine {
    pub(crate) fn new(epoch: u64, since: u64) -> Self {
        Self {
            epoch,
            since,
            stage: Stage::Starting,
            raise_above: None,
            not_before: 0,
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.stage == Stage::Leaving
    }
}

impl Assigner {
    /// Looks after every shard that this node owns.
    pub(crate) fn own(&mut self) {
        let takers = self.view.takers(self.config.lease_ms);
        // Who does not reach the log is given nothing.
        let mut loads = Loads::of(&self.view, &self.able_of(&takers));
        let shards: Vec<u32> = self.mine.keys().copied().collect();
        let mut leaving = self.moving_of_ours(&shards);
        for shard in &shards {
            self.own_one(*shard, &mut loads, &mut leaving);
        }
        self.balance(&shards, &loads);
    }

    /// How many of ours are on their way to others.
    fn moving_of_ours(&self, shards: &[u32]) -> usize {
        let moves = |shard: &&u32| {
            let seen = self.view.shards.get(shard);
            seen.is_some_and(|seen| seen.record.wanted.is_some()) || self.is_changing(**shard)
        };
        shards.iter().filter(moves).count()
    }

    fn own_one(&mut self, shard: u32, loads: &mut Loads, leaving: &mut usize) {
        let Some(mine) = self.mine.get(&shard).cloned() else {
            return;
        };
        let Some(record) = self.view.shards.get(&shard).map(|s| s.record.clone()) else {
            return;
        };
        let me = self.config.node.clone();
        let ours = record.is_of(&me, self.config.incarnation) && record.epoch == mine.epoch;
        if !ours || mine.is_leaving() {
            return;
        }
        if self.gives_up {
            if let Some(mine) = self.mine.get_mut(&shard) {
                mine.stage = Stage::Leaving;
            }
            return self.act(Action::Leave { shard, owner: None });
        }
        let late = |since: u64| self.now_ms >= since + self.config.pause_max_ms;
        match mine.stage {
            // Whether a change under way takes it away is known first, unless that takes too long:
            // the log keeps whoever is not the owner from committing.
            Stage::Pausing(since) | Stage::Paused(since) if late(since) => {
                return self.resume(shard);
            }
            _ => {}
        }
        if self.is_changing(shard) {
            return;
        }
        if let Some(above) = mine.raise_above {
            let raised = ShardRecord {
                epoch: record.epoch.max(above) + 1,
                ..record
            };
            return self.assign(shard, &raised);
        }
        // Its standby has read the log until now, which this node can not or has yet to: there is nothing to
        // finish.
        if (self.is_unreached(shard) || self.is_slow(shard))
            && self.moving_helps(&mine)
            && let Some(standby) = record.standby.clone()
            && self.keeps_up(&standby, shard)
        {
            return self.hand_over(shard, record, standby);
        }
        let target = self.target(&record, loads, leaving);
        let standby = match &target {
            Some(target) => Some(target.clone()),
            None => self.standby(&record, loads),
        };
        if (&target, &standby) != (&record.wanted, &record.standby) {
            if record.wanted.is_none()
                && let Some(target) = &target
            {
                loads.moves(&me, target);
            }
            let told = ShardRecord {
                wanted: target,
                standby,
                ..record
            };
            return self.assign(shard, &told);
        }
        if self.is_unsure(shard) && self.is_fresh() {
            return self.assign(shard, &record);
        }
        let lease = self.config.lease_ms;
        let ready = target.filter(|target| self.view.is_ready(target, shard, lease));
        match (mine.stage, ready) {
            (Stage::Serving, Some(_)) if self.now_ms >= mine.not_before => {
                if let Some(mine) = self.mine.get_mut(&shard) {
                    mine.stage = Stage::Pausing(self.now_ms);
                }
                self.act(Action::Pause { shard });
            }
            (Stage::Paused(_), Some(target)) => self.hand_over(shard, record, target),
            (Stage::Pausing(_) | Stage::Paused(_), None) => self.resume(shard),
            _ => {}
        }
    }

    /// Whether another node may be able to serve what this one can not, or not yet. Where this one has never served
    /// it, and reaches other logs, the log refuses whoever comes: it is not passed round for that.
    fn moving_helps(&self, mine: &Mine) -> bool {
        mine.stage != Stage::Starting
            || self.is_cut_off()
            || self.now_ms >= mine.since + PASSED_ON_MS
    }

    /// Gives the assignment of a shard that is paused to a node that has caught up with it.
    fn hand_over(&mut self, shard: u32, record: ShardRecord, to: NodeId) {
        let Some(taker) = self.view.taker(&to, self.config.lease_ms) else {
            return;
        };
        let given = ShardRecord {
            incarnation: taker.incarnation,
            epoch: record.epoch + 1,
            // It knows the shard best.
            standby: (!self.draining && !self.is_unreached(shard))
                .then(|| self.config.node.clone()),
            wanted: None,
            node: Some(to),
            ..record
        };
        self.assign(shard, &given);
    }

    fn resume(&mut self, shard: u32) {
        if let Some(mine) = self.mine.get_mut(&shard) {
            mine.stage = Stage::Serving;
            mine.not_before = self.now_ms + AGAIN_MS;
        }
        self.act(Action::Resume { shard });
    }

    /// To whom one of ours is to go; `None`: it stays.
    fn target(&self, record: &ShardRecord, loads: &Loads, leaving: &mut usize) -> Option<NodeId> {
        let me = &self.config.node;
        let takes = |name: &NodeId| name != me && self.is_able_taker(name);
        let asked = record.wanted.clone().filter(|name| takes(name));
        if asked.is_some() {
            return asked;
        }
        if self.draining {
            if *leaving >= DRAINED_AT_ONCE && record.wanted.is_none() {
                return None;
            }
            let pinned = record.pinned.clone().filter(|name| takes(name));
            // Whoever follows it has the least to read; but all are to have alike.
            let standby = record.standby.clone();
            let standby = standby.filter(|name| takes(name) && loads.is_least(name, me));
            let to = pinned.or(standby).or_else(|| loads.least(me));
            *leaving += usize::from(to.is_some());
            return to;
        }
        record.pinned.clone().filter(|name| takes(name))
    }

    /// Who follows one of ours: who does already, or else whoever has the least to do.
    fn standby(&self, record: &ShardRecord, loads: &mut Loads) -> Option<NodeId> {
        let me = &self.config.node;
        let lease = self.config.lease_ms;
        let heard = |name: &NodeId| name != me && self.view.taker(name, lease).is_some();
        let standby = record.standby.clone().filter(|name| heard(name));
        let chosen = loads.standby_for(me);
        if let Some(standby) = standby {
            let better = chosen.filter(|chosen| self.is_better_standby(chosen, &standby));
            let Some(better) = better else {
                return Some(standby);
            };
            loads.follows(&better);
            return Some(better);
        }
        let chosen = chosen?;
        loads.follows(&chosen);
        Some(chosen)
    }

    /// Begins to move one shard where nodes have unlike many, once nothing else is under way.
    fn balance(&mut self, shards: &[u32], loads: &Loads) {
        let settled =
            self.same_ms >= self.config.balance_ms && !self.draining && !self.is_cut_off();
        if !settled || self.gauges().unowned > 0 || self.gauges().moving > 0 {
            return;
        }
        if !self.changes_no_shard() {
            return;
        }
        let Some(to) = loads.gives(&self.config.node) else {
            return;
        };
        let movable = |shard: &&u32| {
            let serving = self
                .mine
                .get(shard)
                .is_some_and(|mine| mine.stage == Stage::Serving && self.now_ms >= mine.not_before);
            let seen = self.view.shards.get(shard);
            serving && seen.is_some_and(|seen| seen.record.pinned.is_none())
        };
        let follows = |shard: &u32| {
            let seen = self.view.shards.get(shard);
            seen.is_some_and(|seen| seen.record.standby.as_ref() == Some(&to))
        };
        let chosen = shards
            .iter()
            .filter(movable)
            .min_by_key(|shard| (!follows(shard), **shard));
        let Some((shard, seen)) = chosen.and_then(|s| Some((*s, self.view.shards.get(s)?))) else {
            return;
        };
        let told = ShardRecord {
            wanted: Some(to.clone()),
            standby: Some(to),
            ..seen.record.clone()
        };
        self.assign(shard, &told);
    }

    /// Whether no change of a shard's record is under way.
    fn changes_no_shard(&self) -> bool {
        !(0..self.config.shards).any(|shard| self.is_changing(shard))
    }
}
