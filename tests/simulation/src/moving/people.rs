//! Who publishes and subscribes during a move.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::client::{Dialect, decode_replies, frame};
use gb6_core_wire::mesh::{Person, Publication, RoomRef};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, HubRequest, PublishAnswer, PublishQuery, RecoverFrom, Request, SubscribeQuery,
};

use super::world::{Event, MoveWorld};
use super::{EPOCHS, INSTANCES, ROOMS, SOURCE, TARGET};

/// Handles of subscribers begin here, those of publishers at 0.
const SUBSCRIBERS: u64 = 1_000;

/// A publisher.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) edge: usize,
    pub(crate) instance: usize,
    pub(crate) room: usize,
    /// Publishes under ids, and again until it is written.
    pub(crate) with_id: bool,
    /// Publishes at once.
    pub(crate) window: usize,
    /// Its edge knows where the instance goes to before it is open there.
    pub(crate) early: bool,
    next: u64,
    pub(crate) unanswered: usize,
    pub(crate) again: Vec<(String, u64)>,
}

impl Publisher {
    pub(crate) fn new(edge: usize, instance: usize, with_id: bool, window: usize) -> Self {
        Self {
            edge,
            instance,
            room: (edge + window) % ROOMS.len(),
            with_id,
            window,
            early: false,
            next: 1,
            unanswered: 0,
            again: Vec::new(),
        }
    }

    pub(crate) fn room(&self) -> RoomRef {
        room(self.instance, self.room)
    }
}

/// A subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) edge: usize,
    pub(crate) instance: usize,
    pub(crate) room: usize,
    pub(crate) shard: usize,
    /// Its subscribe without an answer.
    asked: Option<u64>,
    /// The last offset that it has, and the epoch; `None` before the first answer.
    pub(crate) position: Option<(u64, Arc<str>)>,
    pub(crate) got: Vec<(u64, Bytes)>,
}

impl Subscriber {
    pub(crate) fn new(edge: usize, instance: usize, room: usize) -> Self {
        Self {
            edge,
            instance,
            room,
            shard: if instance == 2 { TARGET } else { SOURCE },
            asked: None,
            position: None,
            got: Vec::new(),
        }
    }

    fn take(&mut self, publication: &Publication) {
        let Some((position, _)) = &mut self.position else {
            panic!("a publication before the subscribe's answer");
        };
        assert_eq!(
            publication.offset,
            *position + 1,
            "{} {} skips or repeats",
            INSTANCES[self.instance],
            ROOMS[self.room]
        );
        *position += 1;
        self.got
            .push((publication.offset, publication.data.clone()));
    }
}

/// An acknowledged publish.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) instance: usize,
    pub(crate) room: usize,
    pub(crate) data: String,
    pub(crate) offset: u64,
}

/// A publish without an answer.
pub(crate) struct Pending {
    publisher: usize,
    shard: usize,
    data: String,
    sent: u64,
}

pub(crate) fn room(instance: usize, room: usize) -> RoomRef {
    RoomRef {
        instance: INSTANCES[instance].into(),
        channel: ROOMS[room].into(),
    }
}

impl MoveWorld {
    /// The shard that an edge has for a publisher, and the instance epoch that it says.
    fn route(&self, publisher: &Publisher) -> (usize, u64) {
        let moved = self.edges[publisher.edge].placed || (publisher.early && self.early);
        match publisher.instance {
            0 if moved => (TARGET, EPOCHS.2),
            2 => (TARGET, EPOCHS.0),
            _ => (SOURCE, EPOCHS.0),
        }
    }

    pub(crate) fn publisher_step(&mut self, at: usize) {
        let now = self.now;
        self.soon(8, 60, Event::PublisherStep(at));
        let p = &mut self.publishers[at];
        let data = if let Some(due) = p.again.iter().position(|(_, when)| *when <= now) {
            p.again.remove(due).0
        } else if now < self.load_end && p.unanswered + p.again.len() < p.window {
            p.next += 1;
            format!("{{\"p\":{at},\"n\":{}}}", p.next)
        } else {
            return;
        };
        p.unanswered += 1;
        let p = self.publishers[at].clone();
        let (shard, epoch) = self.route(&p);
        let query = PublishQuery {
            instance_epoch: InstanceEpoch(epoch),
            from: Arc::new(Person {
                user: format!("user{at}"),
                client: format!("client{at}"),
                ..Person::default()
            }),
            id: match p.with_id {
                true => Bytes::from(data.clone()),
                false => Bytes::new(),
            },
            data: Bytes::from(data.clone()),
            content_type: ContentType::Json,
            tags: Default::default(),
            traceparent: String::new(),
            version: None,
            after: None,
            signal: false,
            unkept: false,
        };
        let pending = Pending {
            publisher: at,
            shard,
            data,
            sent: now,
        };
        let token = self.token();
        self.pending.insert(token, pending);
        let request = Request::Publish(Box::new(query));
        self.request(p.edge, shard, at as u64, token, p.room(), request);
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn request(
        &mut self,
        edge: usize,
        shard: usize,
        who: u64,
        token: u64,
        room: RoomRef,
        request: Request,
    ) {
        let now = self.now;
        let request = HubRequest {
            token,
            session: SessionId(who + 1),
            room,
            request,
        };
        self.with_hub(edge, shard, |hub, ears| {
            hub.request(now, &who, request, ears);
        });
    }

    pub(crate) fn answered(&mut self, to: u64, token: u64, answer: Answer) {
        if let Some(pending) = self.pending.remove(&token) {
            self.publishers[pending.publisher].unanswered -= 1;
            return match answer {
                Answer::Published(a) => self.acknowledge(pending, a),
                Answer::Failed(code) => self.refuse(pending, code),
                other => panic!("{other:?} to a publish"),
            };
        }
        let Some(at) = to.checked_sub(SUBSCRIBERS) else {
            panic!("an answer to nothing: {answer:?}");
        };
        let s = &mut self.subscribers[at as usize];
        if s.asked != Some(token) {
            // Of a subscription that was left.
            return;
        }
        s.asked = None;
        match answer {
            Answer::Subscribed(a) => {
                match &s.position {
                    None => s.position = Some((a.offset, a.epoch.clone())),
                    Some((offset, epoch)) => {
                        assert!(a.recovered, "the log goes on behind {offset}");
                        assert_eq!(a.epoch, *epoch, "the stream epoch survives the move");
                    }
                }
                for recent in &a.publications {
                    s.take(&recent.publication);
                }
            }
            Answer::Failed(_) => self.soon(50, 200, Event::Subscribe(at as usize)),
            other => panic!("{other:?} to a subscribe"),
        }
    }

    fn acknowledge(&mut self, pending: Pending, answer: PublishAnswer) {
        let p = &self.publishers[pending.publisher];
        let took = self.now - pending.sent;
        let calm = self.edges[p.edge].sides[pending.shard].calm_since <= pending.sent;
        if p.instance != 0 && calm {
            let over = self.opened_ms.is_some_and(|at| pending.sent > at + 300);
            if self.now < self.move_at {
                self.slowest_before = self.slowest_before.max(took);
            } else if !over {
                self.slowest_during = self.slowest_during.max(took);
                self.measured += 1;
            }
        }
        // Some clients lose the answer and ask again under the same id, perhaps after the move.
        let asks_again = p.instance == 0 && p.with_id && !answer.duplicate;
        if asks_again && self.rng.one_in(10) {
            let when = self.now + self.rng.range(100, 1_500);
            let again = (pending.data.clone(), when);
            self.publishers[pending.publisher].again.push(again);
        }
        let p = &self.publishers[pending.publisher];
        self.duplicates += u64::from(answer.duplicate);
        self.acknowledged.push(Acknowledged {
            instance: p.instance,
            room: p.room,
            data: pending.data,
            offset: answer.offset,
        });
    }

    fn refuse(&mut self, pending: Pending, code: ErrorCode) {
        let now = self.now;
        let p = &mut self.publishers[pending.publisher];
        let moving = code == ErrorCode::OwnerMoving;
        let unknown = code == ErrorCode::OutcomeUnknown;
        assert!(moving || unknown, "{code:?} to {}", pending.data);
        assert!(
            p.instance == 0 || !moving,
            "{} does not move, and is told so",
            INSTANCES[p.instance]
        );
        self.moving += u64::from(moving);
        if p.with_id {
            p.again.push((pending.data, now + 40));
        } else if moving {
            self.refused.push((p.instance, p.room, pending.data));
        }
    }

    pub(crate) fn subscribe_unless_asked(&mut self, at: usize) {
        if self.subscribers[at].asked.is_none() {
            self.subscribe(at);
        }
    }

    fn subscribe(&mut self, at: usize) {
        let token = self.token();
        let s = &mut self.subscribers[at];
        s.asked = Some(token);
        let recover = s.position.as_ref().map(|(offset, epoch)| RecoverFrom {
            offset: *offset,
            epoch: epoch.to_string(),
            publications_max: 10_000,
            bytes_max: 512 * 1024,
            newest_only: false,
            or_fail: false,
        });
        let query = SubscribeQuery {
            dialect: Dialect::Json,
            join_leave: false,
            presence: None,
            recover,
            delivery: Default::default(),
        };
        let (edge, shard, room) = (s.edge, s.shard, room(s.instance, s.room));
        let request = Request::Subscribe(Box::new(query));
        self.request(edge, shard, SUBSCRIBERS + at as u64, token, room, request);
    }

    /// An edge learns where the instance is: its subscribers go on there.
    pub(crate) fn placed(&mut self, edge: usize) {
        if std::mem::replace(&mut self.edges[edge].placed, true) {
            return;
        }
        for at in 0..self.subscribers.len() {
            let s = &mut self.subscribers[at];
            if s.edge != edge || s.instance != 0 {
                continue;
            }
            s.asked = None;
            s.shard = TARGET;
            let (who, room) = (SUBSCRIBERS + at as u64, room(s.instance, s.room));
            let token = self.token();
            self.request(edge, SOURCE, who, token, room, Request::Unsubscribe);
            self.drain_work();
            self.subscribe(at);
        }
    }

    pub(crate) fn delivered(&mut self, to: u64, shard: usize, bytes: &Bytes) {
        let s = &mut self.subscribers[(to - SUBSCRIBERS) as usize];
        assert_eq!(s.shard, shard, "a delivery of a hub that was left");
        let replies = match decode_replies(Dialect::Json, frame::frame_payload(bytes)) {
            Ok(replies) => replies,
            Err(error) => panic!("a hub delivers what is no frame: {error}"),
        };
        for push in replies.into_iter().filter_map(|r| r.push) {
            if let Some(publication) = push.publication {
                s.take(&Publication {
                    offset: publication.offset,
                    data: publication.data,
                    ..Publication::default()
                });
            }
        }
    }
}
