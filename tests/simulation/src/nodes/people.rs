//! Who publishes and subscribes in a region of several nodes, and who reads.

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{HistoryPage, HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::PublishAnswer;
use gb6_region_shard::LinkId;

use super::edges::Callee;
use super::faults::Peer;
use super::world::{Event, Nodes, NodesWorld};
use super::{EDGES, ROOM, SHARDS, instance};
use crate::publishing::{Path, Pending, Setting, Traffic};

/// Links of readers begin here, those of edges at 1.
const READERS: u64 = 1 << 40;

/// A reader's question without an answer.
pub(crate) struct Reading {
    shard: usize,
    /// The newest offset that anybody had been told of when it was asked.
    told: u64,
}

/// The room of each shard's instance: the index of a room is its shard.
pub(crate) fn rooms() -> Vec<RoomRef> {
    let room = |shard: usize| RoomRef {
        instance: instance(shard),
        channel: ROOM.into(),
    };
    (0..SHARDS).map(room).collect()
}

impl Setting for Nodes {
    type Event = Event;
    type Owner = Callee;

    const STEP_MS: (u64, u64) = (40, 240);
    const DIAL_AGAIN_MS: (u64, u64) = (5, 60);
    const ASKED_AGAIN: (u64, u64, u64) = (12, 100, 4_000);

    fn route(world: &NodesWorld, publisher: usize) -> (usize, u64) {
        (world.publishers[publisher].room, 1)
    }

    fn dialled(world: &NodesWorld, edge: usize, shard: usize) -> Option<Callee> {
        world.callee(edge, shard)
    }

    fn asks(link: LinkId, path: &Path<Callee>, request: HistoryRequest) -> Event {
        Event::Ask {
            node: path.owner.node,
            shard: path.shard,
            link,
            request,
        }
    }

    fn owner_frame(world: &mut NodesWorld, link: LinkId, frame: OwnerFrame) {
        world.owner_frame(link, frame);
    }

    fn owner_down(world: &mut NodesWorld, link: LinkId) {
        world.owner_down(link);
    }

    fn edge_closed(world: &mut NodesWorld, link: LinkId) {
        let (low, high) = Self::DIAL_AGAIN_MS;
        if let Some((edge, shard)) = world.owner_hears_end(link) {
            world.soon(low, high, Traffic::Dial { edge, shard });
        }
    }

    fn acknowledged(world: &mut NodesWorld, pending: &Pending, _answer: &PublishAnswer) {
        let took = world.now - pending.sent;
        let slowest = &mut world.own.counts.slowest_ms;
        *slowest = took.max(*slowest);
    }

    fn refused(world: &mut NodesWorld, pending: &Pending, code: ErrorCode) -> bool {
        world.own.counts.failed += 1;
        let not_written = matches!(code, ErrorCode::OwnerMoving | ErrorCode::TooManyRequests);
        assert!(
            not_written || code == ErrorCode::OutcomeUnknown,
            "{code:?} to {}",
            pending.data
        );
        not_written
    }

    /// Somebody has been told that a message is written.
    fn told(world: &mut NodesWorld, shard: usize, offset: u64) {
        let told = &mut world.own.told[shard];
        *told = offset.max(*told);
    }
}

impl NodesWorld {
    /// A reader asks somebody who believes to own a shard for its newest messages.
    pub(crate) fn reader_step(&mut self, shard: usize) {
        if self.now < self.load_end {
            self.soon(20, 120, Event::ReaderStep(shard));
        }
        let edge = self.rng.range(0, EDGES as u64) as usize;
        let serves = |(node, process): (usize, &super::members::Process)| {
            let owner = process.owners.get(&shard)?;
            let reached = !self.is_cut(node, Peer::Edge(edge));
            (process.up && reached && owner.serving().is_some()).then_some(node)
        };
        let processes = self.own.processes.iter().enumerate();
        let owners: Vec<usize> = processes.filter_map(serves).collect();
        if owners.is_empty() {
            return;
        }
        let node = owners[self.rng.range(0, owners.len() as u64) as usize];
        let link = LinkId(READERS + self.token());
        let told = self.own.told[shard];
        self.own.readings.insert(link, Reading { shard, told });
        let request = HistoryRequest {
            request: 1,
            room: self.rooms[shard].clone(),
            since: 0,
            from_end: true,
            reverse: true,
            limit: 2,
            bytes: 64 * 1024,
        };
        let asked = Event::Ask {
            node,
            shard,
            link,
            request,
        };
        self.soon(1, 5, asked);
    }

    /// A page of history has come: a reader's, or that of an edge's hub.
    pub(crate) fn reader_hears(&mut self, link: LinkId, page: HistoryPage) {
        let Some(Reading { shard, told }) = self.own.readings.remove(&link) else {
            return self.edge_page(link, page);
        };
        if page.error != 0 {
            return;
        }
        self.own.counts.reads += 1;
        assert!(
            page.top >= told,
            "a reader of shard {shard} is told that {} is the newest, when somebody had {told} before it asked",
            page.top
        );
        Nodes::told(self, shard, page.top);
        for publication in page.publications {
            let shown = (shard, publication.offset, publication.data);
            self.own.shown.push(shown);
        }
    }
}
