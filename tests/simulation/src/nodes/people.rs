//! Who publishes, subscribes and reads.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::client::{Dialect, decode_replies, frame};
use gb6_core_wire::mesh::{HistoryPage, HistoryRequest, Person, Publication, RoomRef};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, HubRequest, PublishAnswer, PublishQuery, RecoverFrom, Request, SubscribeQuery,
};
use gb6_region_shard::LinkId;

use super::faults::Peer;
use super::world::{Event, NodesWorld};
use super::{EDGES, ROOM, instance};

/// Handles of subscribers begin here, those of publishers at 0.
const SUBSCRIBERS: u64 = 1_000;
/// Links of readers begin here, those of edges at 1.
const READERS: u64 = 1 << 40;

/// A publisher.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    edge: usize,
    pub(crate) shard: usize,
    /// Publishes under ids, and again until it is written.
    with_id: bool,
    /// Publishes at once.
    pub(crate) window: usize,
    next: u64,
    pub(crate) unanswered: usize,
    pub(crate) again: Vec<(String, u64)>,
}

impl Publisher {
    pub(crate) fn new(edge: usize, shard: usize, with_id: bool, window: usize) -> Self {
        Self {
            edge,
            shard,
            with_id,
            window,
            next: 1,
            unanswered: 0,
            again: Vec::new(),
        }
    }
}

/// A subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    edge: usize,
    pub(crate) shard: usize,
    /// Its subscribe without an answer.
    asked: Option<u64>,
    /// The last offset that it has, and the epoch; `None` before the first answer.
    pub(crate) position: Option<(u64, Arc<str>)>,
    pub(crate) got: Vec<(u64, Bytes)>,
}

impl Subscriber {
    pub(crate) fn new(edge: usize, shard: usize) -> Self {
        Self {
            edge,
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
    pub(crate) shard: usize,
    pub(crate) data: String,
    pub(crate) offset: u64,
}

/// A publish without an answer.
pub(crate) struct Pending {
    publisher: usize,
    data: String,
    sent: u64,
}

/// A reader's question without an answer.
pub(crate) struct Reading {
    shard: usize,
    /// The newest offset that anybody had been told of when it was asked.
    told: u64,
}

pub(crate) fn room(shard: usize) -> RoomRef {
    RoomRef {
        instance: instance(shard),
        channel: ROOM.into(),
    }
}

impl NodesWorld {
    /// Somebody has been told that a message is written.
    fn is_told(&mut self, shard: usize, offset: u64) {
        self.told[shard] = self.told[shard].max(offset);
    }

    pub(crate) fn publisher_step(&mut self, at: usize) {
        let now = self.now;
        let p = &mut self.publishers[at];
        let done = now >= self.load_end && p.unanswered == 0 && p.again.is_empty();
        if !done {
            self.soon(40, 240, Event::PublisherStep(at));
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
        let p = self.publishers[at].clone();
        let query = PublishQuery {
            instance_epoch: InstanceEpoch(1),
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
        let token = self.next_person_token();
        let pending = Pending {
            publisher: at,
            data,
            sent: now,
        };
        self.pending.insert(token, pending);
        let request = Request::Publish(Box::new(query));
        self.request((p.edge, p.shard), at as u64, token, request);
    }

    fn next_person_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn request(&mut self, (edge, shard): (usize, usize), who: u64, token: u64, request: Request) {
        let now = self.now;
        let request = HubRequest {
            token,
            session: SessionId(who + 1),
            room: room(shard),
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
            Answer::Failed(_) => self.soon(50, 200, Event::Subscribe(at)),
            other => panic!("{other:?} to a subscribe"),
        }
    }

    fn receive(&mut self, at: usize, offset: u64, data: Bytes) {
        let s = &mut self.subscribers[at];
        let Some((position, _)) = &mut s.position else {
            panic!("a publication before the subscribe's answer");
        };
        assert_eq!(offset, *position + 1, "subscriber {at} skips or repeats");
        *position = offset;
        s.got.push((offset, data));
        let shard = s.shard;
        self.is_told(shard, offset);
    }

    fn acknowledge(&mut self, pending: Pending, answer: PublishAnswer) {
        let p = &self.publishers[pending.publisher];
        let (shard, with_id) = (p.shard, p.with_id);
        self.counts.slowest_ms = self.counts.slowest_ms.max(self.now - pending.sent);
        self.counts.duplicates += u64::from(answer.duplicate);
        // Some lose the answer, and ask again under the same id.
        if with_id && !answer.duplicate && self.rng.one_in(12) {
            let when = self.now + self.rng.range(100, 4_000);
            let again = (pending.data.clone(), when);
            self.publishers[pending.publisher].again.push(again);
        }
        self.is_told(shard, answer.offset);
        self.acknowledged.push(Acknowledged {
            shard,
            data: pending.data,
            offset: answer.offset,
        });
    }

    fn refuse(&mut self, pending: Pending, code: ErrorCode) {
        let p = &mut self.publishers[pending.publisher];
        self.counts.failed += 1;
        let not_written = matches!(code, ErrorCode::OwnerMoving | ErrorCode::TooManyRequests);
        assert!(
            not_written || code == ErrorCode::OutcomeUnknown,
            "{code:?} to {}",
            pending.data
        );
        if p.with_id {
            p.again.push((pending.data, self.now + 40));
        } else if not_written {
            self.refused.push((p.shard, pending.data));
        }
    }

    pub(crate) fn subscribe(&mut self, at: usize) {
        if self.subscribers[at].asked.is_some() {
            return;
        }
        let token = self.next_person_token();
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
        let of = (s.edge, s.shard);
        let request = Request::Subscribe(Box::new(query));
        self.request(of, SUBSCRIBERS + at as u64, token, request);
    }

    pub(crate) fn delivered(&mut self, to: u64, bytes: &Bytes) {
        let replies = match decode_replies(Dialect::Json, frame::frame_payload(bytes)) {
            Ok(replies) => replies,
            Err(error) => panic!("a hub delivers what is no frame: {error}"),
        };
        for push in replies.into_iter().filter_map(|r| r.push) {
            if let Some(Publication { offset, data, .. }) =
                push.publication.map(|publication| Publication {
                    offset: publication.offset,
                    data: publication.data,
                    ..Publication::default()
                })
            {
                self.receive((to - SUBSCRIBERS) as usize, offset, data);
            }
        }
    }

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
        let owners: Vec<usize> = self
            .processes
            .iter()
            .enumerate()
            .filter_map(serves)
            .collect();
        if owners.is_empty() {
            return;
        }
        let node = owners[self.rng.range(0, owners.len() as u64) as usize];
        let link = LinkId(READERS + self.next_person_token());
        let told = self.told[shard];
        self.readings.insert(link, Reading { shard, told });
        let request = HistoryRequest {
            request: 1,
            room: room(shard),
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
        let Some(Reading { shard, told }) = self.readings.remove(&link) else {
            return self.edge_page(link, page);
        };
        if page.error != 0 {
            return;
        }
        self.counts.reads += 1;
        assert!(
            page.top >= told,
            "a reader of shard {shard} is told that {} is the newest, when somebody had {told} before it asked",
            page.top
        );
        self.is_told(shard, page.top);
        for publication in page.publications {
            self.shown
                .push((shard, publication.offset, publication.data));
        }
    }
}
