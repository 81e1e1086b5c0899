//! Clients as a hub sees them: each checks what it is handed against the owner's log.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::ErrorCode;
use gb6_core_wire::client::{Dialect, Reply, decode_replies};
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, RoomRef};
use gb6_edge_session::{Answer, Detach, HubOut, Notice};

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
    pub(crate) blanks: usize,
    pub(crate) recovered: usize,
    pub(crate) failures: Vec<ErrorCode>,
    pub(crate) frames: Vec<(u64, Bytes)>,
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

impl HubOut<u64> for Clients {
    fn deliver(&mut self, to: &u64, frame: Bytes) {
        if self.closed.contains(to) {
            return;
        }
        let dialect = dialect_of(*to);
        let replies = replies(dialect, &frame);
        self.frames.push((*to, frame));
        for reply in replies {
            let push = reply.push.unwrap();
            let Some(publication) = push.publication else {
                continue;
            };
            let key = self
                .subs
                .iter()
                .find(|((s, r), sub)| {
                    s == to && r.channel == push.channel && matches!(sub, Sub::Live { .. })
                })
                .map(|(key, _)| key.clone())
                .unwrap_or_else(|| panic!("{to} is no subscriber of {}", push.channel));
            if let Some(Sub::Live { position }) = self.subs.get_mut(&key) {
                assert_eq!(publication.offset, *position + 1, "{key:?}");
                *position += 1;
            }
            self.see(&key.1, publication.offset, publication.data);
        }
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
                    position += 1;
                    assert_eq!(p.publication.offset, position);
                    self.see(&room, position, p.publication.data.clone());
                }
                let key = (session, room);
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
