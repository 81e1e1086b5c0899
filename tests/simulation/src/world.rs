//! The world of a run: the event queue, the processes, and the loop.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use gb6_core_model::{Channel, Disconnect};
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::{Action, Answer};
use gb6_region_shard::LinkId;
use gb6_region_stores_embedded::sim_disk::SimDisk;

use crate::check;
use crate::client::Client;
use crate::connections::Heard;
use crate::edge::{Edge, Running, Said};
use crate::fault::FaultKind;
use crate::geo::{Geo, NODES, Node, owner_of};
use crate::ledger::Ledger;
use crate::network::{Place, Wire};
use crate::pause::Pauses;
use crate::region::{Owner, Region};
use crate::rng::Rng;
use crate::scenario::{Outcome, Scenario};

/// Wall-clock time at the start of every run, Unix ms.
const UNIX_START_MS: i64 = 1_700_000_000_000;
/// How long a run may take to come to rest once nothing goes wrong any more, in virtual ms.
const SETTLE_MS: u64 = 120_000;

/// Things that happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Something comes over a link, in its place.
    Frame(Place, Box<Event>),
    ToOwner(LinkId, OwnerFrame),
    Ask(LinkId, HistoryRequest),
    ToEdge(LinkId, EdgeFrame),
    Page(LinkId, HistoryPage),
    EdgeLinkDown(LinkId),
    RegionLinkDown(LinkId),
    Dial {
        edge: usize,
        life: u64,
    },
    EdgeTick {
        edge: usize,
        life: u64,
    },
    RegionTick {
        region: usize,
        life: u64,
    },
    SyncDone {
        region: usize,
        life: u64,
    },
    StartRegion(usize),
    StopStale(usize),
    StartEdge(usize),
    StartGeo,
    Follow(Node),
    /// A revision of the placement arrives.
    Push(Node, u64),
    FromClient {
        edge: usize,
        connection: u64,
        bytes: Bytes,
    },
    ToClient {
        client: usize,
        connection: u64,
        bytes: Bytes,
    },
    /// The edge learns that a client's connection has ended.
    ClientGone {
        edge: usize,
        connection: u64,
    },
    /// The client learns it, and why if the edge has ended it.
    ClientClosed {
        client: usize,
        connection: u64,
        why: Option<Disconnect>,
    },
    ClientStep(usize),
    /// A connect that waited has its turn.
    Turn {
        edge: usize,
        life: u64,
        client: usize,
        connection: u64,
    },
    /// A draining edge sends a session away.
    Leave {
        edge: usize,
        life: u64,
        connection: u64,
    },
    /// An edge's follower of revocations takes an answer.
    Followed {
        edge: usize,
        life: u64,
        token: u64,
        answer: Box<Answer>,
    },
    /// An edge knows what to think of a subscription token.
    Proven {
        edge: usize,
        connection: u64,
        request: u32,
        channel: Channel,
    },
    /// A pause may be over.
    Wake(Node),
    Fault,
    /// From here on nothing goes wrong.
    Calm,
    PowerOff,
    DiskSpace,
    SyncsFast,
}

/// What machines have said and is still to be done in the same instant.
pub(crate) enum Work {
    Said(usize, Said),
    Action(usize, u64, Box<Action>),
    /// What waits for a session is taken.
    Take(usize, u64),
}

/// Everything.
pub(crate) struct World {
    pub(crate) work: VecDeque<Work>,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) scenario: Scenario,
    pub(crate) disk: SimDisk,
    pub(crate) stall_ms: u64,
    pub(crate) regions: Vec<Region>,
    pub(crate) geo: Geo,
    /// Until when somebody may have been told something by an owner that was fenced and had not
    /// noticed, because nothing was written.
    pub(crate) contended_until: u64,
    pub(crate) edges: Vec<Edge>,
    pub(crate) wires: BTreeMap<LinkId, Wire>,
    pub(crate) clients: Vec<Client>,
    pub(crate) pauses: Pauses<Event>,
    pub(crate) next_link: u64,
    pub(crate) next_connection: u64,
    /// When the newest bytes of a client's connection arrive: (to the server, to the client).
    pub(crate) pipes: BTreeMap<u64, (u64, u64)>,
    /// When things stop going wrong.
    chaos_end: u64,
    pub(crate) calm: bool,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    stale_starts: u64,
    /// Connections that ended because their token was not renewed.
    pub(crate) expired: u64,
    /// Who has acquired the shard last: a region, in which life.
    pub(crate) newest_owner: Option<(usize, u64)>,
    pub(crate) ledger: Ledger,
    pub(crate) drained: u64,
    pub(crate) refused: u64,
    events: u64,
    digest: u64,
}

/// Runs a scenario to its end and checks it. Panics, with what was violated, where it does not
/// end well.
pub fn run(scenario: &Scenario) -> Outcome {
    World::new(scenario.clone()).run()
}

/// What the session of a connection is called.
pub(crate) fn client_id(connection: u64) -> String {
    format!("c{connection}")
}

/// Wall-clock time at a moment of the run, Unix ms.
pub(crate) fn unix_of(now: u64) -> i64 {
    UNIX_START_MS + now as i64
}

pub(crate) fn room(channel: &str) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: channel.into(),
    }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let disk = SimDisk::new(rng.next());
        let geo = Geo::new();
        let kept = geo.newest().clone();
        let region = || Region {
            life: 0,
            down: true,
            kept: kept.clone(),
            up: None,
        };
        let edge = || Edge {
            life: 0,
            kept: kept.clone(),
            up: None,
        };
        let rooms = |n: usize| {
            let all = ["room:a", "room:b", "room:c"];
            let of = [all[n % 3].to_owned(), all[(n + 1) % 3].to_owned()];
            of.to_vec()
        };
        let clients = (0..scenario.clients).map(|n| Client::new(n, rooms(n)));
        let mut world = Self {
            now: 1_000,
            work: VecDeque::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            geo,
            contended_until: 0,
            disk,
            stall_ms: 0,
            regions: vec![region(), region()],
            edges: vec![edge(), edge()],
            wires: BTreeMap::new(),
            clients: clients.collect(),
            next_link: 1,
            next_connection: 1,
            pipes: BTreeMap::new(),
            pauses: Pauses::default(),
            chaos_end: 1_000 + scenario.chaos_ms,
            calm: false,
            faults: BTreeMap::new(),
            stale_starts: 0,
            expired: 0,
            newest_owner: None,
            ledger: Ledger::default(),
            drained: 0,
            refused: 0,
            events: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            rng,
            scenario,
        };
        for region in 0..2 {
            world.at(world.now, Event::StartRegion(region));
        }
        for edge in 0..2 {
            world.at(world.now, Event::StartEdge(edge));
        }
        for client in 0..world.clients.len() {
            let start = world.now + world.rng.range(0, 300);
            world.at(start, Event::ClientStep(client));
        }
        let first = world.now + world.rng.range(500, 1_500);
        world.at(first, Event::Fault);
        world.at(world.chaos_end, Event::Calm);
        world
    }

    pub(crate) fn unix(&self) -> i64 {
        unix_of(self.now)
    }

    /// The region that owns the shard by the newest placement.
    pub(crate) fn owner(&self) -> usize {
        owner_of(self.geo.newest())
    }

    /// Schedules an event.
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
        let mut rested_at = None;
        while let Some(event) = self.next_event() {
            if self.now > self.chaos_end + SETTLE_MS {
                panic!("the run does not come to rest: {}", self.unrest());
            }
            if let Some(node) = self.process_of(&event)
                && self.pauses.holds(self.now, node)
            {
                if let Some(until) = self.pauses.hold(node, event) {
                    self.at(until, Event::Wake(node));
                }
                continue;
            }
            self.events += 1;
            self.note(&event);
            self.handle(event);
            self.drain_work();
            if self.calm && self.events.is_multiple_of(64) {
                let resting = self.unrest().is_empty();
                // Long enough for the lease of whoever died to end.
                let since = *rested_at.get_or_insert(self.now);
                if !resting {
                    rested_at = None;
                } else if self.now > since + 15_000 {
                    break;
                }
            }
        }
        let rooms = check::read_log(&self.disk);
        let (records, acknowledged) = check::check(&rooms, &self.clients);
        Outcome {
            records,
            acknowledged,
            unknown: self.clients.iter().map(|c| c.unknown).sum(),
            faults: self.faults,
            stale_starts: self.stale_starts,
            renewed: self.clients.iter().map(|c| c.renewed).sum(),
            expired: self.expired + self.clients.iter().map(|c| c.expired).sum::<u64>(),
            revoked: self.ledger.len() as u64,
            cut: self.ledger.cut,
            removed: self.ledger.removed,
            anew: self.ledger.anew,
            drained: self.drained,
            refused: self.refused,
            away_ms: self.clients.iter().map(|c| c.away_ms).max().unwrap_or(0),
            events: self.events,
            took_ms: self.now,
            digest: self.digest,
        }
    }

    /// FNV-1a over what happens: two runs of one seed must agree.
    fn note(&mut self, event: &Event) {
        let text = format!("{}{event:?}", self.now);
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Ends everything that goes wrong.
    fn calm_down(&mut self) {
        self.calm = true;
        self.stall_ms = 0;
        self.disk.set_capacity(u64::MAX);
        NODES.into_iter().for_each(|node| self.pauses.end(node));
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

    /// The process that handles an event, if it can be paused.
    fn process_of(&self, event: &Event) -> Option<Node> {
        let wire = |link: &LinkId| self.wires.get(link);
        match event {
            Event::Frame(_, event) => self.process_of(event),
            Event::ToOwner(link, _) | Event::Ask(link, _) | Event::RegionLinkDown(link) => {
                Some(Node::Region(wire(link)?.region))
            }
            Event::ToEdge(link, _) | Event::Page(link, _) | Event::EdgeLinkDown(link) => {
                Some(Node::Edge(wire(link)?.edge))
            }
            Event::Dial { edge, .. }
            | Event::EdgeTick { edge, .. }
            | Event::FromClient { edge, .. }
            | Event::Proven { edge, .. }
            | Event::Turn { edge, .. }
            | Event::Leave { edge, .. }
            | Event::Followed { edge, .. }
            | Event::ClientGone { edge, .. } => Some(Node::Edge(*edge)),
            Event::Push(node, _) => Some(*node),
            Event::RegionTick { region, .. }
            | Event::SyncDone { region, .. }
            | Event::StopStale(region) => Some(Node::Region(*region)),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame(place, event) => {
                if let Some(wire) = self.wires.get_mut(&place.link()) {
                    wire.handled(place);
                }
                self.handle(*event);
            }
            Event::ToOwner(link, frame) => self.owner_frame(link, frame),
            Event::Ask(link, request) => self.owner_history(link, request),
            Event::ToEdge(link, frame) => self.edge_frame(link, frame),
            Event::Page(link, page) => self.edge_page(link, page),
            Event::EdgeLinkDown(link) => self.edge_link_down(link),
            Event::RegionLinkDown(link) => self.region_link_down(link),
            Event::Dial { edge, life } => self.dial(edge, life),
            Event::EdgeTick { edge, life } => self.edge_tick(edge, life),
            Event::RegionTick { region, life } => self.region_tick(region, life),
            Event::SyncDone { region, life } => self.sync_done(region, life),
            Event::StartRegion(region) => self.start_region(region),
            Event::StopStale(region) => {
                if owner_of(&self.regions[region].kept) != region {
                    self.region_dies(region);
                }
            }
            Event::StartEdge(edge) => self.start_edge(edge),
            Event::StartGeo => self.start_geo(),
            Event::Follow(node) => self.follow(node),
            Event::Push(node, revision) => self.pushed(node, revision),
            Event::FromClient {
                edge,
                connection,
                bytes,
            } => self.client_bytes(edge, connection, bytes),
            Event::ToClient {
                client,
                connection,
                bytes,
            } => self.client_hears(client, connection, &bytes),
            Event::ClientGone { edge, connection } => self.end_session(edge, connection, None),
            Event::ClientClosed {
                client,
                connection,
                why,
            } => self.client_closed(client, connection, why),
            Event::ClientStep(client) => self.client_step(client),
            Event::Turn {
                edge,
                life,
                client,
                connection,
            } => self.turn(edge, life, client, connection),
            Event::Leave {
                edge,
                life,
                connection,
            } => self.leave(edge, life, connection),
            Event::Followed {
                edge,
                life,
                token,
                answer,
            } => {
                if self.edges[edge].life == life {
                    self.followed(edge, token, *answer);
                }
            }
            Event::Proven {
                edge,
                connection,
                request,
                channel,
            } => self.hears(edge, connection, Heard::Proven(request, channel)),
            Event::Wake(node) => {
                if let Some(until) = self.pauses.wake(self.now, node) {
                    self.at(until, Event::Wake(node));
                }
            }
            Event::Fault => self.fault(),
            Event::Calm => self.calm_down(),
            Event::PowerOff => self.power_off(),
            Event::DiskSpace => self.disk.set_capacity(u64::MAX),
            Event::SyncsFast => self.stall_ms = 0,
        }
    }

    fn start_region(&mut self, region: usize) {
        if std::mem::replace(&mut self.regions[region].down, false) {
            // It works by what it kept, and hears of what is newer when geo is reached.
            let kept = self.regions[region].kept.revision;
            self.stale_starts += u64::from(kept < self.geo.newest().revision);
            self.soon(10, 800, Event::Follow(Node::Region(region)));
        }
        let kept = self.regions[region].kept.clone();
        if self.regions[region].up.is_some() || owner_of(&kept) != region {
            return;
        }
        let incarnation = self.rng.next().max(1);
        let (now, unix) = (self.now, self.unix());
        match Owner::start(&self.disk, 0, &kept, now, unix, incarnation) {
            Ok(owner) => {
                self.regions[region].up = Some(owner);
                if self.regions.iter().all(|r| r.up.is_some()) {
                    self.contended_until = u64::MAX;
                }
                let life = self.regions[region].life;
                self.newest_owner = Some((region, life));
                self.at(now + 250, Event::RegionTick { region, life });
            }
            Err(gb6_core_ports::StoreError::Corrupt {
                segment,
                byte,
                detail,
                ..
            }) => panic!("a crash left what reads as damage: {segment} at {byte}: {detail}"),
            Err(_) => self.soon(100, 400, Event::StartRegion(region)),
        }
    }

    fn start_edge(&mut self, edge: usize) {
        // It may have died twice before it began again.
        if self.edges[edge].up.is_some() {
            return;
        }
        let asks_as = self.next_connection;
        self.next_connection += 1;
        self.edges[edge].up = Some(Running::new(&self.scenario, self.now, asks_as));
        let kept = self.edges[edge].kept.revision;
        self.stale_starts += u64::from(kept < self.geo.newest().revision);
        let life = self.edges[edge].life;
        self.soon(0, 20, Event::Dial { edge, life });
        self.soon(10, 800, Event::Follow(Node::Edge(edge)));
        self.at(self.now + 50, Event::EdgeTick { edge, life });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_runs_is_not_started_again() {
        let mut world = World::new(Scenario::everything(1));
        world.start_edge(0);
        world.start_edge(1);
        world.connect(0);
        let (edge, connection) = world.clients[0].connection.expect("a connection");
        world.start_edge(edge);
        let running = world.edges[edge].up.as_ref().expect("a running edge");
        assert!(running.sessions.contains_key(&connection));
    }
}
