//! A world: its time, its chance, what happens next, and who is in it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::snapshot::{Instance, Namespace, Region as Placed, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, Slot};
use gb6_core_wire::mesh::RoomRef;
use gb6_region_shard::LinkId;

use super::edges::{Path, Side};
use super::people::{Acknowledged, Pending, Publisher, Subscriber};
use super::{Setting, Traffic};
use crate::edge::Said;
use crate::rng::Rng;

/// Everything: what all worlds have, and what is a [`Setting`]'s own.
pub(crate) struct World<S: Setting> {
    /// Milliseconds since the run began.
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), S::Event>,
    sequence: u64,
    /// Of everything that happened, in order.
    pub(crate) digest: u64,
    /// What hubs have said: edge, shard.
    pub(super) work: VecDeque<(usize, usize, Said)>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// The rooms that people are in.
    pub(crate) rooms: Vec<RoomRef>,
    /// What each edge has of each shard.
    pub(crate) sides: Vec<Vec<Side>>,
    pub(crate) paths: BTreeMap<LinkId, Path<S::Owner>>,
    pub(super) next_link: u64,
    next_token: u64,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Told that they were not written: (room, data).
    pub(crate) refused: Vec<(usize, String)>,
    /// Publishes answered as duplicates.
    pub(crate) duplicates: u64,
    /// When publishers begin nothing new any more.
    pub(crate) load_end: u64,
    pub(crate) own: S,
}

impl<S: Setting> World<S> {
    /// A world in which nothing is planned and nobody is yet.
    pub(crate) fn new(
        rng: Rng,
        start: u64,
        load_end: u64,
        (edges, shards): (usize, usize),
        rooms: Vec<RoomRef>,
        snapshot: Arc<Snapshot>,
        own: S,
    ) -> Self {
        let sides = || (0..shards).map(|_| Side::default()).collect();
        Self {
            now: start,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            work: VecDeque::new(),
            snapshot,
            rooms,
            sides: (0..edges).map(|_| sides()).collect(),
            paths: BTreeMap::new(),
            next_link: 1,
            next_token: 0,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            pending: BTreeMap::new(),
            acknowledged: Vec::new(),
            refused: Vec::new(),
            duplicates: 0,
            load_end,
            own,
        }
    }

    /// A number that nothing else has.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn at(&mut self, time: u64, event: impl Into<S::Event>) {
        self.sequence += 1;
        self.queue
            .insert((time.max(self.now), self.sequence), event.into());
    }

    /// Schedules an event `low` to `high` ms from now.
    pub(crate) fn soon(&mut self, low: u64, high: u64, event: impl Into<S::Event>) {
        let time = self.now + self.rng.range(low, high);
        self.at(time, event);
    }

    /// What is planned next; it is then that time.
    pub(crate) fn pop(&mut self) -> Option<S::Event> {
        let ((time, _), event) = self.queue.pop_first()?;
        self.now = time;
        Some(event)
    }

    /// FNV-1a over what happens, in words: two runs of one seed must agree.
    pub(crate) fn note(&mut self, event: &S::Event) {
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

    pub(crate) fn traffic(&mut self, traffic: Traffic) {
        match traffic {
            Traffic::ToOwner(link, frame) => S::owner_frame(self, link, *frame),
            Traffic::ToEdge(link, frame) => self.edge_frame(link, *frame),
            Traffic::EdgeDown(link) => self.edge_down(link),
            Traffic::OwnerDown(link) => S::owner_down(self, link),
            Traffic::Dial { edge, shard } => self.dial(edge, shard),
            Traffic::EdgeTick(edge) => self.edge_tick(edge),
            Traffic::PublisherStep(at) => self.publisher_step(at),
            Traffic::Subscribe(at) => self.subscribe(at),
        }
    }
}

/// An instance in a slot of the region, under an epoch.
pub(crate) fn instance(slot: usize, epoch: u64) -> Instance {
    Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(epoch),
        slots: vec![Slot(slot as u16)],
        namespaces: BTreeMap::from([("room".to_owned(), Namespace::default())]),
        subscriptions_max: 16,
        ..Instance::default()
    }
}

/// What the one region has.
pub(crate) fn snapshot(
    revision: u64,
    instances: impl Iterator<Item = (String, Instance)>,
    placed: Placed,
) -> Arc<Snapshot> {
    let instances = instances.map(|(name, instance)| (InstanceId::from(name.as_str()), instance));
    Arc::new(Snapshot {
        revision,
        instances: instances.collect(),
        regions: BTreeMap::from([("eu".to_owned(), placed)]),
        ..Snapshot::default()
    })
}
