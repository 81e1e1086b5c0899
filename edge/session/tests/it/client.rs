//! Clients as a hub sees them: each checks what it is handed against the owner's log, in the form
//! that it asked for: it applies deltas and knows what it did not want.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::ErrorCode;
use gb6_core_wire::client::{Dialect, FilterNode, Push, Reply, TagsFilter, decode_replies};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::{Answer, Delivery, Detach, HubOut, Notice};
use std::sync::Arc;

/// What one session is to one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sub {
    Asked { token: u64 },
    Live { position: u64 },
}

/// What was asked under a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Question {
    Subscribe {
        room: RoomRef,
        offset: Option<u64>,
        /// Only the newest publication is wanted.
        newest: bool,
    },
    Unsubscribe,
    Publish {
        room: RoomRef,
        data: Bytes,
    },
    Signal,
    Other,
}

/// All clients of a test, and where the hub's outputs go.
#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) subs: BTreeMap<(u64, RoomRef), Sub>,
    pub(crate) questions: BTreeMap<u64, (u64, Question)>,
    /// Data of every acknowledged publish with where it was written.
    pub(crate) acknowledged: Vec<(RoomRef, Bytes, u64)>,
    /// Data of publishes that failed with a code that says that nothing was written.
    pub(crate) not_written: Vec<Bytes>,
    /// Rooms and offsets that the hub knows to be erased.
    pub(crate) gone: std::collections::BTreeSet<(RoomRef, u64)>,
    /// Every publication seen, by room and offset.
    pub(crate) seen: BTreeMap<(RoomRef, u64), Bytes>,
    pub(crate) to_owner: Vec<OwnerFrame>,
    pub(crate) to_history: Vec<HistoryRequest>,
    pub(crate) detached: Option<Detach>,
    pub(crate) evictions: usize,
    /// A subscription was ended since the hub's last tick.
    pub(crate) evicted_now: bool,
    pub(crate) blanks: usize,
    pub(crate) recovered: usize,
    pub(crate) failures: Vec<ErrorCode>,
    pub(crate) frames: Vec<(u64, Bytes)>,
    /// Whether sessions ask for forms of their own.
    pub(crate) varied: bool,
    /// The last number given to a channel: of all instances, because sessions here are of several.
    numbers: i64,
    /// What each number stands for, as each session was told.
    channels: BTreeMap<(u64, i64), RoomRef>,
    /// What each subscriber with deltas was handed last.
    bases: BTreeMap<(u64, RoomRef), Bytes>,
    /// Offsets that a subscriber was not handed.
    pub(crate) skipped: Vec<(u64, RoomRef, u64)>,
    pub(crate) deltas: usize,
    /// Signals that came, to whom.
    signals: std::collections::BTreeSet<(u64, RoomRef, Bytes)>,
    /// Sessions that have closed: what comes for them is not looked at.
    pub(crate) closed: std::collections::BTreeSet<u64>,
}

/// The replies in a complete WebSocket frame of a server.
pub(crate) fn replies(dialect: Dialect, frame: &Bytes) -> Vec<Reply> {
    let opcode = match dialect {
        Dialect::Json => 1,
        Dialect::Protobuf => 2,
    };
    assert_eq!(frame[0], 0x80 | opcode, "one whole message");
    let header = match frame[1] {
        127 => 10,
        126 => 4,
        _ => 2,
    };
    decode_replies(dialect, frame.slice(header..)).unwrap()
}

pub(crate) fn dialect_of(session: u64) -> Dialect {
    match session % 2 {
        0 => Dialect::Json,
        _ => Dialect::Protobuf,
    }
}

/// What a session asks for, where they differ.
pub(crate) fn delivery_of(session: u64) -> Delivery {
    let filter = FilterNode {
        key: "t".into(),
        cmp: "neq".into(),
        val: "1".into(),
        ..FilterNode::default()
    };
    let what = session / 2 % 8;
    let own = || Arc::new(crate::hub_model::person(session));
    Delivery {
        compact: what.is_multiple_of(2),
        delta: matches!(what, 2 | 3 | 4 | 6),
        filter: matches!(what, 5 | 7).then(|| Arc::new(TagsFilter::new(&filter).unwrap())),
        without_own: matches!(what, 4 | 6 | 7).then(own),
    }
}

/// Whether a session does not want what was written as `data`.
pub(crate) fn unwanted(session: u64, data: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Data {
        n: u64,
        s: u64,
    }
    let delivery = delivery_of(session);
    let Ok(data) = serde_json::from_slice::<Data>(data) else {
        return false;
    };
    (delivery.filter.is_some() && data.n % 3 == 1)
        || (delivery.without_own.is_some() && data.s == session)
}

pub(crate) fn room(n: u8) -> RoomRef {
    RoomRef {
        instance: format!("i{}", n % 2),
        channel: format!("room:{n}"),
    }
}

impl Clients {
    fn see(&mut self, room: &RoomRef, offset: u64, data: Bytes) {
        let key = (room.clone(), offset);
        let gone = self.gone.contains(&key);
        assert!(!gone || data.is_empty(), "{offset} was erased");
        if data.is_empty() {
            self.blanks += 1;
            return;
        }
        let before = self.seen.insert(key, data.clone());
        assert!(before.is_none_or(|b| b == data), "two messages at {offset}");
    }
}

impl Clients {
    /// The pushes of a frame, in the form of this session.
    fn pushes(&self, session: u64, frame: &Bytes) -> Vec<Push> {
        let replies = replies(dialect_of(session), frame).into_iter();
        replies.map(|reply| *reply.push.unwrap()).collect()
    }

    /// A publication's data, whatever form they came in; empty where they were erased.
    fn whole(&mut self, key: &(u64, RoomRef), delta: bool, data: Bytes) -> Bytes {
        if !(self.varied && delivery_of(key.0).delta) {
            assert!(!delta, "nobody asked for it");
            return data;
        }
        let json = dialect_of(key.0) == Dialect::Json;
        let told = match json {
            true => serde_json::from_slice::<String>(&data).unwrap().into(),
            false => data,
        };
        let whole = match delta {
            true => {
                self.deltas += 1;
                let base = self.bases.get(key).expect("a base");
                Bytes::from(fossil::apply(base, &told, 1 << 20).unwrap())
            }
            false => told,
        };
        self.bases.insert(key.clone(), whole.clone());
        match json && whole == "null" {
            true => Bytes::new(),
            false => whole,
        }
    }
}

impl HubOut<u64> for Clients {
    fn deliver(&mut self, to: &u64, frame: Bytes) {
        if self.closed.contains(to) {
            return;
        }
        let pushes = self.pushes(*to, &frame);
        self.frames.push((*to, frame));
        for push in pushes {
            let Some(publication) = push.publication else {
                continue;
            };
            let number = (*to, push.id);
            let channel = match push.id {
                0 => push.channel,
                _ => self
                    .channels
                    .get(&number)
                    .expect("a number that it was told")
                    .channel
                    .clone(),
            };
            let key = self
                .subs
                .iter()
                .find(|((s, r), sub)| {
                    s == to && r.channel == channel && matches!(sub, Sub::Live { .. })
                })
                .map(|(key, _)| key.clone())
                .unwrap_or_else(|| panic!("{to} is no subscriber of {channel}"));
            if publication.offset == 0 {
                let data = self.whole(&key, publication.delta, publication.data);
                let first = self.signals.insert((*to, key.1.clone(), data));
                assert!(first, "a signal came twice");
                continue;
            }
            if let Some(Sub::Live { position }) = self.subs.get_mut(&key) {
                assert!(publication.offset > *position, "{key:?}");
                for offset in *position + 1..publication.offset {
                    self.skipped.push((*to, key.1.clone(), offset));
                }
                *position = publication.offset;
            }
            let data = self.whole(&key, publication.delta, publication.data);
            if self.varied && !data.is_empty() {
                assert!(!unwanted(*to, &data), "{to} does not want {data:?}");
            }
            self.see(&key.1, publication.offset, data);
        }
    }

    fn channel_number(&mut self, _instance: &str) -> i64 {
        self.numbers += 1;
        self.numbers
    }

    fn complete(&mut self, to: &u64, token: u64, answer: Answer) {
        if self.closed.contains(to) {
            return;
        }
        let (session, question) = self
            .questions
            .remove(&token)
            .unwrap_or_else(|| panic!("a second answer to {token}: {answer:?}"));
        assert_eq!(session, *to);
        if let Answer::Failed(code) = &answer {
            self.failures.push(*code);
        }
        match (question, answer) {
            (
                Question::Subscribe {
                    room,
                    offset,
                    newest,
                },
                Answer::Subscribed(a),
            ) => {
                let mut position = a.offset;
                if !a.recovered {
                    assert!(a.publications.is_empty());
                } else if newest {
                    assert!(a.publications.len() <= 1);
                    // The one is at the offset that is told.
                    position -= a.publications.len() as u64;
                    self.recovered += 1;
                } else {
                    assert_eq!(Some(a.offset), offset);
                    self.recovered += 1;
                }
                for p in &a.publications {
                    let offset = p.publication.offset;
                    assert!(offset > position && (self.varied || offset == position + 1));
                    let skipped = position + 1..offset;
                    self.skipped
                        .extend(skipped.map(|o| (session, room.clone(), o)));
                    position = offset;
                    self.see(&room, position, p.publication.data.clone());
                }
                let key = (session, room);
                self.bases.remove(&key);
                let last = a.publications.last().map(|p| p.publication.data.clone());
                if let Some(last) = last {
                    let blank = last.is_empty() && dialect_of(session) == Dialect::Json;
                    self.bases
                        .insert(key.clone(), if blank { "null".into() } else { last });
                }
                assert_eq!(a.number > 0, self.varied && delivery_of(session).compact);
                if a.number > 0 {
                    let before = self.channels.insert((session, a.number), key.1.clone());
                    assert!(
                        before.is_none_or(|b| b == key.1),
                        "one number for two channels"
                    );
                }
                if self.subs.get(&key) == Some(&Sub::Asked { token }) {
                    self.subs.insert(key, Sub::Live { position });
                }
            }
            (Question::Subscribe { room, .. }, Answer::Failed(_)) => {
                let key = (session, room);
                if self.subs.get(&key) == Some(&Sub::Asked { token }) {
                    self.subs.remove(&key);
                }
            }
            (Question::Unsubscribe, Answer::Unsubscribed) => {}
            (Question::Publish { room, data }, Answer::Published(p)) => {
                self.acknowledged.push((room, data, p.offset));
            }
            (Question::Publish { data, .. }, Answer::Failed(code)) => {
                if code != ErrorCode::OutcomeUnknown {
                    self.not_written.push(data);
                }
            }
            (Question::Signal, Answer::Published(p)) => assert_eq!(p.offset, 0),
            (Question::Signal, Answer::Failed(_)) => {}
            (Question::Other, Answer::Failed(_) | Answer::Presence(_) | Answer::History(_)) => {}
            (Question::Other, Answer::Traced(_)) => {}
            (question, answer) => panic!("{answer:?} to {question:?}"),
        }
    }

    fn notice(&mut self, to: &u64, notice: Notice) {
        if self.closed.contains(to) {
            return;
        }
        let Notice::Unsubscribed { channel, .. } = notice;
        let key = self
            .subs
            .keys()
            .find(|(s, r)| s == to && r.channel == channel.as_str())
            .cloned()
            .expect("a notice to a subscriber");
        assert!(matches!(self.subs.remove(&key), Some(Sub::Live { .. })));
        self.evictions += 1;
    }

    fn may_evict(&mut self) -> bool {
        // One for each tick, so that others happen between.
        !std::mem::replace(&mut self.evicted_now, true)
    }

    fn to_owner(&mut self, frame: OwnerFrame) {
        self.to_owner.push(frame);
    }

    fn to_history(&mut self, request: HistoryRequest) {
        self.to_history.push(request);
    }

    fn detach(&mut self, why: Detach) {
        self.detached = Some(why);
    }
}
