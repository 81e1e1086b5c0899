//! A hub against the naive owner, with links that break, frames that are lost with them, owners
//! that restart, logs that are trimmed and pages that are slow.

use bytes::Bytes;
use gb6_core_model::{ErrorCode, Incarnation, InstanceEpoch, SessionId};
use gb6_core_wire::mesh::{EdgeFrame, Person, RoomRef};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    HistoryQuery, Hub, HubConfig, HubRequest, PublishQuery, RecoverFrom, Request, SubscribeQuery,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::{Clients, Question, Sub, delivery_of, dialect_of, room, unwanted};
use crate::owner::Owner;

const ROOMS: u8 = 3;

pub(crate) struct World {
    pub(crate) hub: Hub<u64>,
    pub(crate) clients: Clients,
    pub(crate) owner: Owner,
    pub(crate) now: u64,
    pub(crate) linked: bool,
    incarnation: u64,
    token: u64,
    written: u64,
    /// Sessions in use: closed ones are followed by new ones.
    sessions: Vec<u64>,
    next_session: u64,
}

impl World {
    pub(crate) fn new(config: HubConfig, sessions: u64) -> Self {
        Self {
            hub: Hub::new(config),
            clients: Clients::default(),
            owner: Owner::default(),
            now: 1_000,
            linked: false,
            incarnation: 0,
            token: 0,
            written: 0,
            sessions: (0..sessions).collect(),
            next_session: sessions,
        }
    }

    /// Moves what the hub said onto the link; a link that is down swallows it.
    fn carry(&mut self) {
        let frames = std::mem::take(&mut self.clients.to_owner);
        let asked = std::mem::take(&mut self.clients.to_history);
        if self.linked {
            self.owner.to_owner.extend(frames);
            self.owner.asked.extend(asked);
        }
        if self.clients.detached.take().is_some() {
            self.down();
        }
    }

    pub(crate) fn up(&mut self) {
        if !self.linked {
            self.linked = true;
            self.incarnation += 1;
            let fresh = Incarnation(self.incarnation);
            self.hub.link_up(self.now, fresh, 1, &mut self.clients);
            self.carry();
        }
    }

    pub(crate) fn down(&mut self) {
        if self.linked {
            self.linked = false;
            self.owner.break_link();
            self.hub.link_down(self.now, &mut self.clients);
            self.carry();
        }
    }

    pub(crate) fn ask(
        &mut self,
        session: u64,
        room: RoomRef,
        question: Question,
        r: Request,
    ) -> u64 {
        self.token += 1;
        let token = self.token;
        self.clients.questions.insert(token, (session, question));
        let request = HubRequest {
            token,
            session: SessionId(session),
            room,
            request: r,
        };
        self.hub
            .request(self.now, &session, request, &mut self.clients);
        self.carry();
        token
    }

    pub(crate) fn subscribe(&mut self, session: u64, room: RoomRef, offset: Option<u64>) {
        let token = self.token + 1;
        self.clients
            .subs
            .insert((session, room.clone()), Sub::Asked { token });
        // Some want no more than the newest, in some rooms.
        let newest = session % 5 == 2 && room.channel.ends_with('1');
        let query = SubscribeQuery {
            dialect: dialect_of(session),
            join_leave: true,
            presence: Some(Arc::new(person(session))),
            recover: offset.map(|offset| RecoverFrom {
                offset,
                epoch: String::new(),
                publications_max: 8,
                bytes_max: 100_000,
                newest_only: newest,
                or_fail: false,
            }),
            delivery: match self.clients.varied {
                true => delivery_of(session),
                false => Default::default(),
            },
        };
        let question = Question::Subscribe {
            room: room.clone(),
            offset,
            newest,
        };
        self.ask(session, room, question, Request::Subscribe(Box::new(query)));
    }

    pub(crate) fn publish(&mut self, session: u64, room: RoomRef) -> Bytes {
        self.written += 1;
        let n = self.written;
        let varied = self.clients.varied;
        // What changes is between and cuts characters whose first bytes are the same.
        let rest = match varied {
            true => format!(
                ",\"t\":\"жаба и {} ёж, 漢{}字\"",
                ["ж", "з", "и"][n as usize % 3],
                n % 7
            ),
            false => String::new(),
        };
        let data = Bytes::from(format!("{{\"n\":{n},\"s\":{session}{rest}}}"));
        let query = PublishQuery {
            instance_epoch: InstanceEpoch(1),
            from: Arc::new(person(session)),
            id: Bytes::new(),
            data: data.clone(),
            content_type: ContentType::Json,
            tags: match varied {
                true => [("t".to_owned(), (n % 3).to_string())].into(),
                false => BTreeMap::new(),
            },
            traceparent: String::new(),
            version: None,
            after: None,
            signal: false,
            unkept: false,
        };
        let question = Question::Publish {
            room: room.clone(),
            data: data.clone(),
        };
        self.ask(session, room, question, Request::Publish(Box::new(query)));
        data
    }

    /// Publishes what the stream is not to keep: it may be lost, and is never there twice.
    fn signal(&mut self, session: u64, room: RoomRef) {
        self.written += 1;
        let query = PublishQuery {
            instance_epoch: InstanceEpoch(1),
            from: Arc::new(person(session)),
            id: Bytes::new(),
            data: format!("\"s{}\"", self.written).into(),
            content_type: ContentType::Json,
            tags: BTreeMap::new(),
            traceparent: String::new(),
            version: None,
            after: None,
            signal: true,
            unkept: true,
        };
        let request = Request::Publish(Box::new(query));
        self.ask(session, room, Question::Signal, request);
    }

    fn step(&mut self, kind: u8, a: u8, b: u8) {
        let session = self.sessions[usize::from(a) % self.sessions.len()];
        let place = room(b % ROOMS);
        match kind {
            0..=9 => {
                self.publish(session, place);
            }
            10..=15 => self.toggle(session, place, a, b),
            16..=17 => {
                let query = HistoryQuery {
                    since: None,
                    reverse: false,
                    limit: 2,
                    bytes: 1000,
                };
                self.ask(session, place, Question::Other, Request::History(query));
            }
            18 => {
                let presence = Request::Presence { entries: true };
                self.ask(session, place, Question::Other, presence);
            }
            19 => {
                let trace = Request::Trace { offset: 1 };
                self.ask(session, place, Question::Other, trace);
            }
            20..=34 => (0..=a % 8).for_each(|_| self.owner.take(self.now)),
            35..=44 => self.owner.commit(),
            45..=64 => (0..=a % 8).for_each(|_| self.hear()),
            65..=69 => self.owner.read(),
            70 => self.owner.fail_read(),
            71..=76 => self.page(),
            77..=84 => self.pass(u64::from(a) * 4),
            85..=90 => self.up(),
            91..=92 => self.down(),
            93 => {
                self.down();
                self.owner.restart(self.now);
            }
            94 => {
                let first = u64::from(a) % (self.owner_top(&place) + 2);
                self.owner.trim(&place, first);
            }
            95 => {
                let offset = 1 + u64::from(a) % 16;
                self.owner.erase(&place, offset);
            }
            96..=97 => {
                self.written += 1;
                let data = Bytes::from(format!("\"w{}\"", self.written));
                self.owner.write(&place, data, None, BTreeMap::new());
            }
            98 => self.signal(session, place),
            _ => self.close(usize::from(a) % self.sessions.len()),
        }
    }

    fn owner_top(&self, room: &RoomRef) -> u64 {
        self.owner.logs.get(room).map_or(0, |l| l.top())
    }

    fn toggle(&mut self, session: u64, place: RoomRef, a: u8, b: u8) {
        let key = (session, place.clone());
        if self.clients.subs.remove(&key).is_some() {
            let leave = Request::Unsubscribe;
            self.ask(session, place, Question::Unsubscribe, leave);
            return;
        }
        let top = self.owner_top(&place);
        let offset = match a % 4 {
            0 => None,
            1 => Some(top),
            _ => Some((top + 1).saturating_sub(u64::from(b / ROOMS) % 12)),
        };
        self.subscribe(session, place, offset);
    }

    fn close(&mut self, index: usize) {
        let session = std::mem::replace(&mut self.sessions[index], self.next_session);
        self.next_session += 1;
        self.clients.closed.insert(session);
        self.clients.subs.retain(|(s, _), _| *s != session);
        self.clients.questions.retain(|_, (s, _)| *s != session);
        self.hub
            .session_closed(self.now, SessionId(session), &mut self.clients);
        self.carry();
    }

    pub(crate) fn hear(&mut self) {
        if let Some(frame) = self.owner.next() {
            self.told(&frame);
            self.hub.frame(self.now, frame, &mut self.clients);
            self.carry();
        }
    }

    /// From this frame on nothing is shown that it says is erased.
    fn told(&mut self, frame: &EdgeFrame) {
        match frame {
            EdgeFrame::Erased(f) => {
                self.clients.gone.insert((f.room.clone(), f.offset));
            }
            EdgeFrame::Interested(f) => {
                let offsets = self.owner.logs[&f.room].erased_by(f.erasures);
                let gone = offsets.map(|offset| (f.room.clone(), offset));
                self.clients.gone.extend(gone);
            }
            _ => {}
        }
    }

    pub(crate) fn page(&mut self) {
        if let Some(page) = self.owner.pages.pop_front() {
            self.hub.history_page(self.now, page, &mut self.clients);
            self.carry();
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.now += 50;
            self.owner.expire(self.now);
            self.clients.evicted_now = false;
            self.hub.tick(self.now, &mut self.clients);
            self.carry();
        }
    }

    /// Everything flows until nothing moves.
    pub(crate) fn flow(&mut self) {
        for _ in 0..10_000 {
            let before = (self.owner.to_owner.len(), self.owner.asked.len());
            self.owner.take(self.now);
            self.owner.commit();
            self.hear();
            self.owner.read();
            self.page();
            let idle = before == (0, 0) && self.owner.pages.is_empty();
            if idle && self.owner.to_owner.is_empty() && self.owner.asked.is_empty() {
                while let Some(frame) = self.owner.next() {
                    self.told(&frame);
                    self.hub.frame(self.now, frame, &mut self.clients);
                    self.carry();
                }
                if self.owner.to_owner.is_empty() && self.owner.asked.is_empty() {
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    /// The faults end; everything must come right.
    fn heal(&mut self) {
        for _ in 0..120 {
            self.up();
            self.flow();
            self.pass(100);
        }
        self.flow();
    }

    fn check(&self) {
        let asked: Vec<_> = self.clients.questions.values().collect();
        assert!(asked.is_empty(), "no answer to {asked:?}");
        for ((session, room), sub) in &self.clients.subs {
            let Sub::Live { position } = sub else {
                panic!("{session} still waits for {room:?}");
            };
            let log = &self.owner.logs.get(room);
            let rest = (*position + 1..=self.owner_top(room)).map(|o| log.unwrap().original(o));
            for data in rest {
                let unwanted = self.clients.varied && unwanted(*session, data);
                assert!(unwanted, "{session} in {room:?} was not handed {data:?}");
            }
        }
        for (session, room, offset) in &self.clients.skipped {
            let data = self.owner.logs[room].original(*offset);
            let unwanted = self.clients.varied && unwanted(*session, data);
            assert!(
                unwanted,
                "{session} was not handed {offset} of {room:?}: {data:?}"
            );
        }
        let gauges = self.hub.gauges();
        let held = (gauges.base_bytes, gauges.filter_bytes);
        assert!(self.clients.varied || held == (0, 0), "{held:?}");
        self.check_log();
        for ((room, offset), data) in &self.clients.seen {
            assert_eq!(self.owner.logs[room].original(*offset), data);
        }
        let numbered = self.owner.numbered();
        let forgotten = |s: &u64| !self.clients.closed.contains(s);
        assert!(numbered.iter().all(forgotten), "{numbered:?} of ended ones");
        let gauges = self.hub.gauges();
        assert_eq!(gauges.unanswered, 0);
        assert_eq!(gauges.subscribers, self.clients.subs.len());
        let people: Vec<(RoomRef, String)> = self
            .clients
            .subs
            .keys()
            .map(|(s, r)| (r.clone(), person(*s).client))
            .collect();
        let mut there: Vec<_> = self.owner.present.iter().cloned().collect();
        let mut want = people;
        want.sort();
        there.sort();
        assert_eq!(there, want, "presence");
    }

    /// Nothing acknowledged is missing, nothing is there twice, each session's order is kept.
    fn check_log(&self) {
        for (room, data, offset) in &self.clients.acknowledged {
            let written = self.owner.logs[room].original(*offset);
            assert_eq!(written, data, "acknowledged at {offset}");
        }
        for (room, log) in &self.owner.logs {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            for publication in &log.publications {
                let data = log.original(publication.offset);
                assert!(
                    !self.clients.not_written.contains(data),
                    "{data:?} was written"
                );
                let Some(from) = &publication.from else {
                    continue;
                };
                let text = std::str::from_utf8(data).unwrap();
                let n: u64 = text[5..text.find(',').unwrap()].parse().unwrap();
                let before = last.insert(from.client.clone(), n).unwrap_or(0);
                assert!(n > before, "{n} behind {before} in {room:?}");
            }
        }
    }
}

pub(crate) fn person(session: u64) -> Person {
    Person {
        user: format!("u{session}"),
        client: format!("c{session}"),
        ..Person::default()
    }
}

/// Small bounds, so that every one of them is reached.
fn small() -> HubConfig {
    HubConfig {
        linger_ms: 200,
        door_max: 6,
        ring_room_bytes: 1_000,
        ring_bytes: 2_000,
        ahead_bytes: 250,
        ahead_total_bytes: 400,
        reads_in_flight: 2,
        reads_waiting: 4,
        fill_ms: 900,
        fill_retry_ms: 100,
        presence_part: 2,
        interests_in_flight: 2,
        numbered_rooms: 1,
        ..HubConfig::default()
    }
}

/// Room for a few publications, so that some recover and what is told as a difference is bounded.
fn varied() -> HubConfig {
    HubConfig {
        ring_room_bytes: 2_500,
        ring_bytes: 5_000,
        base_bytes: 200,
        filter_bytes: 1_000,
        ..small()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_hub_keeps_its_promises(
        steps in prop::collection::vec((0u8..100, any::<u8>(), any::<u8>()), 0..400),
    ) {
        let mut world = World::new(small(), 5);
        for (kind, a, b) in steps {
            world.step(kind, a, b);
        }
        world.heal();
        world.check();
        prop_assert!(!world.clients.failures.contains(&ErrorCode::BadRequest));
    }

    #[test]
    fn every_form_says_what_is_written(
        steps in prop::collection::vec((0u8..100, any::<u8>(), any::<u8>()), 0..400),
        first in 0u64..16,
    ) {
        let mut world = World::new(varied(), 0);
        world.clients.varied = true;
        world.sessions = (first..first + 8).collect();
        world.next_session = first + 8;
        for (kind, a, b) in steps {
            world.step(kind, a, b);
        }
        world.heal();
        world.check();
        prop_assert!(!world.clients.failures.contains(&ErrorCode::BadRequest));
    }
}
