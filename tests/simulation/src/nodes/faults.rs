//! What happens to the nodes of the region, and to their ways.

use gb6_core_ports::{Expect, MapStore};
use gb6_region_assign::{Input, ShardRecord, moved, released, shard_key};
use gb6_region_shard::LinkId;

use super::log::Asker;
use super::members::Process;
use super::world::{Event, NodesWorld};
use super::{Course, EDGES, FOUNDERS, JOINER, SHARDS};
use crate::geo::Node;
use crate::publishing::Traffic;

/// Kinds of what happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A node's process dies, and starts again or does not.
    Dies,
    /// It dies and starts again at once, while everybody takes its last life for alive.
    Restarts,
    /// It is paused, perhaps past its lease.
    Pauses,
    /// It is paused, and another process starts under its name.
    Twin,
    /// It does not reach the map.
    CutFromMap,
    /// It does not reach the logs.
    CutFromLogs,
    /// It reaches neither map nor logs, and edges reach it.
    CutFromBoth,
    /// An edge does not reach it.
    CutFromEdge,
    /// No edge reaches it, and neither map nor logs do.
    CutFromAll,
    /// Nobody reaches the map.
    MapLost,
    /// Nobody reaches the logs.
    LogsLost,
    /// Appends take long.
    LogsSlow,
    /// A link breaks.
    LinkBreaks,
    /// A shard is moved by hand.
    Moves,
    /// A shard may be anywhere again.
    Released,
    /// A node drains and leaves, and may come back.
    Drains,
    /// A node joins.
    Joins,
    /// An owner saves a checkpoint.
    Checkpoint,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 18] = [
        Fault::Dies,
        Fault::Restarts,
        Fault::Pauses,
        Fault::Twin,
        Fault::CutFromMap,
        Fault::CutFromLogs,
        Fault::CutFromBoth,
        Fault::CutFromEdge,
        Fault::CutFromAll,
        Fault::MapLost,
        Fault::LogsLost,
        Fault::LogsSlow,
        Fault::LinkBreaks,
        Fault::Moves,
        Fault::Released,
        Fault::Drains,
        Fault::Joins,
        Fault::Checkpoint,
    ];
    /// Those in which nothing goes wrong.
    const ORDERLY: [Fault; 5] = [
        Fault::Moves,
        Fault::Released,
        Fault::Drains,
        Fault::Joins,
        Fault::Checkpoint,
    ];
}

/// Whom a process may not reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Peer {
    Map,
    Log,
    Edge(usize),
}

impl NodesWorld {
    /// Until when a process does not reach somebody; `None`: it does.
    pub(crate) fn cut(&self, node: usize, peer: Peer) -> Option<u64> {
        let until = self.own.cuts.get(&(node, peer)).copied();
        until.filter(|until| *until > self.now)
    }

    pub(crate) fn is_cut(&self, node: usize, peer: Peer) -> bool {
        self.cut(node, peer).is_some()
    }

    /// Something happens, and the next is planned.
    pub(crate) fn fault(&mut self) {
        if self.is_calm() {
            return;
        }
        let (kinds, low, high): (&[Fault], u64, u64) = match self.own.plan.course {
            // One fault meets another, or has its whole effect.
            Course::Anything if self.own.plan.seed.is_multiple_of(3) => (&Fault::ALL, 50, 900),
            Course::Anything => (&Fault::ALL, 200, 3_000),
            Course::Deaths => (&[Fault::Dies], 6_500, 7_500),
            Course::Orderly => (&Fault::ORDERLY, 1_000, 3_000),
        };
        let kind = kinds[self.rng.range(0, kinds.len() as u64) as usize];
        *self.own.counts.faults.entry(kind).or_default() += 1;
        self.inflict(kind);
        self.soon(low, high, Event::Fault);
    }

    /// Some process that runs, paused or not.
    fn any(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.own.processes.len())
            .filter(|node| self.own.processes[*node].up)
            .collect();
        match up.len() as u64 {
            0 => None,
            count => Some(up[self.rng.range(0, count) as usize]),
        }
    }

    fn founder(&self, node: usize) -> &'static str {
        let name = self.own.processes[node].name.as_str();
        let found = FOUNDERS.into_iter().find(|founder| name == *founder);
        found.unwrap_or(JOINER)
    }

    fn inflict(&mut self, kind: Fault) {
        let now = self.now;
        let Some(node) = self.any() else {
            return self.soon(0, 200, Event::Start(FOUNDERS[0]));
        };
        let shard = self.rng.range(0, SHARDS as u64) as usize;
        let edge = self.rng.range(0, EDGES as u64) as usize;
        let until = match self.rng.one_in(2) {
            true => now + self.rng.range(50, 1_500),
            false => now + self.rng.range(1_500, 7_000),
        };
        let all: Vec<usize> = (0..self.own.processes.len()).collect();
        match kind {
            Fault::Dies => {
                let name = self.founder(node);
                self.kill(node);
                let (low, high) = match self.own.plan.course {
                    Course::Deaths => (30, 3_500),
                    _ => (300, 6_000),
                };
                self.soon(low, high, Event::Start(name));
            }
            Fault::Restarts => {
                let name = self.founder(node);
                self.kill(node);
                self.soon(1, 100, Event::Start(name));
            }
            Fault::Pauses => self.pause(node, until),
            Fault::Twin => {
                let name = self.founder(node);
                self.pause(node, until);
                self.start_another(name);
            }
            Fault::CutFromMap => self.cut_off(&[node], &[Peer::Map], until),
            Fault::CutFromLogs => self.cut_off(&[node], &[Peer::Log], until),
            Fault::CutFromBoth => self.cut_off(&[node], &[Peer::Map, Peer::Log], until),
            Fault::CutFromEdge => self.cut_off(&[node], &[Peer::Edge(edge)], until),
            Fault::CutFromAll => {
                let peers = [Peer::Map, Peer::Log, Peer::Edge(0), Peer::Edge(1)];
                self.cut_off(&[node], &peers, until);
            }
            Fault::MapLost => self.cut_off(&all, &[Peer::Map], until),
            Fault::LogsLost => self.cut_off(&all, &[Peer::Log], until),
            Fault::LogsSlow => {
                self.own.log_stall_ms = self.rng.range(50, 2_000);
                self.soon(500, 5_000, Event::LogsFast);
            }
            Fault::LinkBreaks => self.break_link(edge),
            Fault::Moves => {
                let to = self.own.processes[node].name.clone();
                // Where nobody owns it, nobody could hand it over.
                self.edit(shard, |record| moved(record, &to).ok());
            }
            Fault::Released => self.edit(shard, |record| released(record).ok()),
            Fault::Drains => self.drain(node),
            Fault::Joins => self.start(JOINER),
            Fault::Checkpoint => {
                let owner = self.own.processes[node].owners.get(&shard);
                if let Some(attempt) = owner.map(|owner| owner.attempt) {
                    self.checkpoint(Asker {
                        node,
                        shard,
                        attempt,
                    });
                }
            }
        }
    }

    /// A node is told to give everything away: in good order not where that leaves one alone.
    fn drain(&mut self, node: usize) {
        let stays = |process: &&Process| process.up && !process.drains;
        let left = self.own.processes.iter().filter(stays).count();
        if self.own.plan.course != Course::Orderly || left > 2 {
            let input = Input::Drain;
            self.at(self.now, Event::Tell { node, input });
        }
    }

    /// A process stands still; what it does not hear of for long is broken when it goes on.
    fn pause(&mut self, node: usize, until: u64) {
        self.own.pauses.pause(Node::Region(node), until);
        self.links_are_silent(node, None, until);
    }

    fn cut_off(&mut self, nodes: &[usize], peers: &[Peer], until: u64) {
        for node in nodes {
            for peer in peers {
                let known = self.own.cuts.entry((*node, *peer)).or_default();
                *known = until.max(*known);
                if let Peer::Edge(edge) = peer {
                    self.links_are_silent(*node, Some(*edge), until);
                }
            }
        }
    }

    /// Nothing comes over the links of a process until then; both ends give them up when that takes long.
    fn links_are_silent(&mut self, node: usize, edge: Option<usize>, until: u64) {
        let now = self.now;
        let mut broken = Vec::new();
        for (link, path) in &mut self.paths {
            if path.owner.node == node && edge.is_none_or(|edge| path.edge == edge) {
                if edge.is_some() {
                    path.stalled_until = until.max(path.stalled_until);
                }
                if path.open_at_owner {
                    broken.push(*link);
                }
            }
        }
        for link in broken.into_iter().filter(|_| until > now + 3_000) {
            self.soon(3_000, 4_000, Traffic::EdgeDown(link));
            self.soon(3_000, 4_000, Traffic::OwnerDown(link));
        }
    }

    fn break_link(&mut self, edge: usize) {
        let open = self.paths.iter();
        let open: Vec<LinkId> = open
            .filter(|(_, path)| path.edge == edge && path.open_at_owner)
            .map(|(link, _)| *link)
            .collect();
        if !open.is_empty() {
            let link = open[self.rng.range(0, open.len() as u64) as usize];
            self.soon(0, 30, Traffic::EdgeDown(link));
            self.soon(0, 500, Traffic::OwnerDown(link));
        }
    }

    /// A person changes a shard's record.
    fn edit(&mut self, shard: usize, edit: impl Fn(&ShardRecord) -> Option<ShardRecord>) {
        let Some((record, revision)) = self.record(shard) else {
            return;
        };
        if let Some(edited) = edit(&record) {
            let key = shard_key("eu", shard as u32);
            let expect = Expect::Revision(revision);
            let written = self.own.map.put(&key, &edited.encode(), expect);
            assert!(written.is_ok(), "{written:?}");
            self.map_changed();
        }
    }

    /// Nothing goes wrong any more: who is gone comes back, who is cut off is not, and nothing is kept
    /// anywhere by hand.
    pub(crate) fn calm_down(&mut self) {
        self.own.cuts.clear();
        self.own.log_stall_ms = 0;
        for path in self.paths.values_mut() {
            path.stalled_until = 0;
        }
        for node in 0..self.own.processes.len() {
            self.own.pauses.end(Node::Region(node));
        }
        if self.own.plan.course != Course::Deaths {
            for name in FOUNDERS {
                self.soon(1, 200, Event::Start(name));
            }
        }
        for shard in 0..SHARDS {
            self.edit(shard, |record| released(record).ok());
        }
    }
}
