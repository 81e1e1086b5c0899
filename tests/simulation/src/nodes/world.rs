//! The event queue and the loop of a region of several nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::{Assigned, Region as Placed, Snapshot};
use gb6_core_model::{NodeId, ShardId};
use gb6_core_ports::MapPage;
use gb6_core_ports::memory::{MemoryMap, MemoryStorage};
use gb6_core_wire::mesh::{HistoryPage, HistoryRequest};
use gb6_region_assign::{Input, Written};
use gb6_region_shard::LinkId;

use super::faults::{Fault, Peer};
use super::log::{Answered, Asked, Asker};
use super::map::{Change, Waiting};
use super::members::Process;
use super::people::{Reading, rooms};
use super::service::Service;
use super::{Course, EDGES, FOUNDERS, Outcome, Plan, SHARDS, check, instance};
use crate::geo::Node;
use crate::pause::Pauses;
use crate::publishing::{self, Publisher, Subscriber, Traffic, World};
use crate::rng::Rng;

/// The time at which a run begins, in ms.
const BEGIN_MS: u64 = 1_000;
/// When the load begins: every shard has an owner, in ms.
const START_MS: u64 = 5_000;
/// How long things happen, in ms.
const CHAOS_MS: u64 = 16_000;
/// How long the load goes on behind that, in ms.
const BEHIND_MS: u64 = 4_000;
/// How long the region has then to have alike and to come to rest, in ms.
const SETTLE_MS: u64 = 40_000;

/// Things that happen. `node`: one life of one process.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A look arrives at the map.
    Look {
        node: usize,
        begun_ms: u64,
        after: Option<u64>,
    },
    /// A look has waited long enough for something to change.
    LookEnds(u64),
    /// What a look has found; `None`: the map was not reached.
    Looked {
        node: usize,
        begun_ms: u64,
        whole: bool,
        page: Option<MapPage>,
    },
    /// A change arrives at the map.
    Change(Change),
    Changed {
        node: usize,
        key: String,
        outcome: Written,
    },
    /// A record is read by itself.
    Reread {
        node: usize,
        key: String,
    },
    Read {
        node: usize,
        key: String,
        record: Option<(Vec<u8>, u64)>,
    },
    /// A request arrives at a log.
    LogAsked(Box<Asked>),
    LogAnswers(Box<Answered>),
    /// Whoever asked waits no longer.
    LogSilent(Asker, u64),
    /// What a shard's owner or a person tells the machine of assignments.
    Tell {
        node: usize,
        input: Input,
    },
    MemberTick(usize),
    /// A shard's owner reads its log.
    OwnerBegins(Asker),
    Traffic(Traffic),
    /// A node tells an edge who owns what.
    Owners {
        edge: usize,
        owners: Vec<(usize, u64, NodeId)>,
    },
    ReaderStep(usize),
    /// A reader's question arrives.
    Ask {
        node: usize,
        shard: usize,
        link: LinkId,
        request: HistoryRequest,
    },
    ReaderHears(LinkId, HistoryPage),
    Start(&'static str),
    /// A pause may be over.
    Wake(usize),
    Fault,
    /// A node that drains is told to give up what is left.
    GiveUp(usize),
    LogsFast,
    /// Nothing goes wrong any more.
    Calm,
}

impl From<Traffic> for Event {
    fn from(traffic: Traffic) -> Self {
        Event::Traffic(traffic)
    }
}

/// What is counted of a run.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) failed: u64,
    pub(crate) reads: u64,
    pub(crate) acquired: u64,
    pub(crate) followed: u64,
    pub(crate) fenced: u64,
    pub(crate) late: u64,
    pub(crate) confirmed: u64,
    pub(crate) deposed: u64,
    pub(crate) slowest_ms: u64,
    pub(crate) faults: BTreeMap<Fault, u64>,
}

/// The nodes, and what they share.
pub(crate) struct Nodes {
    pub(crate) plan: Plan,
    events: u64,
    pub(crate) map: MemoryMap,
    /// Looks that wait at the map for something to change.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) next_look: u64,
    /// How long the way to the map and back takes at most, each, in ms.
    pub(crate) map_ms: u64,
    pub(crate) logs: Vec<MemoryStorage>,
    /// How much longer an append takes, in ms.
    pub(crate) log_stall_ms: u64,
    /// Every life of every process, in the order of their starts.
    pub(crate) processes: Vec<Process>,
    pub(crate) pauses: Pauses<Event>,
    /// Until when a process does not reach somebody.
    pub(crate) cuts: BTreeMap<(usize, Peer), u64>,
    /// Who was told to own a shard under an assignment epoch.
    pub(crate) owned: BTreeMap<(u32, u64), usize>,
    /// The owner of each shard that each edge knows, with the assignment epoch under which it was told.
    pub(crate) known: [BTreeMap<usize, (u64, NodeId)>; EDGES],
    pub(crate) readings: BTreeMap<LinkId, Reading>,
    /// What readers were shown: (shard, offset, data).
    pub(crate) shown: Vec<(usize, u64, bytes::Bytes)>,
    /// The newest offset of each shard's room that anybody was told of.
    pub(crate) told: [u64; SHARDS],
    pub(crate) service: Service,
    pub(crate) calm_at: u64,
    pub(crate) counts: Counts,
}

/// The world of a region of several nodes.
pub(crate) type NodesWorld = World<Nodes>;

/// Runs a plan to its end and checks it. Panics, with what was violated, where it does not end well.
pub fn run(plan: &Plan) -> Outcome {
    begin(*plan).run()
}

fn snapshot() -> Arc<Snapshot> {
    let instances = (0..SHARDS).map(|shard| (instance(shard), publishing::instance(shard, 1)));
    let slots = (0..SHARDS).map(|shard| (shard as u16, ShardId(shard as u32)));
    let eu = Placed {
        shards: SHARDS as u32,
        slots: slots.collect(),
        owners: vec![NodeId::from(FOUNDERS[0]); SHARDS],
        assigned: Assigned::Region,
    };
    publishing::snapshot(1, instances, eu)
}

fn begin(plan: Plan) -> NodesWorld {
    let mut rng = Rng::new(plan.seed);
    // A map whose answers take long makes everything late, and must make nothing wrong.
    let slow = plan.course == Course::Anything && rng.one_in(4);
    let calm_at = START_MS + CHAOS_MS;
    let nodes = Nodes {
        plan,
        events: 0,
        map: MemoryMap::default(),
        waiting: Vec::new(),
        next_look: 1,
        map_ms: if slow { 250 } else { 12 },
        logs: (0..SHARDS).map(|_| MemoryStorage::default()).collect(),
        log_stall_ms: 0,
        processes: Vec::new(),
        pauses: Pauses::default(),
        cuts: BTreeMap::new(),
        owned: BTreeMap::new(),
        known: Default::default(),
        readings: BTreeMap::new(),
        shown: Vec::new(),
        told: [0; SHARDS],
        service: Service::default(),
        calm_at,
        counts: Counts::default(),
    };
    let (load_end, of) = (calm_at + BEHIND_MS, (EDGES, SHARDS));
    let mut world = World::new(rng, BEGIN_MS, load_end, of, rooms(), snapshot(), nodes);
    world.plan_run();
    world
}

impl NodesWorld {
    fn plan_run(&mut self) {
        for name in FOUNDERS {
            self.soon(0, 300, Event::Start(name));
        }
        for edge in 0..EDGES {
            self.at(self.now, Traffic::EdgeTick(edge));
            for shard in 0..SHARDS {
                self.soon(0, 20, Traffic::Dial { edge, shard });
                // One at once and once only; others under ids, two at once, until they are written.
                self.publishers.push(Publisher::new(edge, shard, false, 1));
                self.publishers.push(Publisher::new(edge, shard, true, 2));
                self.subscribers.push(Subscriber::new(edge, shard, shard));
            }
        }
        for at in 0..self.publishers.len() {
            let start = START_MS + self.rng.range(0, 200);
            self.at(start, Traffic::PublisherStep(at));
        }
        for at in 0..self.subscribers.len() {
            self.soon(1_000, START_MS, Traffic::Subscribe(at));
        }
        for shard in 0..SHARDS {
            let start = START_MS + self.rng.range(0, 200);
            self.at(start, Event::ReaderStep(shard));
        }
        self.at(START_MS, Event::Fault);
        self.at(self.own.calm_at, Event::Calm);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now >= self.own.calm_at
    }

    fn run(mut self) -> Outcome {
        let mut unrest = String::new();
        while let Some(event) = self.next_event() {
            if let Some(node) = self.process_of(&event)
                && self.own.pauses.holds(self.now, Node::Region(node))
            {
                if let Some(until) = self.own.pauses.hold(Node::Region(node), event) {
                    self.at(until, Event::Wake(node));
                }
                continue;
            }
            self.own.events += 1;
            self.note(&event);
            let looks = matches!(event, Event::Traffic(Traffic::EdgeTick(0)));
            self.handle(event);
            self.drain_work();
            if looks {
                self.look_at_service();
            }
            if self.now > self.load_end && looks {
                unrest = self.unrest();
                if unrest.is_empty() {
                    break;
                }
            }
            assert!(
                self.now < self.load_end + SETTLE_MS,
                "the run does not come to rest: {unrest}"
            );
        }
        let records = check::logs(&self);
        Outcome {
            records,
            acknowledged: self.acknowledged.len(),
            failed: self.own.counts.failed,
            duplicates: self.duplicates,
            reads: self.own.counts.reads,
            faults: self.own.counts.faults,
            acquired: self.own.counts.acquired,
            followed: self.own.counts.followed,
            fenced: self.own.counts.fenced,
            late: self.own.counts.late,
            confirmed: self.own.counts.confirmed,
            deposed: self.own.counts.deposed,
            unserved_ms: self.own.service.longest_ms,
            slowest_ms: self.own.counts.slowest_ms,
            events: self.own.events,
            digest: self.digest,
        }
    }

    /// What happens next, and when that is.
    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.own.pauses.next() {
            return Some(event);
        }
        self.pop()
    }

    /// The process that handles an event.
    fn process_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Looked { node, .. }
            | Event::Changed { node, .. }
            | Event::Read { node, .. }
            | Event::Tell { node, .. }
            | Event::MemberTick(node)
            | Event::Ask { node, .. } => Some(*node),
            Event::LogAnswers(answered) => Some(answered.asker.node),
            Event::LogSilent(asker, _) | Event::OwnerBegins(asker) => Some(asker.node),
            Event::Traffic(Traffic::ToOwner(link, _) | Traffic::OwnerDown(link)) => {
                self.paths.get(link).map(|path| path.owner.node)
            }
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Look {
                node,
                begun_ms,
                after,
            } => self.look(node, begun_ms, after),
            Event::LookEnds(number) => self.look_ends(number),
            Event::Looked {
                node,
                begun_ms,
                whole,
                page,
            } => self.looked(node, begun_ms, whole, page),
            Event::Change(change) => self.make(change),
            Event::Changed { node, key, outcome } => self.changed(node, key, outcome),
            Event::Reread { node, key } => self.reread(node, key),
            Event::Read { node, key, record } => self.tell(node, Input::Read { key, record }),
            Event::LogAsked(asked) => self.log_asked(*asked),
            Event::LogAnswers(answered) => self.log_answers(*answered),
            Event::LogSilent(asker, request) => self.log_silent(asker, request),
            Event::Tell { node, input } => self.hear(node, input),
            Event::MemberTick(node) => self.member_tick(node),
            Event::OwnerBegins(asker) => self.owner_begins(asker),
            Event::Traffic(traffic) => self.traffic(traffic),
            Event::Owners { edge, owners } => self.edge_learns(edge, &owners),
            Event::ReaderStep(shard) => self.reader_step(shard),
            Event::Ask {
                node,
                shard,
                link,
                request,
            } => self.owner_asked(node, shard, link, request),
            Event::ReaderHears(link, page) => self.reader_hears(link, page),
            Event::Start(name) => self.start(name),
            Event::Wake(node) => {
                if let Some(until) = self.own.pauses.wake(self.now, Node::Region(node)) {
                    self.at(until, Event::Wake(node));
                }
            }
            Event::Fault => self.fault(),
            Event::GiveUp(node) => self.tell(node, Input::GiveUp),
            Event::LogsFast => self.own.log_stall_ms = 0,
            Event::Calm => self.calm_down(),
        }
    }
}
