//! Who publishes and subscribes.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::client::{Dialect, decode_replies, frame};
use gb6_core_wire::mesh::{Person, RoomRef};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, HubRequest, PublishAnswer, PublishQuery, RecoverFrom, Request, SubscribeQuery,
};

use super::{Setting, Traffic, World};

/// Handles of subscribers begin here, those of publishers at 0.
const SUBSCRIBERS: u64 = 1_000;
/// Pause before a publish that was refused is made again, in ms.
const REFUSED_MS: u64 = 40;

/// A publisher.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) edge: usize,
    /// Index in [`World::rooms`].
    pub(crate) room: usize,
    /// Publishes under ids, and again until it is written.
    with_id: bool,
    /// Publishes at once.
    pub(super) window: usize,
    next: u64,
    unanswered: usize,
    again: Vec<(String, u64)>,
}

impl Publisher {
    pub(crate) fn new(edge: usize, room: usize, with_id: bool, window: usize) -> Self {
        Self {
            edge,
            room,
            with_id,
            window,
            next: 1,
            unanswered: 0,
            again: Vec::new(),
        }
    }

    /// Whether everything that it has sent is answered.
    fn is_done(&self) -> bool {
        self.unanswered == 0 && self.again.is_empty()
    }
}

/// A subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) edge: usize,
    /// Index in [`World::rooms`].
    pub(crate) room: usize,
    /// The one whose hub it is at.
    pub(crate) shard: usize,
    /// Its subscribe without an answer.
    asked: Option<u64>,
    /// The last offset that it has, and the epoch; `None` before the first answer.
    position: Option<(u64, Arc<str>)>,
    pub(super) got: Vec<(u64, Bytes)>,
}

impl Subscriber {
    pub(crate) fn new(edge: usize, room: usize, shard: usize) -> Self {
        Self {
            edge,
            room,
            shard,
            asked: None,
            position: None,
            got: Vec::new(),
        }
    }
}

/// An acknowledged publish.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) room: usize,
    pub(super) data: String,
    pub(super) offset: u64,
}

/// A publish without an answer.
pub(crate) struct Pending {
    pub(crate) publisher: usize,
    /// The shard that it went to.
    pub(crate) shard: usize,
    pub(crate) data: String,
    /// When it was sent.
    pub(crate) sent: u64,
}

impl<S: Setting> World<S> {
    pub(super) fn publisher_step(&mut self, at: usize) {
        let now = self.now;
        if now < self.load_end || !self.publishers[at].is_done() {
            let (low, high) = S::STEP_MS;
            self.soon(low, high, Traffic::PublisherStep(at));
        }
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
        let (edge, room, with_id) = (p.edge, p.room, p.with_id);
        let (shard, epoch) = S::route(self, at);
        let query = PublishQuery {
            instance_epoch: InstanceEpoch(epoch),
            from: Arc::new(Person {
                user: format!("user{at}"),
                client: format!("client{at}"),
                ..Person::default()
            }),
            id: match with_id {
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
        self.request((edge, shard, room), at as u64, token, request);
    }

    fn request(
        &mut self,
        (edge, shard, room): (usize, usize, usize),
        who: u64,
        token: u64,
        request: Request,
    ) {
        let now = self.now;
        let request = HubRequest {
            token,
            session: SessionId(who + 1),
            room: self.rooms[room].clone(),
            request,
        };
        self.with_hub(edge, shard, |hub, ears| {
            hub.request(now, &who, request, ears);
        });
    }

    pub(super) fn answered(&mut self, to: u64, token: u64, answer: Answer) {
        if let Some(pending) = self.pending.remove(&token) {
            self.publishers[pending.publisher].unanswered -= 1;
            return match answer {
                Answer::Published(answer) => self.acknowledge(pending, answer),
                Answer::Failed(code) => self.refuse(pending, code),
                other => panic!("{other:?} to a publish"),
            };
        }
        let Some(at) = to.checked_sub(SUBSCRIBERS).map(|at| at as usize) else {
            panic!("an answer to nothing: {answer:?}");
        };
        let s = &mut self.subscribers[at];
        if s.asked != Some(token) {
            // Of a subscription that was left.
            return;
        }
        s.asked = None;
        match answer {
            Answer::Subscribed(answer) => {
                match &s.position {
                    None => s.position = Some((answer.offset, answer.epoch.clone())),
                    Some((offset, epoch)) => {
                        assert!(answer.recovered, "the log goes on behind {offset}");
                        assert_eq!(answer.epoch, *epoch, "the stream epoch never changes");
                    }
                }
                for recent in &answer.publications {
                    let publication = &recent.publication;
                    self.receive(at, publication.offset, publication.data.clone());
                }
            }
            Answer::Failed(_) => self.soon(50, 200, Traffic::Subscribe(at)),
            other => panic!("{other:?} to a subscribe"),
        }
    }

    fn receive(&mut self, at: usize, offset: u64, data: Bytes) {
        let s = &mut self.subscribers[at];
        let Some((position, _)) = &mut s.position else {
            panic!("a publication before the subscribe's answer");
        };
        assert_eq!(
            offset,
            *position + 1,
            "subscriber {at} of {:?} skips or repeats",
            self.rooms[s.room]
        );
        *position = offset;
        s.got.push((offset, data));
        let room = s.room;
        S::told(self, room, offset);
    }

    fn acknowledge(&mut self, pending: Pending, answer: PublishAnswer) {
        S::acknowledged(self, &pending, &answer);
        let at = pending.publisher;
        let p = &self.publishers[at];
        let (room, with_id) = (p.room, p.with_id);
        // Some lose the answer, and ask again under the same id.
        let (one_in, low, high) = S::ASKED_AGAIN;
        let may_ask = with_id && !answer.duplicate && S::loses_answers(self, at);
        if may_ask && self.rng.one_in(one_in) {
            let when = self.now + self.rng.range(low, high);
            let again = (pending.data.clone(), when);
            self.publishers[at].again.push(again);
        }
        self.duplicates += u64::from(answer.duplicate);
        S::told(self, room, answer.offset);
        self.acknowledged.push(Acknowledged {
            room,
            data: pending.data,
            offset: answer.offset,
        });
    }

    fn refuse(&mut self, pending: Pending, code: ErrorCode) {
        let not_written = S::refused(self, &pending, code);
        let p = &mut self.publishers[pending.publisher];
        if p.with_id {
            p.again.push((pending.data, self.now + REFUSED_MS));
        } else if not_written {
            self.refused.push((p.room, pending.data));
        }
    }

    /// A subscriber asks for its room, unless the answer is on its way.
    pub(super) fn subscribe(&mut self, at: usize) {
        if self.subscribers[at].asked.is_some() {
            return;
        }
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
        let to = (s.edge, s.shard, s.room);
        let request = Request::Subscribe(Box::new(query));
        self.request(to, SUBSCRIBERS + at as u64, token, request);
    }

    /// A subscriber leaves the hub that it is at, for that of another shard.
    pub(crate) fn subscribe_at(&mut self, at: usize, shard: usize) {
        let token = self.token();
        let s = &mut self.subscribers[at];
        s.asked = None;
        let left = std::mem::replace(&mut s.shard, shard);
        let of = (s.edge, left, s.room);
        self.request(of, SUBSCRIBERS + at as u64, token, Request::Unsubscribe);
        self.drain_work();
        self.subscribe(at);
    }

    pub(super) fn delivered(&mut self, to: u64, shard: usize, bytes: &Bytes) {
        let at = (to - SUBSCRIBERS) as usize;
        let at_shard = self.subscribers[at].shard;
        assert_eq!(at_shard, shard, "a delivery of a hub that was left");
        let replies = match decode_replies(Dialect::Json, frame::frame_payload(bytes)) {
            Ok(replies) => replies,
            Err(error) => panic!("a hub delivers what is no frame: {error}"),
        };
        for push in replies.into_iter().filter_map(|r| r.push) {
            if let Some(publication) = push.publication {
                self.receive(at, publication.offset, publication.data);
            }
        }
    }

    /// Who waits for something still, where the rooms of a shard end as `top` says; empty: nobody. `None`:
    /// the shard has no owner.
    pub(crate) fn who_waits(&self, top: impl Fn(usize, &RoomRef) -> Option<u64>) -> String {
        for p in &self.publishers {
            if !p.is_done() {
                return format!("{p:?}");
            }
        }
        for s in &self.subscribers {
            let Some(top) = top(s.shard, &self.rooms[s.room]) else {
                return format!("shard {} has no owner", s.shard);
            };
            if s.position.as_ref().map(|p| p.0) != Some(top) {
                return format!("{s:?} is not at {top}");
            }
        }
        String::new()
    }
}
