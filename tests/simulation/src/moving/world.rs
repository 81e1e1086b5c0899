//! The event queue and the loop of a move.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::snapshot::{Instance, Namespace, Region as Placed, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, ShardId, Slot};
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame};
use gb6_region_shard::{AdminOutcome, LinkId};
use gb6_region_stores_embedded::sim_disk::SimDisk;

use super::edges::EdgeNode;
use super::mover::{Mover, Phase};
use super::people::{Acknowledged, Pending, Publisher, Subscriber, room};
use super::shards::{Node, Path};
use super::{Death, EPOCHS, INSTANCES, Move, Moved, ROOMS, SOURCE, TARGET, check};
use crate::edge::Said;
use crate::rng::Rng;

/// Wall-clock time at the start of every run, Unix ms.
const UNIX_START_MS: i64 = 1_700_000_000_000;
/// When the load begins, and how long it is alone before the move, in ms.
const START_MS: u64 = 1_000;
const ALONE_MS: u64 = 1_200;
/// How long the load goes on after the move has begun, in ms.
const MOVING_MS: u64 = 2_500;
/// How long a run may take to come to rest behind the load, in ms.
const SETTLE_MS: u64 = 30_000;

/// Things that happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    ToOwner(LinkId, OwnerFrame),
    Ask(LinkId, HistoryRequest),
    ToEdge(LinkId, EdgeFrame),
    Page(LinkId, HistoryPage),
    EdgeDown(LinkId),
    OwnerDown(LinkId),
    Dial { edge: usize, shard: usize },
    EdgeTick(usize),
    ShardTick { shard: usize, life: u64 },
    SyncDone { shard: usize, life: u64 },
    StartShard(usize),
    MoverStep { life: u64 },
    MoverHears(u64, AdminOutcome),
    Placed(usize),
    PublisherStep(usize),
    Subscribe(usize),
    Break,
    Die,
}

/// Everything.
pub(crate) struct MoveWorld {
    pub(crate) plan: Move,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    digest: u64,
    pub(crate) work: VecDeque<(usize, usize, Said)>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) shards: [Node; 2],
    pub(crate) edges: [EdgeNode; 2],
    pub(crate) paths: BTreeMap<LinkId, Path>,
    pub(crate) next_link: u64,
    pub(crate) next_token: u64,
    pub(crate) mover: Mover,
    pub(crate) move_at: u64,
    pub(crate) seal_at: u64,
    pub(crate) load_end: u64,
    /// The target is shut: edges may come too early from now on.
    pub(crate) early: bool,
    pub(crate) sealed_ms: Option<u64>,
    pub(crate) opened_ms: Option<u64>,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Told that they were not written: (instance, room, data).
    pub(crate) refused: Vec<(usize, usize, String)>,
    pub(crate) moving: u64,
    pub(crate) duplicates: u64,
    pub(crate) repeated: u64,
    pub(crate) slowest_before: u64,
    pub(crate) slowest_during: u64,
    pub(crate) measured: usize,
}

/// Runs a move to its end and checks it. Panics, with what was violated, where it does not end
/// well.
pub fn run(plan: &Move) -> Moved {
    MoveWorld::new(*plan).run()
}

fn snapshot(moved: bool) -> Arc<Snapshot> {
    let instance = |n: usize| Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(if n == 0 && moved { EPOCHS.2 } else { EPOCHS.0 }),
        slots: vec![Slot(n as u16)],
        namespaces: BTreeMap::from([("room".to_owned(), Namespace::default())]),
        subscriptions_max: 16,
        ..Instance::default()
    };
    let instances = (0..INSTANCES.len()).map(|n| (InstanceId::from(INSTANCES[n]), instance(n)));
    let eu = Placed {
        shards: 2,
        slots: BTreeMap::from([
            (0, ShardId(u32::from(moved))),
            (1, ShardId(0)),
            (2, ShardId(1)),
        ]),
        owners: vec![NodeId::from("r0"), NodeId::from("r1")],
        ..Default::default()
    };
    Arc::new(Snapshot {
        revision: 1 + u64::from(moved),
        instances: instances.collect(),
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        ..Snapshot::default()
    })
}

impl MoveWorld {
    fn new(plan: Move) -> Self {
        let mut rng = Rng::new(plan.seed);
        let mut node = || Node {
            disk: SimDisk::new(rng.next()),
            life: 0,
            up: None,
        };
        let shards = [node(), node()];
        let mut publishers = Vec::new();
        let mut subscribers = Vec::new();
        for edge in 0..2 {
            let sequential = Publisher::new(edge, 0, true, 1);
            let mut early = Publisher::new(edge, 0, true, 2);
            early.early = true;
            publishers.extend([sequential, early]);
            // Instance, with ids, at once.
            let others = [(0, true, 4), (0, false, 1), (1, true, 1), (1, false, 3)];
            for (instance, with_id, window) in others.into_iter().chain([(2, false, 2)]) {
                publishers.push(Publisher::new(edge, instance, with_id, window));
            }
            for room in 0..ROOMS.len() {
                subscribers.push(Subscriber::new(edge, 0, room));
                subscribers.push(Subscriber::new(edge, 1 + edge, room));
            }
        }
        let move_at = START_MS + ALONE_MS;
        let seal_at = move_at + rng.range(100, 1_200);
        let mut world = Self {
            plan,
            now: START_MS,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            work: VecDeque::new(),
            snapshot: snapshot(false),
            shards,
            edges: [EdgeNode::new(), EdgeNode::new()],
            paths: BTreeMap::new(),
            next_link: 1,
            next_token: 0,
            mover: Mover::new(0),
            move_at,
            seal_at,
            load_end: move_at + MOVING_MS,
            early: false,
            sealed_ms: None,
            opened_ms: None,
            publishers,
            subscribers,
            pending: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            moving: 0,
            duplicates: 0,
            repeated: 0,
            slowest_before: 0,
            slowest_during: 0,
            measured: 0,
        };
        world.plan_run();
        world
    }

    fn plan_run(&mut self) {
        for shard in [SOURCE, TARGET] {
            self.start_shard(shard);
        }
        for edge in 0..self.edges.len() {
            self.at(self.now, Event::EdgeTick(edge));
            for shard in [SOURCE, TARGET] {
                self.soon(0, 20, Event::Dial { edge, shard });
            }
        }
        for at in 0..self.subscribers.len() {
            self.soon(20, 400, Event::Subscribe(at));
        }
        for at in 0..self.publishers.len() {
            self.soon(50, 150, Event::PublisherStep(at));
        }
        self.at(self.move_at, Event::MoverStep { life: 0 });
        self.soon(200, 900, Event::Break);
        // Before the seal, around it, or behind the opening.
        let die_at = self.move_at + self.rng.range(20, 1_600);
        self.at(die_at, Event::Die);
    }

    pub(crate) fn unix(&self) -> i64 {
        UNIX_START_MS + self.now as i64
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

    fn run(mut self) -> Moved {
        while let Some(((time, _), event)) = self.queue.pop_first() {
            self.now = time;
            self.note(&event);
            self.handle(event);
            self.drain_work();
            if self.now > self.load_end {
                let unrest = self.unrest();
                if unrest.is_empty() {
                    break;
                }
                assert!(
                    self.now < self.load_end + SETTLE_MS,
                    "the run does not come to rest: {unrest}"
                );
            }
        }
        let records = check::check(&self);
        let count = |n: usize| {
            let of = |a: &&Acknowledged| a.instance == n;
            (INSTANCES[n], self.acknowledged.iter().filter(of).count())
        };
        let closed = |s: u64| Some(self.opened_ms?.saturating_sub(s));
        Moved {
            records,
            acknowledged: (0..INSTANCES.len()).map(count).collect(),
            moving: self.moving,
            duplicates: self.duplicates,
            repeated: self.repeated,
            slowest_before_ms: self.slowest_before,
            slowest_during_ms: self.slowest_during,
            measured_during: self.measured,
            closed_ms: self.sealed_ms.and_then(closed).unwrap_or(0),
            digest: self.digest,
        }
    }

    /// FNV-1a over what happens: two runs of one seed must agree.
    fn note(&mut self, event: &Event) {
        for byte in format!("{}{event:?}", self.now).bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What keeps the run from being at rest; empty: nothing.
    fn unrest(&self) -> String {
        if self.mover.phase != Phase::Done || !self.edges.iter().all(|e| e.placed) {
            return format!("the mover is at {:?}", self.mover.phase);
        }
        for p in &self.publishers {
            if p.unanswered > 0 || !p.again.is_empty() {
                return format!("{p:?}");
            }
        }
        for s in &self.subscribers {
            let Some(owner) = &self.shards[s.shard].up else {
                return format!("shard {} has no owner", s.shard);
            };
            let top = owner.shard.top_offset(&room(s.instance, s.room));
            if s.position.as_ref().map(|p| p.0) != Some(top) {
                return format!("{s:?} is not at {top}");
            }
        }
        String::new()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::ToOwner(link, frame) => self.owner_frame(link, frame),
            Event::Ask(link, request) => self.owner_asked(link, request),
            Event::ToEdge(link, frame) => self.edge_frame(link, frame),
            Event::Page(link, page) => self.edge_page(link, page),
            Event::EdgeDown(link) => self.edge_down(link),
            Event::OwnerDown(link) => self.owner_down(link),
            Event::Dial { edge, shard } => self.dial(edge, shard),
            Event::EdgeTick(edge) => self.edge_tick(edge),
            Event::ShardTick { shard, life } => self.shard_tick(shard, life),
            Event::SyncDone { shard, life } => self.sync_done(shard, life),
            Event::StartShard(shard) => self.start_shard(shard),
            Event::MoverStep { life } => self.mover_step(life),
            Event::MoverHears(token, outcome) => self.mover_hears(token, outcome),
            Event::Placed(edge) => {
                self.learn_placement();
                self.placed(edge);
            }
            Event::PublisherStep(at) => self.publisher_step(at),
            Event::Subscribe(at) => {
                // One that was asked for again meanwhile has its answer on the way.
                self.subscribe_unless_asked(at);
            }
            Event::Break => {
                if self.now < self.load_end {
                    self.break_link();
                    self.soon(300, 1_200, Event::Break);
                }
            }
            Event::Die => match self.plan.death {
                Death::Nobody => {}
                Death::Source => self.shard_dies(SOURCE),
                Death::Target => self.shard_dies(TARGET),
                Death::Mover => self.mover_dies(),
            },
        }
    }

    /// The shards get the snapshot in which the instance has moved.
    fn learn_placement(&mut self) {
        self.snapshot = snapshot(true);
        for node in &mut self.shards {
            if let Some(owner) = &mut node.up {
                owner.shard.set_snapshot(self.snapshot.clone());
            }
        }
    }
}
