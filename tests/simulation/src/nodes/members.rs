//! The nodes of the region: processes with the machine of assignments, and what its driver does.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::NodeId;
use gb6_region_assign::{Action, Assigner, Config, Input, RecordError};

use super::faults::Peer;
use super::map::Change;
use super::owner::{BEHIND_MS, LASTS_MS, Order, Owner};
use super::replay::Replay;
use super::world::{Event, NodesWorld};
use super::{EDGES, FOUNDERS, SHARDS};
use crate::geo::Node;
use crate::publishing::UNIX_START_MS;

/// How often time passes in the machine of assignments, in ms.
const TICK_MS: u64 = 20;
/// How often it is looked whether shards can be served, in ms.
const LOGS_LOOK_MS: u64 = 200;
/// How often a standby reads on, and says that it has caught up, in ms.
const FOLLOW_MS: u64 = 50;
/// How often time passes in the machines of shards, in ms.
const SHARD_TICK_MS: u64 = 250;
/// How long a node that drains waits before it gives up what nobody has taken, in ms.
const PATIENCE_MS: u64 = 6_000;

/// A standby.
pub(crate) struct Follower {
    /// `None`: its log could not be read.
    replay: Option<Replay>,
    caught_up: bool,
    /// Whether its log answers, as the machine was told.
    heard: Option<bool>,
    /// When it reads next.
    next_at: u64,
}

/// One life of one process.
pub(crate) struct Process {
    pub(crate) name: NodeId,
    /// It runs, or is paused.
    pub(crate) up: bool,
    pub(crate) machine: Assigner,
    /// How fast its clock runs, in thousandths of the real rate, and what it showed at 0.
    rate: u64,
    offset: u64,
    /// How far its wall clock is ahead, in ms.
    skew: i64,
    /// The map's revision that its looks have come to; `None`: it asks for everything.
    pub(crate) read_up_to: Option<u64>,
    /// Keys of records that it knows.
    pub(crate) known: BTreeSet<String>,
    pub(crate) owners: BTreeMap<usize, Owner>,
    pub(crate) followers: BTreeMap<usize, Follower>,
    /// Which change of owners it has told each edge.
    told: [u64; EDGES],
    pub(crate) lease_ms: u64,
    /// It was told to give everything away.
    pub(crate) drains: bool,
    /// When it last reached the logs.
    logs_reached_at: u64,
    logs_looked_at: u64,
    shards_ticked_at: u64,
}

impl Process {
    /// Its monotonic clock, in ms.
    pub(crate) fn clock(&self, now: u64) -> u64 {
        self.offset + now * self.rate / 1_000
    }

    /// Its wall clock, Unix ms.
    pub(crate) fn unix(&self, now: u64) -> i64 {
        UNIX_START_MS + now as i64 + self.skew
    }

    /// Whether it can rely on owning a shard without asking the log.
    pub(crate) fn is_sure(&self, now: u64, shard: usize) -> bool {
        self.clock(now) < self.machine.fresh_until() && !self.machine.is_doubtful(shard as u32)
    }
}

impl NodesWorld {
    /// A process that runs.
    pub(crate) fn process(&mut self, node: usize) -> Option<&mut Process> {
        self.own
            .processes
            .get_mut(node)
            .filter(|process| process.up)
    }

    /// The newest process of a name that runs.
    pub(crate) fn newest(&self, name: &NodeId) -> Option<usize> {
        let mut processes = self.own.processes.iter();
        processes.rposition(|process| process.up && process.name == *name)
    }

    /// Starts a process, unless one of this name runs.
    pub(crate) fn start(&mut self, name: &'static str) {
        if self.newest(&NodeId::from(name)).is_none() {
            self.start_another(name);
        }
    }

    /// Starts a process, whether or not one of this name runs.
    pub(crate) fn start_another(&mut self, name: &'static str) {
        let node = self.own.processes.len();
        let incarnation = node as u64 + 1;
        let config = Config::new("eu", SHARDS as u32, NodeId::from(name), incarnation);
        let lease_ms = config.lease_ms;
        self.own.processes.push(Process {
            name: NodeId::from(name),
            up: true,
            machine: Assigner::new(config),
            rate: self.rng.range(950, 1_051),
            offset: self.rng.range(0, 1_000_000),
            skew: self.rng.range(0, 4_000) as i64 - 2_000,
            read_up_to: None,
            known: BTreeSet::new(),
            owners: BTreeMap::new(),
            followers: BTreeMap::new(),
            told: [0; EDGES],
            lease_ms,
            drains: false,
            logs_reached_at: self.now,
            logs_looked_at: 0,
            shards_ticked_at: 0,
        });
        self.begin_look(node);
        self.soon(1, TICK_MS, Event::MemberTick(node));
    }

    /// The process is gone, and with it everything that it had in memory.
    pub(crate) fn kill(&mut self, node: usize) {
        let process = &mut self.own.processes[node];
        process.up = false;
        process.owners.clear();
        process.followers.clear();
        self.own.pauses.end(Node::Region(node));
        self.close_links_of(node, None, true);
    }

    /// A process ends by itself; its name, if it is a founder's.
    fn ends(&mut self, node: usize) -> Option<&'static str> {
        let name = self.own.processes[node].name.clone();
        self.kill(node);
        FOUNDERS.into_iter().find(|f| name.as_str() == *f)
    }

    /// Tells the machine of a process something, and does what it says.
    pub(crate) fn tell(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some(process) = self.process(node) else {
            return;
        };
        let clock = process.clock(now);
        let told: Result<(), RecordError> = process.machine.input(clock, input);
        if let Err(error) = told {
            panic!("{error}");
        }
        self.carry_out(node);
    }

    /// What others than the map have for the machine.
    pub(crate) fn hear(&mut self, node: usize, mut input: Input) {
        if let Input::Serving { shard, epoch } = &mut input
            && let Some(process) = self.process(node)
            && let Some(owner) = process.owners.get_mut(&(*shard as usize))
        {
            owner.served = true;
            // It may have been raised meanwhile.
            *epoch = owner.epoch;
        }
        let drains = input == Input::Drain;
        self.tell(node, input);
        if let (true, Some(process)) = (drains, self.process(node)) {
            process.drains = true;
            self.at(self.now + PATIENCE_MS, Event::GiveUp(node));
        }
    }

    /// Something for the machine that is on its way from another thread.
    pub(crate) fn news(&mut self, node: usize, input: Input) {
        self.soon(0, 3, Event::Tell { node, input });
    }

    fn carry_out(&mut self, node: usize) {
        while let Some(process) = self.process(node) {
            let Some(action) = process.machine.poll_action() else {
                return;
            };
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Put {
                key,
                value,
                expected,
            } => self.send_change(Change {
                node,
                key,
                value: Some(value),
                expected,
                late: false,
            }),
            Action::Delete { key, expected } => self.send_change(Change {
                node,
                key,
                value: None,
                expected,
                late: false,
            }),
            Action::Own { shard, epoch } => {
                let before = self.own.owned.insert((shard, epoch), node);
                assert!(
                    before.is_none_or(|before| before == node),
                    "shard {shard} has two owners under assignment {epoch}"
                );
                self.own(node, shard as usize, epoch);
            }
            Action::Pause { shard } => self.order(node, shard as usize, Order::Pause),
            Action::Resume { shard } => self.order(node, shard as usize, Order::Serve),
            Action::Leave { shard, owner } => {
                let order = match owner {
                    Some(owner) => Order::Leave(owner),
                    // Nobody waits for it: what is under way is finished.
                    None => Order::Stop,
                };
                self.order(node, shard as usize, order);
            }
            Action::Follow { shard } => {
                let next_at = self.now + self.rng.range(20, 300);
                let follower = Follower {
                    replay: None,
                    caught_up: false,
                    heard: None,
                    next_at,
                };
                if let Some(process) = self.process(node) {
                    process.followers.insert(shard as usize, follower);
                }
            }
            Action::Unfollow { shard } => {
                if let Some(process) = self.process(node) {
                    process.followers.remove(&(shard as usize));
                }
            }
            Action::Replaced => {
                let founder = self.ends(node);
                // The one that took its place may be gone by now.
                if let Some(founder) = founder
                    && self.is_calm()
                {
                    self.soon(200, 4_000, Event::Start(founder));
                }
            }
            Action::Drained => {
                let founder = self.ends(node);
                if let Some(founder) = founder
                    && (self.is_calm() || self.rng.one_in(2))
                {
                    self.soon(200, 4_000, Event::Start(founder));
                }
            }
        }
    }

    /// What a standby has read; `None`: nothing.
    pub(crate) fn take_followed(&mut self, node: usize, shard: usize) -> Option<Replay> {
        let follower = self.process(node)?.followers.remove(&shard)?;
        follower.replay
    }

    pub(crate) fn member_tick(&mut self, node: usize) {
        let (now, cut) = (self.now, self.is_cut(node, Peer::Log));
        let Some(process) = self.process(node) else {
            return;
        };
        let clock = process.clock(now);
        process.machine.tick(clock);
        if !cut {
            process.logs_reached_at = now;
        }
        let looks = now >= process.logs_looked_at + LOGS_LOOK_MS;
        if looks {
            process.logs_looked_at = now;
        }
        let ticks = now >= process.shards_ticked_at + SHARD_TICK_MS;
        if ticks {
            process.shards_ticked_at = now;
        }
        let owned: Vec<usize> = process.owners.keys().copied().collect();
        self.carry_out(node);
        if looks {
            self.look_at_logs(node);
        }
        for shard in owned.into_iter().filter(|_| ticks) {
            self.owner_tick(node, shard);
        }
        self.follow(node);
        self.tell_edges(node);
        self.at(now + TICK_MS, Event::MemberTick(node));
    }

    /// Tells the machine which logs answer, and what can not be served.
    fn look_at_logs(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = self.process(node) else {
            return;
        };
        let (clock, silence) = (process.clock(now), now - process.logs_reached_at);
        let mut says = Vec::new();
        for (shard, owner) in &mut process.owners {
            let (answers, shard) = (owner.log_answers(clock, silence), *shard as u32);
            if let Some(heard) = answers
                && owner.heard.replace(heard) != Some(heard)
            {
                says.push(Input::Heard { shard, heard });
            }
            if answers == Some(false) {
                says.push(Input::Unable { shard });
            }
        }
        for (shard, follower) in &mut process.followers {
            let (heard, shard) = (silence < LASTS_MS, *shard as u32);
            let known = follower.replay.is_some() || !heard;
            if known && follower.heard.replace(heard) != Some(heard) {
                says.push(Input::Heard { shard, heard });
            }
        }
        for input in says {
            self.tell(node, input);
        }
    }

    /// Standbys read on.
    fn follow(&mut self, node: usize) {
        let (now, snapshot) = (self.now, self.snapshot.clone());
        let cut = self.is_cut(node, Peer::Log);
        let logs: Vec<_> = self.own.logs.iter().map(|log| log.open()).collect();
        let Some(process) = self.process(node) else {
            return;
        };
        let mut says = Vec::new();
        for (shard, follower) in &mut process.followers {
            if now < follower.next_at {
                continue;
            }
            let log = &logs[*shard];
            if !cut {
                let replay = follower.replay.take();
                let mut replay = replay.unwrap_or_else(|| Replay::begin(log, *shard, &snapshot));
                replay.read_on(log);
                follower.replay = Some(replay);
            }
            // What was read to its end may be what had been fetched before the log was lost.
            let kept_up = now - process.logs_reached_at < BEHIND_MS;
            let caught_up = follower.replay.is_some() && kept_up;
            follower.next_at = now + FOLLOW_MS;
            if caught_up != follower.caught_up {
                follower.caught_up = caught_up;
                let shard = *shard as u32;
                says.push(Input::CaughtUp { shard, caught_up });
            }
        }
        for input in says {
            self.tell(node, input);
        }
    }

    /// Tells the edges that can be reached who owns what, where that has changed.
    fn tell_edges(&mut self, node: usize) {
        for edge in 0..EDGES {
            let cut = self.is_cut(node, Peer::Edge(edge));
            let Some(process) = self.process(node) else {
                return;
            };
            let changed = process.machine.owners_changed();
            if cut || process.told[edge] == changed {
                continue;
            }
            process.told[edge] = changed;
            let owners = process.machine.owners();
            let owners = owners.map(|(shard, epoch, name)| (shard as usize, epoch, name.clone()));
            let owners = owners.collect();
            self.soon(1, 6, Event::Owners { edge, owners });
        }
    }
}
