//! The machine of one node: what it knows, what it is told, what it has its driver do.

mod beats;
mod changes;
mod claims;
mod looks;
mod reach;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gb6_core_model::NodeId;

use crate::epoch::assignment_of;
use crate::interface::{Action, Config, Gauges, Input};
use crate::owner::{Mine, Stage};
use crate::records::{NodeRecord, RecordError, shard_key};
use crate::view::View;

use changes::InFlight;
use reach::Reach;

/// The machine.
pub struct Assigner {
    pub(crate) config: Config,
    pub(crate) view: View,
    pub(crate) now_ms: u64,
    /// When it last looked; `None`: it has not.
    looked_at: Option<u64>,
    /// For how long it has looked since the nodes that take shards last changed.
    pub(crate) same_ms: u64,
    /// For how long it has looked since it began.
    looked_ms: u64,
    takers: Vec<NodeId>,
    /// Those among them that reach the log, as far as they say.
    able: Vec<NodeId>,
    in_flight: BTreeMap<String, InFlight>,
    /// Not before this time, because the last attempt failed.
    not_before: BTreeMap<String, u64>,
    pub(crate) mine: BTreeMap<u32, Mine>,
    following: BTreeSet<u32>,
    caught_up: BTreeSet<u32>,
    reach: Reach,
    /// Shards of which a change with an unknown outcome was not found made at this revision: it may
    /// still be made, as long as that is the record's.
    unsettled: BTreeMap<u32, u64>,
    beat: u64,
    next_beat_at: u64,
    /// When the beat in flight was begun.
    beat_begun: u64,
    /// Until when nobody else may have taken this node for dead.
    fresh_until: u64,
    /// When the store last said that it has taken a beat.
    beat_taken: u64,
    /// It has refused one since, or has not said.
    beat_refused: bool,
    /// The revision of the first beat of those that have followed each other in time: whoever claims
    /// a shard by a record that is older may have decided so before it.
    sure_after: u64,
    said: NodeRecord,
    pub(crate) draining: bool,
    pub(crate) gives_up: bool,
    /// It has ended: replaced, or drained.
    ended: bool,
    actions: VecDeque<Action>,
}

impl Assigner {
    /// A node that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let said = NodeRecord::new(config.incarnation, config.mesh.clone());
        Self {
            config,
            view: View::default(),
            now_ms: 0,
            looked_at: None,
            same_ms: 0,
            looked_ms: 0,
            takers: Vec::new(),
            able: Vec::new(),
            in_flight: BTreeMap::new(),
            not_before: BTreeMap::new(),
            mine: BTreeMap::new(),
            following: BTreeSet::new(),
            caught_up: BTreeSet::new(),
            reach: Reach::default(),
            unsettled: BTreeMap::new(),
            beat: 0,
            next_beat_at: 0,
            beat_begun: 0,
            fresh_until: 0,
            beat_taken: 0,
            beat_refused: false,
            sure_after: 0,
            said,
            draining: false,
            gives_up: false,
            ended: false,
            actions: VecDeque::new(),
        }
    }

    /// Tells the machine something.
    ///
    /// # Errors
    /// A record can not be used; it is passed over, and its shard left alone.
    pub fn input(&mut self, now_ms: u64, input: Input) -> Result<(), RecordError> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut result = Ok(());
        match input {
            Input::Looked {
                begun_ms,
                revision,
                changes,
            } => {
                self.view.revision = self.view.revision.max(revision);
                result = self.looked(begun_ms, changes);
            }
            Input::Restored => self.restored(),
            Input::Read { key, record } => result = self.read(&key, record),
            Input::Written { key, outcome } => result = self.written(key, outcome),
            Input::Serving { shard, epoch } => {
                if let Some(mine) = self.mine.get_mut(&shard)
                    && mine.epoch == epoch
                    && mine.stage == Stage::Starting
                {
                    mine.stage = Stage::Serving;
                    self.reach.able(shard);
                }
            }
            Input::Unable { shard } => self.unable(shard),
            Input::Slow { shard } => self.slow(shard),
            Input::Heard { shard, heard } => self.heard(shard, heard),
            Input::EpochsUsedUp {
                shard,
                epoch,
                highest,
            } => {
                if let Some(mine) = self.mine.get_mut(&shard)
                    && mine.epoch == epoch
                {
                    mine.raise_above = Some(assignment_of(highest));
                }
            }
            Input::Paused { shard } => {
                if let Some(mine) = self.mine.get_mut(&shard)
                    && let Stage::Pausing(since) = mine.stage
                {
                    mine.stage = Stage::Paused(since);
                }
            }
            Input::Left { shard } => {
                if self.mine.get(&shard).is_some_and(Mine::is_leaving) {
                    self.mine.remove(&shard);
                    self.reach.forget(shard);
                }
            }
            Input::CaughtUp { shard, caught_up } => {
                let changed = match caught_up && self.following.contains(&shard) {
                    true => self.caught_up.insert(shard),
                    false => self.caught_up.remove(&shard),
                };
                if changed {
                    self.beat_soon();
                }
            }
            Input::Drain => {
                if !self.draining {
                    self.draining = true;
                    self.beat_soon();
                }
            }
            Input::GiveUp => {
                self.draining = true;
                self.gives_up = true;
            }
        }
        self.evaluate();
        result
    }

    /// Time passes; at least every 100 ms.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.evaluate();
    }

    /// What the driver must do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Until when, by the clock that it is told, this node can rely on nobody having taken it for
    /// dead. Later than that a shard may have another owner, and only the log can tell.
    pub fn fresh_until(&self) -> u64 {
        self.fresh_until
    }

    /// Whether a shard that this node serves may have another owner without its having heard: it
    /// gives it away just now, or it was taken for dead a while ago and may have been robbed of it.
    /// Only the log can tell then, as past [`Assigner::fresh_until`].
    pub fn is_doubtful(&self, shard: u32) -> bool {
        let key = shard_key(&self.config.region, shard);
        let changing = self.in_flight.get(&key);
        let gives = changing.is_some_and(|change| change.owner.as_ref() != Some(&self.config.node));
        gives || self.is_unsure(shard)
    }

    /// Whether somebody may claim a shard because of what it has seen before this node was heard
    /// again, or get it by a change of this node's that is still on its way. Once its record was
    /// changed, nobody can.
    pub(crate) fn is_unsure(&self, shard: u32) -> bool {
        let Some(seen) = self.view.shards.get(&shard) else {
            return true;
        };
        let unsettled = self.unsettled.get(&shard) == Some(&seen.revision);
        unsettled || seen.revision <= self.sure_after
    }

    /// Whether nobody else may have taken this node for dead.
    pub(crate) fn is_fresh(&self) -> bool {
        self.now_ms < self.fresh_until
    }

    /// Raised whenever [`Assigner::owners`] changes.
    pub fn owners_changed(&self) -> u64 {
        self.view.owners_changed
    }

    /// Shards that have an owner, with the assignment epochs.
    pub fn owners(&self) -> impl Iterator<Item = (u32, u64, &NodeId)> {
        let shards = self.view.shards.iter();
        shards.filter_map(|(shard, seen)| {
            let owner = seen.record.node.as_ref()?;
            Some((*shard, seen.record.epoch, owner))
        })
    }

    /// Whether a shard is on its way to this node, so that edges which come early may wait for it.
    pub fn is_expected(&self, shard: u32) -> bool {
        let seen = self.view.shards.get(&shard);
        seen.is_some_and(|seen| {
            let record = &seen.record;
            record.wanted.as_ref() == Some(&self.config.node)
                || record.is_of(&self.config.node, self.config.incarnation)
        })
    }

    /// Sizes now.
    pub fn gauges(&self) -> Gauges {
        let lease = self.config.lease_ms;
        let heard = |shard: &u32| {
            let seen = self.view.shards.get(shard);
            let owner = seen.and_then(|seen| Some((seen.record.node.as_ref()?, &seen.record)));
            owner.is_some_and(|(name, record)| self.view.silence(name, record.incarnation) < lease)
        };
        let shards = self.view.shards.values();
        Gauges {
            nodes: self.view.takers(lease).len(),
            owned: self.mine.len(),
            followed: self.following.len(),
            unowned: (0..self.config.shards)
                .filter(|shard| !heard(shard))
                .count(),
            moving: shards.filter(|seen| seen.record.wanted.is_some()).count(),
            cut_off: self.view.cut_off(lease),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Looks at everything there is, and begins what is to be done about it.
    fn evaluate(&mut self) {
        if self.ended || self.looked_at.is_none() {
            return;
        }
        if self.draining && self.takers.iter().all(|name| *name == self.config.node) {
            self.gives_up = true;
        }
        self.look_at_reach();
        self.say();
        for shard in 0..self.config.shards {
            if !self.view.unreadable.contains(&shard) {
                self.look_at(shard);
            }
        }
        self.own();
        self.leave_region();
    }
}
