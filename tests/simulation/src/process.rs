//! What the drivers of edges and regions do: carry bytes and time to the machines, and what comes
//! out of them to the network.

use bytes::Bytes;
use gb6_core_model::{Disconnect, Incarnation, InstanceId, SessionId};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::{Class, EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, ToEdge};
use gb6_edge_session::{Action, Context, FrameKind, Session, SessionSeed};
use gb6_region_shard::{LinkId, Output};

use crate::client::Wish;
use crate::edge::{Connected, Ears, Running, Said};
use crate::geo::owner_of;
use crate::network::{Stream, Wire};
use crate::region::Append;
use crate::world::{Event, Work, World, client_id};

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
            // Nobody here publishes any.
            Output::Signal { .. }
            | Output::FollowSignals { .. }
            | Output::UnfollowSignals { .. } => {}
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
        if self.regions.iter().all(|r| r.up.is_some()) {
            // What the one that was fenced has said may still be on its way.
            self.contended_until = self.now + 2_000;
        }
        self.regions[region].up = None;
        self.regions[region].life += 1;
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
            let late = if self.rng.one_in(4) { 6_000 } else { 200 };
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
        self.at(now + 50, Event::EdgeTick { edge, life });
    }

    /// Lets the hub of an edge do something, and does what it says.
    fn with_hub(&mut self, edge: usize, act: impl FnOnce(&mut Running, &mut Ears)) {
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
            }
        }
    }

    fn hub_said(&mut self, edge: usize, said: Said) {
        match said {
            Said::Deliver(connection, frame) => self.deliver(edge, connection, frame),
            Said::Complete(connection, token, answer) => {
                self.with_session(edge, connection, |session, cx, out| {
                    session.complete(cx, token, answer, out);
                });
            }
            Said::Notice(connection, notice) => {
                self.with_session(edge, connection, |session, cx, out| {
                    session.notice(cx, notice, out);
                });
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

    /// Sends what a hub delivers, or holds it back until the connect is answered.
    fn deliver(&mut self, edge: usize, connection: u64, frame: Bytes) {
        let running = self.edges[edge].up.as_mut();
        let connected = running.and_then(|r| r.sessions.get_mut(&connection));
        match connected {
            Some(connected) if !connected.session.is_connected() => connected.held.push(frame),
            _ => self.send_to_client(edge, connection, frame),
        }
    }

    /// Sends what was held back, if it need not be any more.
    fn release(&mut self, edge: usize, connection: u64) {
        let running = self.edges[edge].up.as_mut();
        if let Some(connected) = running.and_then(|r| r.sessions.get_mut(&connection))
            && connected.session.is_connected()
        {
            for frame in std::mem::take(&mut connected.held) {
                self.send_to_client(edge, connection, frame);
            }
        }
    }

    /// Lets a session do something, and does what it wants done.
    pub(crate) fn with_session(
        &mut self,
        edge: usize,
        connection: u64,
        act: impl FnOnce(&mut Session, &Context<'_>, &mut Vec<Action>),
    ) {
        let (now_ms, unix_ms) = (self.now, self.unix());
        let snapshot = self.edges[edge].kept.clone();
        let mut actions = Vec::new();
        if let Some(running) = &mut self.edges[edge].up
            && let Some(connected) = running.sessions.get_mut(&connection)
        {
            let cx = Context {
                now_ms,
                unix_ms,
                snapshot: &snapshot,
                config: &running.config,
                counters: &running.counters,
                outbox_bytes: 0,
                limits: None,
            };
            act(&mut connected.session, &cx, &mut actions);
        }
        // What follows from an input comes before what hubs have said behind it.
        for action in actions.into_iter().rev() {
            let work = Work::Action(edge, connection, Box::new(action));
            self.work.push_front(work);
        }
    }

    fn session_wants(&mut self, edge: usize, connection: u64, action: Action) {
        let now = self.now;
        match action {
            Action::Send(bytes) => {
                self.send_to_client(edge, connection, bytes);
                self.release(edge, connection);
                let wants = |r: &Running| {
                    let connected = r.sessions.get(&connection);
                    connected.is_some_and(|c| c.session.wants_drain())
                };
                if self.edges[edge].up.as_ref().is_some_and(wants) {
                    self.with_session(edge, connection, |session, cx, out| {
                        session.drained(cx, out);
                    });
                }
            }
            Action::Verify { request, token } => self.verify(edge, connection, request, token),
            Action::VerifySubscription {
                request, channel, ..
            } => self.verify_subscription(edge, connection, request, channel),
            // Nobody comes without a token, and no backend is asked about publications.
            Action::Admit { .. } | Action::AskConnect { .. } | Action::AskPublish { .. } => {}
            Action::Hub(request) => self.with_hub(edge, |running, ears| {
                running.hub.request(now, &connection, request, ears);
            }),
            Action::Close(why) => {
                if why.standard() == Some(Disconnect::ConnectionExpired) {
                    self.expired += 1;
                }
                self.end_session(edge, connection);
            }
        }
    }

    /// A session ends from the server's side, or because its client is gone.
    pub(crate) fn end_session(&mut self, edge: usize, connection: u64) {
        let now = self.now;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let Some(connected) = running.sessions.remove(&connection) else {
            return;
        };
        self.with_hub(edge, |running, ears| {
            running.hub.session_closed(now, SessionId(connection), ears);
        });
        let at = self.pipes.get(&connection).map_or(now, |p| p.1.max(now)) + 1;
        self.at(
            at,
            Event::ClientClosed {
                client: connected.client,
                connection,
            },
        );
    }

    // Clients.

    fn send_to_client(&mut self, edge: usize, connection: u64, bytes: Bytes) {
        let Some(running) = &self.edges[edge].up else {
            return;
        };
        let Some(connected) = running.sessions.get(&connection) else {
            return;
        };
        let client = connected.client;
        let delay = self.rng.range(0, 3);
        let pipe = self.pipes.entry(connection).or_default();
        pipe.1 = pipe.1.max(self.now + delay);
        let at = pipe.1;
        self.at(
            at,
            Event::ToClient {
                client,
                connection,
                bytes,
            },
        );
    }

    fn send_from_client(&mut self, client: usize, bytes: Bytes) {
        let Some((edge, connection)) = self.clients[client].connection else {
            return;
        };
        let delay = self.rng.range(0, 3);
        let pipe = self.pipes.entry(connection).or_default();
        pipe.0 = pipe.0.max(self.now + delay);
        let at = pipe.0;
        self.at(
            at,
            Event::FromClient {
                edge,
                connection,
                bytes,
            },
        );
    }

    pub(crate) fn client_bytes(&mut self, edge: usize, connection: u64, bytes: Bytes) {
        self.with_session(edge, connection, |session, cx, out| {
            session.frame(cx, FrameKind::Text, bytes, out);
        });
    }

    pub(crate) fn client_hears(&mut self, client: usize, connection: u64, bytes: &Bytes) {
        let now = self.now;
        let c = &mut self.clients[client];
        if c.connection
            .is_none_or(|(_, current)| current != connection)
        {
            return;
        }
        c.contended = now <= self.contended_until;
        let wishes = c.receive(now, bytes);
        self.grant(client, wishes);
    }

    fn grant(&mut self, client: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Send(bytes) => self.send_from_client(client, bytes),
                Wish::Reconnect => self.client_leaves(client),
            }
        }
    }

    /// The client's connection breaks: the edge learns of it behind what was sent on it.
    pub(crate) fn client_leaves(&mut self, client: usize) {
        let Some((edge, connection)) = self.clients[client].connection else {
            return;
        };
        let (now, back_at) = (self.now, self.now + self.rng.range(50, 800));
        self.clients[client].lost(now, back_at);
        let sent = self.pipes.get(&connection).map_or(now, |p| p.0.max(now));
        self.at(sent, Event::ClientGone { edge, connection });
    }

    pub(crate) fn client_closed(&mut self, client: usize, connection: u64) {
        let c = &mut self.clients[client];
        if c.connection
            .is_some_and(|(_, current)| current == connection)
        {
            let back_at = self.now + self.rng.range(50, 800);
            c.lost(self.now, back_at);
        }
    }

    pub(crate) fn client_step(&mut self, client: usize) {
        let now = self.now;
        if self.clients[client].connection.is_none() && self.clients[client].back_at <= now {
            self.connect(client);
        }
        if !self.calm && self.clients[client].wanted.len() < 4 && self.rng.percent(60) {
            let (room, with_id) = (self.rng.range(0, 2) as usize, self.rng.percent(75));
            self.clients[client].want(room, with_id, now);
        }
        let wishes = self.clients[client].step(now);
        self.grant(client, wishes);
        self.soon(20, 150, Event::ClientStep(client));
    }

    pub(crate) fn connect(&mut self, client: usize) {
        let edge = self.rng.range(0, 2) as usize;
        let (now_ms, unix_ms) = (self.now, self.unix());
        let snapshot = self.edges[edge].kept.clone();
        let connection = self.next_connection;
        let spread = self.rng.next() as u32;
        let Some(running) = &mut self.edges[edge].up else {
            self.clients[client].back_at = now_ms + 200;
            return;
        };
        self.next_connection += 1;
        let cx = Context {
            now_ms,
            unix_ms,
            snapshot: &snapshot,
            config: &running.config,
            counters: &running.counters,
            outbox_bytes: 0,
            limits: None,
        };
        let seed = SessionSeed {
            session: SessionId(connection),
            secret: u128::from(connection),
            client: client_id(connection),
            dialect: Dialect::Json,
            instance: InstanceId::from("demo"),
            spread,
        };
        let session = Session::new(&cx, seed);
        running
            .sessions
            .insert(connection, Connected::new(session, client));
        self.clients[client].connection = Some((edge, connection));
        let hello = self.clients[client].hello(now_ms);
        self.send_from_client(client, hello);
    }

    // Faults.

    pub(crate) fn edge_dies(&mut self, edge: usize) {
        let Some(running) = self.edges[edge].up.take() else {
            return;
        };
        self.edges[edge].life += 1;
        for (connection, connected) in running.sessions {
            let client = connected.client;
            self.soon(1, 300, Event::ClientClosed { client, connection });
        }
        if let Some(link) = running.link {
            if let Some(wire) = self.wires.get_mut(&link) {
                wire.open_at_edge = false;
            }
            self.soon(1, 3_000, Event::RegionLinkDown(link));
        }
    }
}
