//! What the driver of a connection does: bytes to its session and from it, requests to the hub, and
//! holding all of it still while what is revoked is not known.

use bytes::Bytes;
use gb6_core_model::{Channel, Disconnect, SessionId};
use gb6_edge_session::{
    Action, Answer, Context, FrameKind, GivenUp, HeldRequests, HubRequest, Notice, Request, Session,
};

use crate::client::Wish;
use crate::edge::{Connected, Running};
use crate::tokens::Token;
use crate::world::{Event, Work, World};

/// Within which time a client has what its edge sends now, in ms.
const ON_ITS_WAY_MS: u64 = 50;

/// What waits for a session in its outbox, in order.
pub(crate) enum Heard {
    Deliver(Bytes),
    Complete(u64, Answer),
    Notice(Notice),
    /// A connection token that had to wait.
    Verified(u32, Token),
    /// A subscription token that had to wait.
    Proven(u32, Channel),
    Shutdown(Disconnect),
}

impl World {
    pub(crate) fn connected(&mut self, edge: usize, connection: u64) -> Option<&mut Connected> {
        let running = self.edges[edge].up.as_mut()?;
        running.sessions.get_mut(&connection)
    }

    /// Whether nothing may be delivered to it or accepted of it.
    fn is_held(&self, edge: usize, connection: u64) -> bool {
        let held = |running: &Running| {
            let connected = running.sessions.get(&connection);
            let identified = connected.is_some_and(|c| c.token.is_some());
            identified && !running.following.follower.is_current()
        };
        self.edges[edge].up.as_ref().is_some_and(held)
    }

    /// Something comes for a session: it is done at once, or behind what waits already.
    pub(crate) fn hears(&mut self, edge: usize, connection: u64, heard: Heard) {
        let held = self.is_held(edge, connection);
        let contended = self.now <= self.contended_until;
        let Some(connected) = self.connected(edge, connection) else {
            return;
        };
        if connected.session.is_closed() {
            // It was cut off in this same instant.
            return;
        }
        if held || !connected.outbox.is_empty() {
            connected.outbox.push_back((contended, heard));
        } else {
            self.attend(edge, connection, heard);
        }
    }

    /// Takes the next thing that waits, if it need not any more; requests that wait go last.
    pub(crate) fn take(&mut self, edge: usize, connection: u64) {
        if self.is_held(edge, connection) {
            return;
        }
        let Some(connected) = self.connected(edge, connection) else {
            return;
        };
        let Some((contended, heard)) = connected.outbox.pop_front() else {
            let waiting = connected.waiting.take();
            for request in waiting.into_iter().flat_map(HeldRequests::release) {
                self.hand(edge, connection, request);
            }
            return;
        };
        if contended {
            // Who was fenced may have said it, however long ago.
            self.contended_until = self.contended_until.max(self.now + ON_ITS_WAY_MS);
        }
        // Behind what follows from it.
        self.work.push_front(Work::Take(edge, connection));
        self.attend(edge, connection, heard);
    }

    fn attend(&mut self, edge: usize, connection: u64, heard: Heard) {
        match heard {
            Heard::Deliver(frame) => {
                self.check_reach(edge, connection, "is delivered something");
                self.deliver(edge, connection, frame);
            }
            Heard::Complete(token, answer) => {
                self.check_reach(edge, connection, "is answered");
                self.with_session(edge, connection, |session, cx, out| {
                    session.complete(cx, token, answer, out);
                });
            }
            Heard::Notice(notice) => self.with_session(edge, connection, |session, cx, out| {
                session.notice(cx, notice, out);
            }),
            Heard::Verified(request, token) => self.judge(edge, connection, request, token),
            Heard::Proven(request, channel) => self.proven(edge, connection, request, &channel),
            Heard::Shutdown(why) => self.with_session(edge, connection, |session, cx, out| {
                session.shutdown(cx, why, out);
            }),
        }
    }

    /// A request of a session: it waits while the session is held.
    fn wants(&mut self, edge: usize, connection: u64, request: HubRequest) {
        let (now, held) = (self.now, self.is_held(edge, connection));
        let Some(connected) = self.connected(edge, connection) else {
            return;
        };
        if !HeldRequests::must_wait(connected.waiting.as_ref(), held, &request) {
            return self.hand(edge, connection, request);
        }
        let token = request.token;
        let waiting = connected.waiting.get_or_insert_default();
        if let Err(code) = waiting.push(now, request) {
            self.fail(edge, connection, token, code);
        }
    }

    fn hand(&mut self, edge: usize, connection: u64, request: HubRequest) {
        if !matches!(request.request, Request::Unsubscribe) {
            self.check_reach(edge, connection, "is heard");
        }
        let now = self.now;
        self.with_hub(edge, |running, ears| {
            running.hub.request(now, &connection, request, ears);
        });
    }

    fn fail(&mut self, edge: usize, connection: u64, token: u64, code: gb6_core_model::ErrorCode) {
        self.with_session(edge, connection, |session, cx, out| {
            session.complete(cx, token, Answer::Failed(code), out);
        });
    }

    /// Gives up requests that have waited for too long.
    pub(crate) fn tick_waiting(&mut self, edge: usize) {
        let now = self.now;
        for connection in self.connections(edge) {
            while self.is_held(edge, connection) {
                let connected = self.connected(edge, connection);
                let waiting = connected.and_then(|c| c.waiting.as_mut());
                match waiting.and_then(|w| w.give_up(now)) {
                    Some(GivenUp::Hand(request)) => self.hand(edge, connection, request),
                    Some(GivenUp::Fail { token, code }) => {
                        self.fail(edge, connection, token, code);
                    }
                    None => break,
                }
            }
        }
    }

    /// The connections of an edge, in order.
    pub(crate) fn connections(&self, edge: usize) -> Vec<u64> {
        let running = self.edges[edge].up.as_ref();
        running.map_or_else(Vec::new, |r| r.sessions.keys().copied().collect())
    }

    /// Sends what a hub delivers, or holds it back until the connect is answered.
    fn deliver(&mut self, edge: usize, connection: u64, frame: Bytes) {
        match self.connected(edge, connection) {
            Some(connected) if !connected.session.is_connected() => connected.held.push(frame),
            _ => self.send_to_client(edge, connection, frame),
        }
    }

    /// Sends what was held back, if it need not be any more.
    fn release(&mut self, edge: usize, connection: u64) {
        if let Some(connected) = self.connected(edge, connection)
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

    pub(crate) fn session_wants(&mut self, edge: usize, connection: u64, action: Action) {
        match action {
            Action::Send(bytes) => {
                self.send_to_client(edge, connection, bytes);
                self.release(edge, connection);
                let connected = self.connected(edge, connection);
                if connected.is_some_and(|c| c.session.wants_drain()) {
                    self.with_session(edge, connection, |session, cx, out| {
                        session.drained(cx, out);
                    });
                }
            }
            Action::Verify { request, token } => self.verify(edge, connection, request, &token),
            Action::VerifySubscription {
                request, channel, ..
            } => self.verify_subscription(edge, connection, request, channel),
            // Nobody comes without a token, no backend is asked about publications, and no webhook
            // wants to hear of ends.
            Action::Admit { .. }
            | Action::AskConnect { .. }
            | Action::AskPublish { .. }
            | Action::SubscriptionEnded { .. } => {}
            Action::Hub(request) => self.wants(edge, connection, request),
            Action::Close(why) => {
                let standard = why.standard();
                self.expired += u64::from(standard == Some(Disconnect::ConnectionExpired));
                if standard == Some(Disconnect::InvalidToken) {
                    self.check_cut(edge, connection);
                }
                self.end_session(edge, connection, standard);
            }
        }
    }

    /// A session ends from the server's side, or because its client is gone.
    pub(crate) fn end_session(&mut self, edge: usize, connection: u64, why: Option<Disconnect>) {
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
        let client = connected.client;
        self.at(
            at,
            Event::ClientClosed {
                client,
                connection,
                why,
            },
        );
    }

    fn send_to_client(&mut self, edge: usize, connection: u64, bytes: Bytes) {
        let Some(connected) = self.connected(edge, connection) else {
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

    pub(crate) fn send_from_client(&mut self, client: usize, bytes: Bytes) {
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

    pub(crate) fn client_closed(
        &mut self,
        client: usize,
        connection: u64,
        why: Option<Disconnect>,
    ) {
        let c = &mut self.clients[client];
        if c.connection
            .is_some_and(|(_, current)| current == connection)
        {
            let back_at = self.now + self.rng.range(50, 800);
            c.lost(self.now, back_at);
            if why == Some(Disconnect::InvalidToken) {
                c.refused();
            }
        }
    }

    pub(crate) fn client_step(&mut self, client: usize) {
        let (now, publishes) = (self.now, self.scenario.publish_percent);
        let c = &mut self.clients[client];
        if c.connection.is_none() && c.back_at <= now {
            self.connect(client);
        }
        if !self.calm && self.clients[client].wanted.len() < 4 && self.rng.percent(publishes) {
            let (room, with_id) = (self.rng.range(0, 2) as usize, self.rng.percent(75));
            self.clients[client].want(room, with_id, now);
        }
        let wishes = self.clients[client].step(now);
        self.grant(client, wishes);
        self.soon(20, 150, Event::ClientStep(client));
    }
}
