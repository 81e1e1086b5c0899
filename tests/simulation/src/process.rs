//! What the drivers of regions and of the shards of edges do: carry frames and time to the machines,
//! and what comes out of them to the network.

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::{Class, EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, ToEdge};
use gb6_region_shard::{LinkId, Output};

use crate::connections::Heard;
use crate::edge::{Ears, Running, Said};
use crate::geo::owner_of;
use crate::network::{Stream, Wire};
use crate::region::Append;
use crate::world::{Event, Work, World};

/// How long it may take until an edge notices that a region's process is gone, in ms.
const LATE_MS: u64 = 6_000;

impl World {
    // Regions.

    fn owner_of(&self, link: LinkId) -> Option<usize> {
        let wire = self.wires.get(&link)?;
        let region = &self.regions[wire.region];
        let alive = wire.open_at_region && region.life == wire.region_life && region.up.is_some();
        alive.then_some(wire.region)
    }

    pub(crate) fn owner_frame(&mut self, link: LinkId, frame: OwnerFrame) {
        let Some(region) = self.owner_of(link) else {
            return;
        };
        if let Some(owner) = &mut self.regions[region].up {
            owner.shard.frame(self.now, link, frame);
        }
        self.pump(region);
    }

    pub(crate) fn owner_history(&mut self, link: LinkId, request: HistoryRequest) {
        let Some(region) = self.owner_of(link) else {
            return;
        };
        if let Some(owner) = &mut self.regions[region].up {
            owner.shard.history(self.now, link, request);
        }
        self.pump(region);
    }

    pub(crate) fn region_link_down(&mut self, link: LinkId) {
        let region = self.owner_of(link);
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.open_at_region = false;
        }
        let Some(region) = region else { return };
        if let Some(owner) = &mut self.regions[region].up {
            owner.shard.link_closed(link);
        }
        self.pump(region);
    }

    pub(crate) fn region_tick(&mut self, region: usize, life: u64) {
        if self.regions[region].life != life {
            return;
        }
        let (now, unix) = (self.now, self.unix());
        if let Some(owner) = &mut self.regions[region].up {
            owner.shard.tick(now, unix);
        }
        self.pump(region);
        self.at(now + 250, Event::RegionTick { region, life });
    }

    pub(crate) fn sync_done(&mut self, region: usize, life: u64) {
        if self.regions[region].life != life {
            return;
        }
        let now = self.now;
        if let Some(owner) = &mut self.regions[region].up {
            owner.sync(now);
        }
        self.pump(region);
    }

    /// Lets a region append and send until nothing is left to do now.
    fn pump(&mut self, region: usize) {
        let (now, unix) = (self.now, self.unix());
        loop {
            let Some(owner) = &mut self.regions[region].up else {
                return;
            };
            let appended = owner.append(now, unix);
            let mut outputs = Vec::new();
            while let Some(output) = owner.shard.poll_output() {
                outputs.push(match output {
                    Output::Read(read) => Output::Page {
                        link: read.link,
                        page: owner.read(&read),
                    },
                    other => other,
                });
            }
            let serving = owner.shard.is_serving();
            for output in outputs {
                self.region_output(output);
            }
            if !serving {
                self.region_dies(region);
                self.soon(50, 400, Event::StartRegion(region));
                return;
            }
            match appended {
                Append::Writing => {
                    let life = self.regions[region].life;
                    let wait = self.rng.range(1, 4) + self.stall_ms;
                    self.at(now + wait, Event::SyncDone { region, life });
                }
                Append::Nothing | Append::Failed => return,
            }
        }
    }

    fn region_output(&mut self, output: Output) {
        match output {
            Output::Send { link, frame } => {
                let frame = ToEdge { frame: Some(frame) };
                let class = frame.class();
                if let Some(frame) = frame.frame {
                    let event = |link| Event::ToEdge(link, frame);
                    self.send_to_edge(link, Stream::ToEdge, class, event);
                }
            }
            Output::Page { link, page } => {
                let event = |link| Event::Page(link, page);
                self.send_to_edge(link, Stream::Page, Class::CatchUp, event);
            }
            Output::Close { link } => {
                // Behind every class.
                self.send_to_edge(link, Stream::ToEdge, Class::CatchUp, Event::EdgeLinkDown);
                if let Some(wire) = self.wires.get_mut(&link) {
                    wire.open_at_region = false;
                }
            }
            Output::Unfounded { offset, head } => {
                panic!("offset {offset} was to be acknowledged above the durable {head}")
            }
            // Nobody here publishes any, and no instance keeps statuses.
            Output::Signal { .. }
            | Output::Unkept { .. }
            | Output::FollowSignals { .. }
            | Output::UnfollowSignals { .. }
            | Output::UserHere { .. }
            | Output::Status(_) => {}
            Output::Read(_)
            | Output::Trimmed { .. }
            | Output::Erased { .. }
            | Output::AdminDone { .. }
            | Output::Wake => {}
        }
    }

    fn send_to_edge(
        &mut self,
        link: LinkId,
        stream: Stream,
        class: Class,
        event: impl FnOnce(LinkId) -> Event,
    ) {
        let Some(wire) = self.wires.get_mut(&link) else {
            return;
        };
        if wire.open_at_region {
            let (at, place) = wire.arrival(self.now, stream, class, &mut self.rng);
            self.at(at, Event::Frame(place, Box::new(event(link))));
        }
    }

    /// The process is gone, or no longer owns the shard.
    pub(crate) fn region_dies(&mut self, region: usize) {
        self.regions[region].up = None;
        self.regions[region].life += 1;
        let left = self
            .regions
            .iter()
            .enumerate()
            .find(|(_, r)| r.up.is_some());
        let left = left.map(|(n, region)| (n, region.life));
        if self.contended_until == u64::MAX && (left.is_none() || left == self.newest_owner) {
            // What the one that was fenced has said may still be on its way.
            self.contended_until = self.now + 2_000;
        }
        self.ledger.disturb_all(self.now + LATE_MS);
        let links: Vec<LinkId> = self
            .wires
            .values()
            .filter(|w| w.region == region && w.open_at_region)
            .map(|w| w.link)
            .collect();
        for link in links {
            if let Some(wire) = self.wires.get_mut(&link) {
                wire.open_at_region = false;
            }
            // A reset arrives soon, or the path's silence is noticed.
            let late = if self.rng.one_in(4) { LATE_MS } else { 200 };
            self.soon(1, late, Event::EdgeLinkDown(link));
        }
    }

    // Edges.

    fn edge_of(&self, link: LinkId) -> Option<usize> {
        let wire = self.wires.get(&link)?;
        let edge = &self.edges[wire.edge];
        let current = edge.up.as_ref()?.link == Some(link);
        (current && wire.open_at_edge && edge.life == wire.edge_life).then_some(wire.edge)
    }

    pub(crate) fn edge_frame(&mut self, link: LinkId, frame: EdgeFrame) {
        let now = self.now;
        if let Some(edge) = self.edge_of(link) {
            self.with_hub(edge, |running, ears| running.hub.frame(now, frame, ears));
        }
    }

    pub(crate) fn edge_page(&mut self, link: LinkId, page: HistoryPage) {
        let now = self.now;
        if let Some(edge) = self.edge_of(link) {
            self.with_hub(edge, |running, ears| {
                running.hub.history_page(now, page, ears);
            });
        }
    }

    pub(crate) fn edge_link_down(&mut self, link: LinkId) {
        let now = self.now;
        let Some(edge) = self.edge_of(link) else {
            return;
        };
        self.with_hub(edge, |running, ears| running.hub.link_down(now, ears));
        self.edge_closed(edge, link);
    }

    /// The edge has closed its side: it dials again, and the region learns of it later.
    fn edge_closed(&mut self, edge: usize, link: LinkId) {
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.open_at_edge = false;
            let (at, place) = wire.end(self.now, Stream::ToOwner, &mut self.rng);
            let down = Box::new(Event::RegionLinkDown(link));
            self.at(at, Event::Frame(place, down));
        }
        let life = self.edges[edge].life;
        if let Some(running) = &mut self.edges[edge].up {
            running.link = None;
            running.following.follower.lost();
            if !running.dialling {
                running.dialling = true;
                self.soon(10, 400, Event::Dial { edge, life });
            }
        }
    }

    pub(crate) fn dial(&mut self, edge: usize, life: u64) {
        if self.edges[edge].life != life {
            return;
        }
        let owner = owner_of(&self.edges[edge].kept);
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        running.dialling = false;
        if running.link.is_some() {
            return;
        }
        if self.regions[owner].up.is_none() {
            running.dialling = true;
            return self.soon(50, 500, Event::Dial { edge, life });
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let to = (owner, self.regions[owner].life);
        self.wires.insert(link, Wire::new(link, (edge, life), to));
        running.link = Some(link);
        running.linked_at = self.now;
        running.following.ring();
        let (now, fresh) = (self.now, Incarnation(self.rng.next().max(1)));
        let revision = self.edges[edge].kept.revision;
        self.with_hub(edge, |running, ears| {
            running.hub.link_up(now, fresh, revision, ears);
        });
    }

    pub(crate) fn edge_tick(&mut self, edge: usize, life: u64) {
        if self.edges[edge].life != life {
            return;
        }
        let now = self.now;
        self.with_hub(edge, |running, ears| running.hub.tick(now, ears));
        let due: Vec<u64> = match &self.edges[edge].up {
            Some(running) => running
                .sessions
                .iter()
                .filter(|(_, c)| c.session.deadline().is_some_and(|d| d <= now))
                .map(|(id, _)| *id)
                .collect(),
            None => Vec::new(),
        };
        for connection in due {
            self.with_session(edge, connection, |session, cx, out| session.tick(cx, out));
        }
        self.tick_waiting(edge);
        self.tick_following(edge);
        self.at(now + 50, Event::EdgeTick { edge, life });
        self.tick_drain(edge);
    }

    /// Lets the hub of an edge do something, and does what it says.
    pub(crate) fn with_hub(&mut self, edge: usize, act: impl FnOnce(&mut Running, &mut Ears)) {
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let mut ears = Ears::default();
        act(running, &mut ears);
        let said = ears.0.into_iter().map(|said| Work::Said(edge, said));
        self.work.extend(said);
    }

    /// Does what machines have said, first in first out: the order that sessions and hubs rest on.
    pub(crate) fn drain_work(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Said(edge, said) => self.hub_said(edge, said),
                Work::Action(edge, connection, action) => {
                    self.session_wants(edge, connection, *action);
                }
                Work::Take(edge, connection) => self.take(edge, connection),
            }
        }
    }

    fn hub_said(&mut self, edge: usize, said: Said) {
        match said {
            Said::Deliver(connection, frame) => {
                self.hears(edge, connection, Heard::Deliver(frame));
            }
            Said::Complete(connection, token, answer) => {
                let up = self.edges[edge].up.as_ref();
                if up.is_some_and(|running| running.following.session == connection) {
                    // A task of its own takes it, when it comes to that.
                    let life = self.edges[edge].life;
                    let answer = Box::new(answer);
                    let followed = Event::Followed {
                        edge,
                        life,
                        token,
                        answer,
                    };
                    return self.soon(0, 40, followed);
                }
                self.hears(edge, connection, Heard::Complete(token, answer));
            }
            Said::Notice(connection, notice) => {
                self.hears(edge, connection, Heard::Notice(notice));
            }
            Said::ToOwner(frame) => {
                self.send_to_owner(edge, Stream::ToOwner, |link| Event::ToOwner(link, *frame));
            }
            Said::ToHistory(request) => {
                self.send_to_owner(edge, Stream::Ask, |link| Event::Ask(link, request));
            }
            Said::Detach => {
                let link = self.edges[edge].up.as_ref().and_then(|r| r.link);
                if let Some(link) = link {
                    self.edge_closed(edge, link);
                }
            }
        }
    }

    fn send_to_owner(&mut self, edge: usize, stream: Stream, event: impl FnOnce(LinkId) -> Event) {
        let link = self.edges[edge].up.as_ref().and_then(|r| r.link);
        let Some(wire) = link.and_then(|l| self.wires.get_mut(&l)) else {
            return;
        };
        // One class each way to the owner, as the driver sends: publishes keep their place.
        let class = match stream {
            Stream::Ask => Class::CatchUp,
            _ => Class::Control,
        };
        let link = wire.link;
        let (at, place) = wire.arrival(self.now, stream, class, &mut self.rng);
        self.at(at, Event::Frame(place, Box::new(event(link))));
    }

    pub(crate) fn edge_dies(&mut self, edge: usize) {
        let Some(running) = self.edges[edge].up.take() else {
            return;
        };
        self.edges[edge].life += 1;
        for (connection, connected) in running.sessions {
            let client = connected.client;
            let closed = Event::ClientClosed {
                client,
                connection,
                why: None,
            };
            self.soon(1, 300, closed);
        }
        if let Some(link) = running.link {
            if let Some(wire) = self.wires.get_mut(&link) {
                wire.open_at_edge = false;
            }
            self.soon(1, 3_000, Event::RegionLinkDown(link));
        }
    }
}
