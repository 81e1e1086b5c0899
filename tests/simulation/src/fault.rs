//! What goes wrong in a run, and how often.

use gb6_region_shard::LinkId;

use crate::geo::Node;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// A link between an edge and a region breaks; both sides learn it at different times.
    LinkBreaks,
    /// A link is silent for a while, then goes on.
    LinkStalls,
    /// A link is silent until both sides give it up.
    LinkDies,
    /// The region's process dies; what it wrote stays in the page cache.
    RegionDies,
    /// The region's process is paused.
    RegionPauses,
    /// Another node acquires the shard while the owner runs or is paused.
    Takeover,
    /// The power goes: everything unsynced is lost, the last writes are torn.
    PowerCut,
    /// A sync fails.
    SyncFails,
    /// Syncs take long.
    SyncStalls,
    /// The disk is full for a while.
    DiskFull,
    /// An edge's process dies.
    EdgeDies,
    /// An edge's process is paused, perhaps beyond its lease.
    EdgePauses,
    /// A client's connection breaks.
    ClientLeaves,
    /// A checkpoint is made.
    Checkpoint,
    /// The geo process dies, for a while: who starts meanwhile works by the placement that it kept.
    GeoDies,
    /// A new revision of the placement that moves nothing.
    NewRevision,
    /// The application revokes tokens, or a user for a while.
    Revokes,
    /// An edge drains: it sends its sessions elsewhere, ends, and begins again.
    EdgeDrains,
    /// The connections of all clients break at once.
    Storm,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [FaultKind; 19] = [
        FaultKind::LinkBreaks,
        FaultKind::LinkStalls,
        FaultKind::LinkDies,
        FaultKind::RegionDies,
        FaultKind::RegionPauses,
        FaultKind::Takeover,
        FaultKind::PowerCut,
        FaultKind::SyncFails,
        FaultKind::SyncStalls,
        FaultKind::DiskFull,
        FaultKind::EdgeDies,
        FaultKind::EdgePauses,
        FaultKind::ClientLeaves,
        FaultKind::Checkpoint,
        FaultKind::GeoDies,
        FaultKind::NewRevision,
        FaultKind::Revokes,
        FaultKind::EdgeDrains,
        FaultKind::Storm,
    ];

    pub(crate) fn draw(rng: &mut Rng, of: &[FaultKind]) -> Option<Self> {
        if of.is_empty() {
            return None;
        }
        of.get(rng.range(0, of.len() as u64) as usize).copied()
    }
}

impl World {
    /// Something goes wrong, and the next fault is planned.
    pub(crate) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let faults = self.scenario.faults.clone();
        if let Some(kind) = FaultKind::draw(&mut self.rng, &faults) {
            *self.faults.entry(kind).or_default() += 1;
            self.inflict(kind);
        }
        let every = self.scenario.fault_every_ms;
        self.soon(every / 4, every * 2, Event::Fault);
    }

    fn inflict(&mut self, kind: FaultKind) {
        let now = self.now;
        let edge = self.rng.range(0, 2) as usize;
        let owner = self.owner();
        match kind {
            FaultKind::LinkBreaks => {
                if let Some(link) = self.link_of(edge) {
                    // What it sends may be lost already.
                    self.ledger.disturb(edge, now + 2_000);
                    self.soon(0, 50, Event::EdgeLinkDown(link));
                    self.soon(0, 2_000, Event::RegionLinkDown(link));
                }
            }
            FaultKind::LinkStalls => {
                let until = now + self.rng.range(200, 3_000);
                self.ledger.disturb(edge, until);
                self.stall_link(edge, until);
            }
            FaultKind::LinkDies => {
                self.ledger.disturb(edge, now + 6_000);
                self.stall_link(edge, u64::MAX / 2);
                if let Some(link) = self.link_of(edge) {
                    self.soon(3_000, 6_000, Event::EdgeLinkDown(link));
                    self.soon(3_000, 6_000, Event::RegionLinkDown(link));
                }
            }
            FaultKind::RegionDies => {
                // Sometimes the one that should not serve, and may not know it.
                let region = if self.rng.one_in(4) { 1 - owner } else { owner };
                self.region_dies(region);
                self.regions[region].down = true;
                self.soon(50, 3_000, Event::StartRegion(region));
            }
            FaultKind::RegionPauses => {
                let until = now + self.rng.range(100, 12_000);
                self.pause(Node::Region(owner), until);
            }
            FaultKind::Takeover => self.take_over(),
            FaultKind::PowerCut => {
                self.disk.cut_power_in(self.rng.range(0, 6));
                self.soon(1, 80, Event::PowerOff);
            }
            FaultKind::SyncFails => self.disk.fail_sync_in(self.rng.range(0, 3)),
            FaultKind::SyncStalls => {
                self.stall_ms = self.rng.range(100, 3_000);
                self.soon(200, 4_000, Event::SyncsFast);
            }
            FaultKind::DiskFull => {
                let left = self.rng.range(0, 16 * 1024);
                self.disk.set_capacity(self.disk.used() + left);
                self.soon(300, 5_000, Event::DiskSpace);
            }
            FaultKind::EdgeDies => {
                self.edge_dies(edge);
                self.soon(50, 2_000, Event::StartEdge(edge));
            }
            FaultKind::EdgePauses => {
                let until = now + self.rng.range(100, 15_000);
                self.pause(Node::Edge(edge), until);
            }
            FaultKind::ClientLeaves => {
                let client = self.rng.range(0, self.clients.len() as u64) as usize;
                self.client_leaves(client);
            }
            FaultKind::Checkpoint => {
                if let Some(owner) = &self.regions[owner].up {
                    owner.checkpoint();
                }
            }
            FaultKind::GeoDies => self.geo_dies(),
            FaultKind::NewRevision => self.place(owner),
            FaultKind::Revokes => self.revoke(),
            FaultKind::EdgeDrains => self.drain(edge),
            FaultKind::Storm => self.storm(),
        }
    }

    fn pause(&mut self, node: Node, until: u64) {
        match node {
            Node::Edge(edge) => self.ledger.disturb(edge, until),
            Node::Region(_) => self.ledger.disturb_all(until),
        }
        self.pauses.pause(node, until);
    }

    fn link_of(&self, edge: usize) -> Option<LinkId> {
        self.edges[edge].up.as_ref()?.link
    }

    fn stall_link(&mut self, edge: usize, until: u64) {
        let link = self.link_of(edge);
        if let Some(wire) = link.and_then(|l| self.wires.get_mut(&l)) {
            wire.stalled_until = until;
        }
    }

    /// The placement gives the shard to the other node; the old owner runs on, or is paused, until it
    /// hears of it.
    fn take_over(&mut self) {
        let old = self.owner();
        if self.rng.one_in(2) {
            let until = self.now + self.rng.range(100, 8_000);
            self.pause(Node::Region(old), until);
        }
        self.place(1 - old);
    }

    pub(crate) fn power_off(&mut self) {
        self.disk = self.disk.power_cut();
        for region in 0..2 {
            self.region_dies(region);
            self.pauses.end(Node::Region(region));
            self.regions[region].down = true;
            self.soon(100, 1_500, Event::StartRegion(region));
        }
    }
}
