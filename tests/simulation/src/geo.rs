//! The control plane: a geo process that pushes revisions of the placement, and what nodes do with
//! them. Every node works by the newest one that it was given and kept; while geo is away nothing
//! changes, and who starts meanwhile starts from what it kept, which may be old.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::{Instance, Namespace, Node as Placed, Region, Snapshot};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, Role, Slot};

use crate::world::{Event, World};

/// A node that follows geo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Node {
    Edge(usize),
    Region(usize),
}

/// Every node of a world.
pub(crate) const NODES: [Node; 4] = [
    Node::Edge(0),
    Node::Edge(1),
    Node::Region(0),
    Node::Region(1),
];

/// Geo, and every revision that it ever had: its file outlives it.
pub(crate) struct Geo {
    pub(crate) up: bool,
    revisions: Vec<Arc<Snapshot>>,
}

/// The region that a placement gives the shard to.
pub(crate) fn owner_of(snapshot: &Snapshot) -> usize {
    let owners = snapshot.regions.get("eu").map(|eu| &eu.owners);
    let owner = owners.and_then(|owners| owners.first());
    usize::from(owner.is_some_and(|owner| owner.as_str() == "r1"))
}

fn snapshot(revision: u64, owner: usize) -> Arc<Snapshot> {
    let rules = Namespace {
        presence: true,
        join_leave: true,
        ..Namespace::default()
    };
    let demo = Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(1),
        slots: vec![Slot(0)],
        namespaces: BTreeMap::from([("room".to_owned(), rules)]),
        subscriptions_max: 16,
        ..Instance::default()
    };
    let eu = Region {
        shards: 1,
        slots: BTreeMap::new(),
        owners: vec![NodeId::from(format!("r{owner}").as_str())],
        ..Default::default()
    };
    let region = || Placed {
        roles: vec![Role::Region],
        mesh: None,
        region: Some("eu".into()),
    };
    Arc::new(Snapshot {
        revision,
        instances: BTreeMap::from([(InstanceId::from("demo"), demo)]),
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        nodes: BTreeMap::from([
            (NodeId::from("r0"), region()),
            (NodeId::from("r1"), region()),
        ]),
    })
}

impl Geo {
    pub(crate) fn new() -> Self {
        Self {
            up: true,
            revisions: vec![snapshot(1, 0)],
        }
    }

    pub(crate) fn newest(&self) -> &Arc<Snapshot> {
        &self.revisions[self.revisions.len() - 1]
    }
}

impl World {
    /// A new revision of the placement. Whoever follows geo hears of it; nobody does while geo is
    /// away.
    pub(crate) fn place(&mut self, owner: usize) {
        let revision = self.geo.newest().revision + 1;
        let placed = snapshot(revision, owner);
        assert_eq!(placed.check(), Ok(()), "no node would take it");
        self.geo.revisions.push(placed);
        if self.geo.up {
            NODES.into_iter().for_each(|node| self.push_to(node));
        }
    }

    /// What geo has at this moment is on its way to a node. Later pushes may overtake it: each comes
    /// on a stream of its own life.
    fn push_to(&mut self, node: Node) {
        let revision = self.geo.newest().revision;
        let late = if self.rng.one_in(4) { 3_000 } else { 60 };
        self.soon(1, late, Event::Push(node, revision));
    }

    /// A node dials geo, again and again until it is there.
    pub(crate) fn follow(&mut self, node: Node) {
        match self.geo.up {
            true => self.push_to(node),
            false => self.soon(100, 1_000, Event::Follow(node)),
        }
    }

    /// Geo's process dies, and with it every stream of snapshots.
    pub(crate) fn geo_dies(&mut self) {
        if std::mem::replace(&mut self.geo.up, false) {
            self.soon(500, 8_000, Event::StartGeo);
        }
    }

    /// It begins again from its file, and nodes find it again.
    pub(crate) fn start_geo(&mut self) {
        self.geo.up = true;
        for node in NODES {
            self.soon(20, 1_000, Event::Follow(node));
        }
    }

    /// A revision arrives at a node. Never goes back; who is not running hears nothing, and follows
    /// anew when it starts.
    pub(crate) fn pushed(&mut self, node: Node, revision: u64) {
        let (running, kept) = match node {
            Node::Edge(n) => (self.edges[n].up.is_some(), &mut self.edges[n].kept),
            Node::Region(n) => (!self.regions[n].down, &mut self.regions[n].kept),
        };
        if !running || revision <= kept.revision {
            return;
        }
        let before = owner_of(kept);
        *kept = self.geo.revisions[revision as usize - 1].clone();
        let (kept, now) = (kept.clone(), owner_of(kept));
        match node {
            Node::Edge(edge) => {
                let link = self.edges[edge].up.as_ref().and_then(|r| r.link);
                if let (true, Some(link)) = (before != now, link) {
                    self.edge_link_down(link);
                }
            }
            Node::Region(region) if now != region => {
                // It stops when it has noticed.
                self.soon(0, 2_000, Event::StopStale(region));
            }
            Node::Region(region) => match &mut self.regions[region].up {
                Some(owner) if before == now => owner.shard.set_snapshot(kept),
                Some(_) => {
                    // It was deposed a moment ago and had not noticed: a new assignment makes it
                    // begin again.
                    self.region_dies(region);
                    self.soon(0, 50, Event::StartRegion(region));
                }
                None => self.soon(0, 50, Event::StartRegion(region)),
            },
        }
    }
}
