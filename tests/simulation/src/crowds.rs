//! Crowds at the door of an edge: the pace at which sessions begin, storms of clients that come back
//! at once, and drains that send everybody to another edge.

use std::collections::VecDeque;
use std::time::Duration;

use gb6_core_model::{Disconnect, InstanceId, SessionId};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{ConnectPace, Context, Session, SessionSeed, drain_turn};

use crate::connections::Heard;
use crate::edge::Connected;
use crate::scenario::Scenario;
use crate::world::{Event, World, client_id};

/// How long a connect may wait for its turn, in ms.
const WAIT_MS: u64 = 400;
/// How long a client waits until its connection is there, in ms.
const CONNECT_MS: u64 = 5_000;
/// Over how long a draining edge tells its sessions to go, in ms.
const WINDOW_MS: u64 = 2_000;
/// How long it waits for the last ones, in ms.
const CLOSE_MS: u64 = 1_000;
/// How long it waits for the publishes under way, in ms.
const ANSWER_MS: u64 = 4_000;
/// What a draining edge names to those who come, in ms.
const ELSEWHERE_MS: u64 = 1_000;

/// The door of an edge.
pub(crate) struct Door {
    pace: ConnectPace,
    /// When the edge began.
    began: u64,
    per_second: u32,
    /// When sessions began, of the last second.
    entered: VecDeque<u64>,
    /// The turns of connects that wait for theirs.
    waiting: VecDeque<u64>,
    drain: Option<Drain>,
}

/// A drain that goes on.
struct Drain {
    /// Sessions that have still to be told to go.
    to_tell: usize,
    /// When the last was.
    told_at: u64,
    /// When all were gone, or could not be waited for any longer.
    left_at: Option<u64>,
}

impl Door {
    pub(crate) fn new(scenario: &Scenario, began: u64) -> Self {
        let per_second = scenario.connects_per_second;
        Self {
            pace: ConnectPace::new(Some(per_second), Duration::from_millis(WAIT_MS)),
            began,
            per_second,
            entered: VecDeque::new(),
            waiting: VecDeque::new(),
            drain: None,
        }
    }

    /// A session begins now: never more than those of a burst and of a second in one.
    fn enter(&mut self, now: u64) {
        self.entered.push_back(now);
        while self.entered.front().is_some_and(|at| at + 1_000 <= now) {
            self.entered.pop_front();
        }
        let most = 2 * self.per_second as usize;
        let entered = self.entered.len();
        assert!(entered <= most, "{entered} sessions began in a second");
    }

    /// One more waits for its turn: never more than have theirs in that time.
    fn wait(&mut self, now: u64, turn: u64) {
        self.waiting.retain(|turn| *turn > now);
        self.waiting.push_back(turn);
        let most = 1 + u64::from(self.per_second) * WAIT_MS / 1_000;
        let waiting = self.waiting.len();
        assert!(waiting as u64 <= most, "{waiting} wait for their turn");
    }
}

impl World {
    /// A client comes to an edge, and is let in, has to wait, or is told to come back later.
    pub(crate) fn connect(&mut self, client: usize) {
        let (now, edge) = (self.now, self.rng.range(0, 2) as usize);
        if self.clients[client].is_entering(now, CONNECT_MS) {
            return;
        }
        let (spread, life) = (self.rng.next() as u32, self.edges[edge].life);
        let Some(running) = &mut self.edges[edge].up else {
            self.clients[client].back_at = now + 200;
            return;
        };
        let door = &mut running.door;
        if door.drain.is_some() {
            return self.refuse(client, ELSEWHERE_MS);
        }
        let turn = door
            .pace
            .turn(Duration::from_millis(now - door.began), spread);
        let Ok(wait) = turn else {
            let later = turn.map_or_else(|later| later.retry_after_s, |_| 0);
            return self.refuse(client, 1_000 * u64::from(later));
        };
        let connection = self.next_connection;
        self.next_connection += 1;
        self.clients[client].entering = Some((connection, now));
        if wait.is_zero() {
            return self.enter(edge, client, connection);
        }
        let turn = now + wait.as_nanos().div_ceil(1_000_000) as u64;
        door.wait(now, turn);
        self.at(
            turn,
            Event::Turn {
                edge,
                life,
                client,
                connection,
            },
        );
    }

    /// It is told to come back later, and does so with jitter.
    fn refuse(&mut self, client: usize, later_ms: u64) {
        self.refused += 1;
        self.clients[client].entering = None;
        self.clients[client].back_at = self.now + later_ms + self.rng.range(0, 500);
    }

    /// The turn of a connect that waited has come.
    pub(crate) fn turn(&mut self, edge: usize, life: u64, client: usize, connection: u64) {
        let ours = self.edges[edge].life == life;
        let running = self.edges[edge].up.as_mut().filter(|_| ours);
        let drains = running.map(|running| running.door.drain.is_some());
        // A client that gave up waiting has had its turn.
        let waits = self.clients[client].entering.map(|(c, _)| c) == Some(connection);
        match drains {
            _ if !waits => {}
            None => self.clients[client].entering = None,
            Some(true) => self.refuse(client, ELSEWHERE_MS),
            Some(false) => self.enter(edge, client, connection),
        }
    }

    fn enter(&mut self, edge: usize, client: usize, connection: u64) {
        let (now_ms, unix_ms) = (self.now, self.unix());
        let snapshot = self.edges[edge].kept.clone();
        let spread = self.rng.next() as u32;
        self.clients[client].entering = None;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        assert!(running.door.drain.is_none(), "a draining edge lets in");
        running.door.enter(now_ms);
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

    /// Everybody's connection breaks at once.
    pub(crate) fn storm(&mut self) {
        for client in 0..self.clients.len() {
            self.client_leaves(client);
        }
    }

    /// An edge begins to drain: its sessions are told to go, one after the other.
    pub(crate) fn drain(&mut self, edge: usize) {
        let (now, life) = (self.now, self.edges[edge].life);
        let connections = self.connections(edge);
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        if running.door.drain.is_some() {
            return;
        }
        running.door.drain = Some(Drain {
            to_tell: connections.len(),
            told_at: now,
            left_at: None,
        });
        let (window, count) = (Duration::from_millis(WINDOW_MS), connections.len());
        for (place, connection) in connections.into_iter().enumerate() {
            let turn = drain_turn(window, place, count).as_millis() as u64;
            assert!(turn < WINDOW_MS, "{place} of {count} is told at {turn} ms");
            let leave = Event::Leave {
                edge,
                life,
                connection,
            };
            self.at(now + turn, leave);
        }
    }

    /// A session is told to go to another edge.
    pub(crate) fn leave(&mut self, edge: usize, life: u64, connection: u64) {
        if self.edges[edge].life == life {
            let running = self.edges[edge].up.as_mut();
            if let Some(drain) = running.and_then(|r| r.door.drain.as_mut()) {
                drain.to_tell -= 1;
                drain.told_at = self.now;
            }
            self.hears(edge, connection, Heard::Shutdown(Disconnect::Shutdown));
        }
    }

    /// The end of a drain: when all are gone and no publish is under way, or both have taken too
    /// long, the process ends, and another one begins.
    pub(crate) fn tick_drain(&mut self, edge: usize) {
        let now = self.now;
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let Some(drain) = &mut running.door.drain else {
            return;
        };
        let empty = running.sessions.is_empty();
        let waited = drain.to_tell == 0 && now >= drain.told_at + CLOSE_MS;
        if drain.left_at.is_none() && (empty || waited) {
            // Who is held still hears nothing, and learns of the end by it.
            let held = !running.following.follower.is_current();
            let connections: Vec<&u64> = running.sessions.keys().collect();
            assert!(empty || held, "{connections:?} were not told to go");
            drain.left_at = Some(now);
        }
        let Some(left_at) = drain.left_at else {
            return;
        };
        if running.hub.gauges().unanswered == 0 || now >= left_at + ANSWER_MS {
            self.drained += 1;
            self.edge_dies(edge);
            self.soon(50, 2_000, Event::StartEdge(edge));
        }
    }
}
