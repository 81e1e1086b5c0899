//! The machine of one node: its beats, what it follows, what it claims, what it has its driver write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gb6_core_model::NodeId;

use crate::balance::rank;
use crate::epoch::assignment_of;
use crate::interface::{Action, Config, Expected, Gauges, Input, Written};
use crate::owner::{Mine, Stage};
use crate::records::{Key, NodeRecord, RecordError, ShardRecord, node_key, shard_key};
use crate::view::View;

/// A change that was begun.
pub(crate) struct InFlight {
    /// What the record becomes; `None`: it is removed.
    value: Option<Vec<u8>>,
    /// The revision that was known then.
    known: Option<u64>,
    /// Its outcome must be read: nothing else is written meanwhile.
    unread: bool,
    /// The store went back since: its outcome says nothing, the looks tell what is there.
    outdated: bool,
    /// The owner of a shard with it.
    owner: Option<NodeId>,
}

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
    pub(crate) in_flight: BTreeMap<String, InFlight>,
    /// Not before this time, because the last attempt failed.
    not_before: BTreeMap<String, u64>,
    pub(crate) mine: BTreeMap<u32, Mine>,
    following: BTreeSet<u32>,
    caught_up: BTreeSet<u32>,
    /// Shards that could not be served by this node, and until when that is taken to last.
    unable: BTreeMap<u32, u64>,
    /// Shards of which a change with an unknown outcome was not found made at this revision: it may
    /// still be made, as long as that is the record's.
    unsettled: BTreeMap<u32, u64>,
    beat: u64,
    next_beat_at: u64,
    /// When the beat in flight was begun.
    beat_begun: u64,
    /// Until when nobody else may have taken this node for dead.
    fresh_until: u64,
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

/// The longest time between two looks that counts as looking.
const LOOK_MAX_MS: u64 = 500;
/// How many changes of a shard's owner a store may have lost of which this node has not heard: their
/// epochs must not be given again.
const LOST_EPOCHS: u64 = 64;
/// For how long a node is not to take a shard that it could not serve: what it can read it may still not
/// be able to write.
const UNABLE_MS: u64 = 30_000;
/// The least time between two beats.
const BEAT_MIN_MS: u64 = 20;

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
            in_flight: BTreeMap::new(),
            not_before: BTreeMap::new(),
            mine: BTreeMap::new(),
            following: BTreeSet::new(),
            caught_up: BTreeSet::new(),
            unable: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            beat: 0,
            next_beat_at: 0,
            beat_begun: 0,
            fresh_until: 0,
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
                    self.unable.remove(&shard);
                }
            }
            Input::Unable { shard } => {
                if self.mine.contains_key(&shard) {
                    self.unable.insert(shard, self.now_ms + UNABLE_MS);
                }
            }
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

    /// Whether this node could not serve a shard just now.
    pub(crate) fn is_unable(&self, shard: u32) -> bool {
        let until = self.unable.get(&shard);
        until.is_some_and(|until| self.now_ms < *until)
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
        }
    }

    fn looked(
        &mut self,
        begun_ms: u64,
        entries: Vec<(String, Option<Vec<u8>>, u64)>,
    ) -> Result<(), RecordError> {
        // Time in which nobody looked is nobody's silence.
        let step = match self.looked_at {
            Some(at) => begun_ms.saturating_sub(at).min(LOOK_MAX_MS),
            None => 0,
        };
        self.looked_at = self.looked_at.max(Some(begun_ms));
        self.view.looked_for(step);
        self.looked_ms += step;
        self.same_ms += step;
        let mut result = Ok(());
        for (key, value, revision) in entries {
            if let Err(error) = self.record(&key, value.as_deref(), revision) {
                result = Err(error);
            }
        }
        let takers = self.view.takers(self.config.lease_ms);
        if takers != self.takers {
            self.takers = takers;
            self.same_ms = 0;
        }
        result
    }

    /// The store went back. Whoever has looked since may have taken this node for dead, and what this
    /// node was told to own may have been forgotten.
    fn restored(&mut self) {
        self.view.restored();
        self.looked_at = None;
        self.fresh_until = 0;
        self.unsettled.clear();
        for change in self.in_flight.values_mut() {
            change.outdated = true;
        }
    }

    /// A record as it is.
    fn record(
        &mut self,
        key: &str,
        value: Option<&[u8]>,
        revision: u64,
    ) -> Result<(), RecordError> {
        // Time is counted from where the last look began, a record written after that.
        let begun = self.looked_at.unwrap_or(self.now_ms);
        self.view.look_ms = self.now_ms.saturating_sub(begun).min(LOOK_MAX_MS);
        match Key::parse(&self.config.region, key) {
            None => {}
            Some(Key::Node(name)) => {
                let record = value.map(|v| NodeRecord::decode(key, v)).transpose()?;
                let ours = name == self.config.node;
                let other = record
                    .as_ref()
                    .is_some_and(|r| r.incarnation != self.config.incarnation);
                let seen = self.view.nodes.get(&name);
                let newer = seen.is_none_or(|seen| revision > seen.revision && !seen.outdated);
                // It was written over what this life has said.
                if ours && other && self.beat > 0 && self.has_said() && newer {
                    self.replaced();
                }
                self.view.node(&name, record, revision);
            }
            Some(Key::Shard(shard)) if shard < self.config.shards => {
                match value.map(|v| ShardRecord::decode(key, v)).transpose() {
                    Ok(record) => self.view.shard(shard, record, revision),
                    Err(error) => {
                        self.view.unreadable.insert(shard);
                        return Err(error);
                    }
                }
            }
            Some(Key::Shard(_)) => {}
        }
        Ok(())
    }

    /// Whether the store has a record of this life, as far as is known.
    fn has_said(&self) -> bool {
        let seen = self.view.nodes.get(&self.config.node);
        let record = seen.and_then(|seen| seen.record.as_ref());
        record.is_some_and(|record| record.incarnation == self.config.incarnation)
    }

    fn replaced(&mut self) {
        if !self.ended {
            self.ended = true;
            self.fresh_until = 0;
            self.mine.clear();
            self.actions.clear();
            self.actions.push_back(Action::Replaced);
        }
    }

    fn read(&mut self, key: &str, record: Option<(Vec<u8>, u64)>) -> Result<(), RecordError> {
        let Some(in_flight) = self.in_flight.get(key) else {
            return Ok(());
        };
        if !in_flight.unread {
            return Ok(());
        }
        let (known, outdated) = (in_flight.known, in_flight.outdated);
        self.in_flight.remove(key);
        if outdated {
            return Ok(());
        }
        let unchanged = record.as_ref().map(|(_, revision)| *revision) == known;
        if let (Some(known), true, Some(Key::Shard(shard))) =
            (known, unchanged, Key::parse(&self.config.region, key))
        {
            self.unsettled.insert(shard, known);
        }
        match record {
            Some((value, revision)) => self.record(key, Some(&value), revision),
            // It is gone; unless somebody wrote it after that was read, which the next look told.
            None => match known {
                Some(known) if self.revision(key) == Some(known) => {
                    self.record(key, None, known + 1)
                }
                _ => Ok(()),
            },
        }
    }

    fn written(&mut self, key: String, outcome: Written) -> Result<(), RecordError> {
        let own = key == node_key(&self.config.region, &self.config.node);
        match outcome {
            Written::Done(revision) => {
                let Some(done) = self.in_flight.remove(&key) else {
                    return Ok(());
                };
                if done.outdated {
                    return Ok(());
                }
                if own && done.value.is_none() {
                    self.ended = true;
                    self.actions.push_back(Action::Drained);
                } else if own {
                    if self.now_ms >= self.fresh_until {
                        self.sure_after = revision;
                    }
                    let relies = self.config.lease_ms.saturating_sub(self.config.margin_ms);
                    self.fresh_until = self.fresh_until.max(self.beat_begun + relies);
                }
                self.record(&key, done.value.as_deref(), revision)
            }
            Written::NotAsExpected | Written::Unknown => {
                if let Some(in_flight) = self.in_flight.get_mut(&key) {
                    in_flight.unread = true;
                }
                Ok(())
            }
            Written::Failed => {
                self.in_flight.remove(&key);
                let again = self.now_ms + self.config.beat_ms / 2;
                self.not_before.insert(key, again);
                Ok(())
            }
        }
    }

    /// The revision at which a record was last changed, as far as is known; `None`: there is none.
    fn revision(&self, key: &str) -> Option<u64> {
        match Key::parse(&self.config.region, key)? {
            Key::Node(name) => {
                let seen = self.view.nodes.get(&name)?;
                seen.record.as_ref().map(|_| seen.revision)
            }
            Key::Shard(shard) => {
                let seen = self.view.shards.get(&shard)?;
                (!seen.gone).then_some(seen.revision)
            }
        }
    }

    /// Begins a change of a record, unless one is under way.
    fn change(&mut self, key: String, value: Option<Vec<u8>>, owner: Option<NodeId>) {
        let waits = self
            .not_before
            .get(&key)
            .is_some_and(|at| self.now_ms < *at);
        if waits || self.in_flight.contains_key(&key) {
            return;
        }
        self.not_before.remove(&key);
        let known = self.revision(&key);
        let expected = known.map_or(Expected::Absent, Expected::Revision);
        let in_flight = InFlight {
            value: value.clone(),
            known,
            unread: false,
            outdated: false,
            owner,
        };
        self.in_flight.insert(key.clone(), in_flight);
        self.actions.push_back(match value {
            Some(value) => Action::Put {
                key,
                value,
                expected,
            },
            None => Action::Delete { key, expected },
        });
    }

    /// Begins a change of a shard's record.
    pub(crate) fn assign(&mut self, shard: u32, record: &ShardRecord) {
        let key = shard_key(&self.config.region, shard);
        self.change(key, Some(record.encode()), record.node.clone());
    }

    /// Whether a change of a shard's record is under way.
    pub(crate) fn is_changing(&self, shard: u32) -> bool {
        let key = shard_key(&self.config.region, shard);
        self.in_flight.contains_key(&key)
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn beat_soon(&mut self) {
        let soonest = self.beat_begun + BEAT_MIN_MS;
        self.next_beat_at = self.next_beat_at.min(soonest.max(self.now_ms));
    }

    /// Looks at everything there is, and begins what is to be done about it.
    fn evaluate(&mut self) {
        if self.ended || self.looked_at.is_none() {
            return;
        }
        if self.draining && self.takers.iter().all(|name| *name == self.config.node) {
            self.gives_up = true;
        }
        self.say();
        for shard in 0..self.config.shards {
            if !self.view.unreadable.contains(&shard) {
                self.look_at(shard);
            }
        }
        self.own();
        self.leave_region();
    }

    /// Rewrites this node's record when that is due.
    fn say(&mut self) {
        let key = node_key(&self.config.region, &self.config.node);
        if self.now_ms < self.next_beat_at || self.in_flight.contains_key(&key) {
            return;
        }
        if self.draining && self.mine.is_empty() && self.beat > 0 && !self.has_said() {
            return;
        }
        self.beat += 1;
        self.said.beat = self.beat;
        self.said.draining = self.draining;
        let ready = self.caught_up.iter().copied();
        self.said.ready = ready.filter(|shard| !self.is_unable(*shard)).collect();
        self.beat_begun = self.now_ms;
        self.next_beat_at = self.now_ms + self.config.beat_ms;
        let value = self.said.encode();
        self.change(key, Some(value), None);
    }

    /// Follows what the record of one shard says, and claims it when it is this node's turn.
    fn look_at(&mut self, shard: u32) {
        let (me, incarnation) = (self.config.node.clone(), self.config.incarnation);
        let record = match self.view.shards.get(&shard) {
            Some(seen) => seen.record.clone(),
            None => ShardRecord::unowned(),
        };
        let gone = self.view.shards.get(&shard).is_some_and(|seen| seen.gone);
        let other = !record.is_of(&me, incarnation);
        if let Some(mine) = self.mine.get(&shard)
            && !mine.is_leaving()
            && (gone || record.epoch < mine.epoch || other && record.epoch == mine.epoch)
        {
            // Every owner has a higher epoch than the one before: the store has lost what it was told.
            let told = ShardRecord {
                node: Some(me),
                incarnation,
                epoch: record.epoch.max(mine.epoch) + LOST_EPOCHS,
                ..record
            };
            return self.assign(shard, &told);
        }
        if record.is_of(&me, incarnation) {
            let known = self.mine.get(&shard).map(|mine| mine.epoch);
            let leaving = self.mine.get(&shard).is_some_and(Mine::is_leaving);
            if self.gives_up && known.is_none() {
                let given_up = ShardRecord {
                    node: None,
                    incarnation: 0,
                    wanted: None,
                    ..record
                };
                self.assign(shard, &given_up);
            } else if known != Some(record.epoch) && !leaving {
                // The driver goes on from what was followed.
                self.following.remove(&shard);
                if self.caught_up.remove(&shard) {
                    self.beat_soon();
                }
                self.mine.insert(shard, Mine::new(record.epoch));
                self.act(Action::Own {
                    shard,
                    epoch: record.epoch,
                });
            }
            return;
        }
        if let Some(mine) = self.mine.get_mut(&shard)
            && !mine.is_leaving()
        {
            mine.stage = Stage::Leaving;
            self.act(Action::Leave {
                shard,
                owner: record.node.clone(),
            });
        }
        let follows = record.standby.as_ref() == Some(&me)
            && !self.draining
            && !self.mine.contains_key(&shard);
        if follows && self.following.insert(shard) {
            self.act(Action::Follow { shard });
        } else if !follows && self.following.remove(&shard) {
            if self.caught_up.remove(&shard) {
                self.beat_soon();
            }
            self.act(Action::Unfollow { shard });
        }
        self.claim(shard, &record);
    }

    /// Claims a shard whose owner is gone, or that never had one, when it is this node's turn.
    fn claim(&mut self, shard: u32, record: &ShardRecord) {
        let takes = self.view.taker(&self.config.node, self.config.lease_ms);
        // Others must be able to see that the claimant lives. One that has not been heard by the
        // store for a lease is not one to take anything.
        let heard = takes.is_some_and(|record| record.incarnation == self.config.incarnation)
            && self.is_fresh();
        if self.draining || !heard || self.mine.contains_key(&shard) || self.is_changing(shard) {
            return;
        }
        if self.is_unable(shard) && self.takers.len() > 1 {
            return;
        }
        // A record that was read by itself may be of an owner of which this node has yet to hear.
        let seen = self.view.shards.get(&shard);
        if seen.is_some_and(|seen| seen.revision > self.view.revision) {
            return;
        }
        let free_for = match &record.node {
            // For how long it has been taken for dead.
            Some(owner) => {
                let silence = self.view.silence(owner, record.incarnation);
                match silence.checked_sub(self.config.lease_ms) {
                    Some(free_for) => free_for,
                    None => return,
                }
            }
            None => match self.looked_ms.checked_sub(self.config.settle_ms) {
                Some(free_for) => match self.view.free_for(shard, self.config.lease_ms) {
                    Some(age) => age.min(free_for),
                    None => return,
                },
                None => return,
            },
        };
        let standby = record.standby.as_ref();
        let heir = standby.filter(|name| self.view.taker(name, self.config.lease_ms).is_some());
        let turn = match heir {
            Some(heir) if *heir == self.config.node => 0,
            heir => {
                let after = u64::from(heir.is_some());
                let rank = rank(shard, &self.takers, &self.config.node);
                (after + rank) * self.config.stagger_ms
            }
        };
        if free_for >= turn {
            let claimed = ShardRecord {
                node: Some(self.config.node.clone()),
                incarnation: self.config.incarnation,
                epoch: record.epoch + 1,
                standby: None,
                wanted: None,
                ..record.clone()
            };
            self.assign(shard, &claimed);
        }
    }

    /// Removes this node's record once it has nothing any more.
    fn leave_region(&mut self) {
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
