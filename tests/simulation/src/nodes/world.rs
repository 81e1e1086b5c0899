//! The event queue and the loop of a region of several nodes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::snapshot::{Assigned, Instance, Namespace, Region as Placed, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, ShardId, Slot};
use gb6_core_ports::MapPage;
use gb6_core_ports::memory::{MemoryMap, MemoryStorage};
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame};
use gb6_region_assign::{Input, Written};
use gb6_region_shard::LinkId;

use super::edges::{EdgeNode, Path};
use super::faults::{Fault, Peer};
use super::log::{Answered, Asked, Asker};
use super::map::{Change, Waiting};
use super::members::Process;
use super::people::{Acknowledged, Pending, Publisher, Reading, Subscriber};
use super::service::Service;
use super::{Course, EDGES, FOUNDERS, Outcome, Plan, SHARDS, check, instance};
use crate::edge::Said;
use crate::geo::Node;
use crate::pause::Pauses;
use crate::rng::Rng;

/// Wall-clock time at the start of every run, Unix ms.
pub(crate) const UNIX_START_MS: i64 = 1_700_000_000_000;
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
    ToOwner(LinkId, OwnerFrame),
    OwnerDown(LinkId),
    ToEdge(LinkId, EdgeFrame),
    EdgeDown(LinkId),
    Dial {
        edge: usize,
        shard: usize,
    },
    EdgeTick(usize),
    /// A node tells an edge who owns what.
    Owners {
        edge: usize,
        owners: Vec<(usize, u64, NodeId)>,
    },
    PublisherStep(usize),
    Subscribe(usize),
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

/// What is counted of a run.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) failed: u64,
    pub(crate) duplicates: u64,
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

/// Everything.
pub(crate) struct NodesWorld {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    events: u64,
    digest: u64,
    /// What hubs have said: edge, shard.
    pub(crate) work: VecDeque<(usize, usize, Said)>,
    pub(crate) snapshot: Arc<Snapshot>,
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
    pub(crate) edges: Vec<EdgeNode>,
    pub(crate) paths: BTreeMap<LinkId, Path>,
    pub(crate) next_link: u64,
    pub(crate) next_token: u64,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) readings: BTreeMap<LinkId, Reading>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Told that they were not written: (shard, data).
    pub(crate) refused: Vec<(usize, String)>,
    /// What readers were shown: (shard, offset, data).
    pub(crate) shown: Vec<(usize, u64, bytes::Bytes)>,
    /// The newest offset of each shard's room that anybody was told of.
    pub(crate) told: [u64; SHARDS],
    pub(crate) service: Service,
    pub(crate) calm_at: u64,
    pub(crate) load_end: u64,
    pub(crate) counts: Counts,
}

/// Runs a plan to its end and checks it. Panics, with what was violated, where it does not end well.
pub fn run(plan: &Plan) -> Outcome {
    NodesWorld::new(*plan).run()
}

fn snapshot() -> Arc<Snapshot> {
    let of = |shard: usize| Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(1),
        slots: vec![Slot(shard as u16)],
        namespaces: BTreeMap::from([("room".to_owned(), Namespace::default())]),
        subscriptions_max: 16,
        ..Instance::default()
    };
    let instances =
        (0..SHARDS).map(|shard| (InstanceId::from(instance(shard).as_str()), of(shard)));
    let slots = (0..SHARDS).map(|shard| (shard as u16, ShardId(shard as u32)));
    let eu = Placed {
        shards: SHARDS as u32,
        slots: slots.collect(),
        owners: vec![NodeId::from(FOUNDERS[0]); SHARDS],
        assigned: Assigned::Region,
    };
    Arc::new(Snapshot {
        revision: 1,
        instances: instances.collect(),
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        ..Snapshot::default()
    })
}

impl NodesWorld {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        // A map whose answers take long makes everything late, and must make nothing wrong.
        let slow = plan.course == Course::Anything && rng.one_in(4);
        let calm_at = START_MS + CHAOS_MS;
        let mut world = Self {
            plan,
            now: 1_000,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            events: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            work: VecDeque::new(),
            snapshot: snapshot(),
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
            edges: (0..EDGES).map(|_| EdgeNode::default()).collect(),
            paths: BTreeMap::new(),
            next_link: 1,
            next_token: 0,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            pending: BTreeMap::new(),
            readings: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            shown: Vec::new(),
            told: [0; SHARDS],
            service: Service::default(),
            calm_at,
            load_end: calm_at + BEHIND_MS,
            counts: Counts::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for name in FOUNDERS {
            self.soon(0, 300, Event::Start(name));
        }
        for edge in 0..EDGES {
            self.at(self.now, Event::EdgeTick(edge));
            for shard in 0..SHARDS {
                self.soon(0, 20, Event::Dial { edge, shard });
                // One at once and once only; others under ids, two at once, until they are written.
                self.publishers.push(Publisher::new(edge, shard, false, 1));
                self.publishers.push(Publisher::new(edge, shard, true, 2));
                self.subscribers.push(Subscriber::new(edge, shard));
            }
        }
        for at in 0..self.publishers.len() {
            let start = START_MS + self.rng.range(0, 200);
            self.at(start, Event::PublisherStep(at));
        }
        for at in 0..self.subscribers.len() {
            self.soon(1_000, START_MS, Event::Subscribe(at));
        }
        for shard in 0..SHARDS {
            let start = START_MS + self.rng.range(0, 200);
            self.at(start, Event::ReaderStep(shard));
        }
        self.at(START_MS, Event::Fault);
        self.at(self.calm_at, Event::Calm);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now >= self.calm_at
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue
            .insert((time.max(self.now), self.sequence), event);
    }

    /// Schedules an event `low` to `high` ms from now.
    pub(crate) fn soon(&mut self, low: u64, high: u64, event: Event) {
        let time = self.now + self.rng.range(low, high);
        self.at(time, event);
    }

    fn run(mut self) -> Outcome {
        let mut unrest = String::new();
        while let Some(event) = self.next_event() {
            if let Some(node) = self.process_of(&event)
                && self.pauses.holds(self.now, Node::Region(node))
            {
                if let Some(until) = self.pauses.hold(Node::Region(node), event) {
                    self.at(until, Event::Wake(node));
                }
                continue;
            }
            self.events += 1;
            self.note(&event);
            let looks = matches!(event, Event::EdgeTick(0));
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
        let records = check::check(&self);
        Outcome {
            records,
            acknowledged: self.acknowledged.len(),
            failed: self.counts.failed,
            duplicates: self.counts.duplicates,
            reads: self.counts.reads,
            faults: self.counts.faults,
            acquired: self.counts.acquired,
            followed: self.counts.followed,
            fenced: self.counts.fenced,
            late: self.counts.late,
            confirmed: self.counts.confirmed,
            deposed: self.counts.deposed,
            unserved_ms: self.service.longest_ms,
            slowest_ms: self.counts.slowest_ms,
            events: self.events,
            digest: self.digest,
        }
    }

    /// What happens next, and when that is.
    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.pauses.next() {
            return Some(event);
        }
        let ((time, _), event) = self.queue.pop_first()?;
        self.now = time;
        Some(event)
    }

    /// FNV-1a over what happens, in words: two runs of one seed must agree.
    fn note(&mut self, event: &Event) {
        let mut add = |word: u64| {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01b3);
        };
        add(self.now);
        for chunk in format!("{event:?}").as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            add(u64::from_le_bytes(word));
        }
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
            Event::ToOwner(link, _) | Event::OwnerDown(link) => {
                self.paths.get(link).map(|path| path.node)
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
            Event::ToOwner(link, frame) => self.owner_frame(link, frame),
            Event::OwnerDown(link) => self.owner_down(link),
            Event::ToEdge(link, frame) => self.edge_frame(link, frame),
            Event::EdgeDown(link) => self.edge_down(link),
            Event::Dial { edge, shard } => self.dial(edge, shard),
            Event::EdgeTick(edge) => self.edge_tick(edge),
            Event::Owners { edge, owners } => self.edge_learns(edge, &owners),
            Event::PublisherStep(at) => self.publisher_step(at),
            Event::Subscribe(at) => self.subscribe(at),
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
                if let Some(until) = self.pauses.wake(self.now, Node::Region(node)) {
                    self.at(until, Event::Wake(node));
                }
            }
            Event::Fault => self.fault(),
            Event::GiveUp(node) => self.tell(node, Input::GiveUp),
            Event::LogsFast => self.log_stall_ms = 0,
            Event::Calm => self.calm_down(),
        }
    }
}
