//! The event queue and the loop of a move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::snapshot::{Region as Placed, Snapshot};
use gb6_core_model::{NodeId, ShardId};
use gb6_core_wire::mesh::{HistoryPage, HistoryRequest};
use gb6_region_shard::{AdminOutcome, LinkId};
use gb6_region_stores_embedded::sim_disk::SimDisk;

use super::mover::{Mover, Phase};
use super::people::{instance_of, rooms};
use super::shards::Node;
use super::{Death, EDGES, EPOCHS, INSTANCES, Move, Moved, SOURCE, TARGET, check};
use crate::publishing::{self, Traffic, UNIX_START_MS, World};
use crate::rng::Rng;

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
    Traffic(Traffic),
    Ask(LinkId, HistoryRequest),
    Page(LinkId, HistoryPage),
    ShardTick { shard: usize, life: u64 },
    SyncDone { shard: usize, life: u64 },
    StartShard(usize),
    MoverStep { life: u64 },
    MoverHears(u64, AdminOutcome),
    Placed(usize),
    Break,
    Die,
}

impl From<Traffic> for Event {
    fn from(traffic: Traffic) -> Self {
        Event::Traffic(traffic)
    }
}

/// Two shards, and who carries an instance from one to the other.
pub(crate) struct Moving {
    plan: Move,
    pub(crate) shards: [Node; 2],
    /// The edges that have been told where the instance is now.
    pub(crate) placed: [bool; EDGES],
    /// Publishers whose edge knows where the instance goes to before it is open there.
    pub(crate) early_publishers: BTreeSet<usize>,
    pub(crate) mover: Mover,
    pub(crate) move_at: u64,
    pub(crate) seal_at: u64,
    /// The target is shut: edges may come too early from now on.
    pub(crate) early: bool,
    pub(crate) sealed_ms: Option<u64>,
    pub(crate) opened_ms: Option<u64>,
    pub(crate) moving: u64,
    pub(crate) repeated: u64,
    pub(crate) slowest_before: u64,
    pub(crate) slowest_during: u64,
    pub(crate) measured: usize,
}

/// The world of a move.
pub(crate) type MoveWorld = World<Moving>;

/// Runs a move to its end and checks it. Panics, with what was violated, where it does not end
/// well.
pub fn run(plan: &Move) -> Moved {
    begin(*plan).run()
}

fn snapshot(moved: bool) -> Arc<Snapshot> {
    let epoch = |n: usize| if n == 0 && moved { EPOCHS.2 } else { EPOCHS.0 };
    let instance = |n: usize| (INSTANCES[n].to_owned(), publishing::instance(n, epoch(n)));
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
    let revision = 1 + u64::from(moved);
    publishing::snapshot(revision, (0..INSTANCES.len()).map(instance), eu)
}

fn begin(plan: Move) -> MoveWorld {
    let mut rng = Rng::new(plan.seed);
    let mut node = || Node {
        disk: SimDisk::new(rng.next()),
        life: 0,
        up: None,
    };
    let shards = [node(), node()];
    let move_at = START_MS + ALONE_MS;
    let seal_at = move_at + rng.range(100, 1_200);
    let moving = Moving {
        plan,
        shards,
        placed: [false; EDGES],
        early_publishers: BTreeSet::new(),
        mover: Mover::new(0),
        move_at,
        seal_at,
        early: false,
        sealed_ms: None,
        opened_ms: None,
        moving: 0,
        repeated: 0,
        slowest_before: 0,
        slowest_during: 0,
        measured: 0,
    };
    let load_end = move_at + MOVING_MS;
    let of = (EDGES, 2);
    let mut world = World::new(
        rng,
        START_MS,
        load_end,
        of,
        rooms(),
        snapshot(false),
        moving,
    );
    world.fill();
    world.plan_run();
    world
}

impl MoveWorld {
    fn plan_run(&mut self) {
        for shard in [SOURCE, TARGET] {
            self.start_shard(shard);
        }
        for edge in 0..EDGES {
            self.at(self.now, Traffic::EdgeTick(edge));
            for shard in [SOURCE, TARGET] {
                self.soon(0, 20, Traffic::Dial { edge, shard });
            }
        }
        for at in 0..self.subscribers.len() {
            self.soon(20, 400, Traffic::Subscribe(at));
        }
        for at in 0..self.publishers.len() {
            self.soon(50, 150, Traffic::PublisherStep(at));
        }
        self.at(self.own.move_at, Event::MoverStep { life: 0 });
        self.soon(200, 900, Event::Break);
        // Before the seal, around it, or behind the opening.
        let die_at = self.own.move_at + self.rng.range(20, 1_600);
        self.at(die_at, Event::Die);
    }

    pub(crate) fn unix(&self) -> i64 {
        UNIX_START_MS + self.now as i64
    }

    fn run(mut self) -> Moved {
        while let Some(event) = self.pop() {
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
        let records = check::logs(&self);
        let of = |n: usize| {
            self.acknowledged
                .iter()
                .filter(move |a| instance_of(a.room) == n)
        };
        let count = |n: usize| (INSTANCES[n], of(n).count());
        let own = &self.own;
        let closed = |s: u64| Some(own.opened_ms?.saturating_sub(s));
        Moved {
            records,
            acknowledged: (0..INSTANCES.len()).map(count).collect(),
            moving: own.moving,
            duplicates: self.duplicates,
            repeated: own.repeated,
            slowest_before_ms: own.slowest_before,
            slowest_during_ms: own.slowest_during,
            measured_during: own.measured,
            closed_ms: own.sealed_ms.and_then(closed).unwrap_or(0),
            digest: self.digest,
        }
    }

    /// What keeps the run from being at rest; empty: nothing.
    fn unrest(&self) -> String {
        if self.own.mover.phase != Phase::Done || !self.own.placed.iter().all(|placed| *placed) {
            return format!("the mover is at {:?}", self.own.mover.phase);
        }
        self.who_waits(|shard, room| {
            let owner = self.own.shards[shard].up.as_ref()?;
            Some(owner.shard.top_offset(room))
        })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Traffic(traffic) => self.traffic(traffic),
            Event::Ask(link, request) => self.owner_asked(link, request),
            Event::Page(link, page) => self.edge_page(link, page),
            Event::ShardTick { shard, life } => self.shard_tick(shard, life),
            Event::SyncDone { shard, life } => self.sync_done(shard, life),
            Event::StartShard(shard) => self.start_shard(shard),
            Event::MoverStep { life } => self.mover_step(life),
            Event::MoverHears(token, outcome) => self.mover_hears(token, outcome),
            Event::Placed(edge) => {
                self.learn_placement();
                self.placed(edge);
            }
            Event::Break => {
                if self.now < self.load_end {
                    self.break_link();
                    self.soon(300, 1_200, Event::Break);
                }
            }
            Event::Die => match self.own.plan.death {
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
        for node in &mut self.own.shards {
            if let Some(owner) = &mut node.up {
                owner.shard.set_snapshot(self.snapshot.clone());
            }
        }
    }
}
