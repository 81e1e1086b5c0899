//! The Centrifuge client protocol, version 2, in either encoding, over `gb6_core_wire`.

use bytes::Bytes;
use gb6_core_wire::client::{
    Command, ConnectRequest, Dialect, PublishRequest, RpcRequest, SubscribeRequest, decode_replies,
    subscribe_flags,
};
use prost::Message as _;
use serde_json::json;

use super::peek::{Peeked, Room, peek, varint};
use super::peek_json::peek_json;
use super::{Event, Position, ProtocolError};

/// Numbers of the commands that are no publishes: the one of a subscription is this and which of
/// the connection's it is.
const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;
/// The number of the publish with tag 0.
const PUBLISH: u32 = 64;
/// Subscriptions of one connection at most.
pub(crate) const SUBSCRIPTIONS_MAX: usize = (PUBLISH - SUBSCRIBE) as usize;

/// How a publish is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Method {
    /// The command `publish`, which every SDK has; no id, so no dedupe.
    #[default]
    Publish,
    /// The rpc `room.publish` with an id, so that a retry is recognised.
    Rpc,
}

/// One connection.
pub(crate) struct Gb6 {
    dialect: Dialect,
    token: String,
    method: Method,
    /// Makes ids unlike those of every other connection and run.
    id_prefix: String,
    /// What it is subscribed to: the name and the number that stands for it, 0 for none.
    rooms: Vec<(Box<str>, i64)>,
}

impl Gb6 {
    /// A connection that signs in with `token`.
    pub(crate) fn new(dialect: Dialect, token: String, method: Method, id_prefix: String) -> Self {
        Gb6 {
            dialect,
            token,
            method,
            id_prefix,
            rooms: Vec::new(),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn hello(&mut self, out: &mut Vec<u8>) {
        if self.dialect == Dialect::Json {
            let connect = json!({"token": self.token, "name": "bench"});
            return put_json(&json!({"id": CONNECT, "connect": connect}).to_string(), out);
        }
        let connect = ConnectRequest {
            token: self.token.clone(),
            name: "bench".to_owned(),
            ..ConnectRequest::default()
        };
        put(
            Command {
                id: CONNECT,
                connect: Some(Box::new(connect)),
                ..Command::default()
            },
            out,
        );
    }

    pub(super) fn subscribe(&mut self, room: &str, since: Option<&Position>, out: &mut Vec<u8>) {
        let id = SUBSCRIBE + self.rooms.len() as u32;
        self.rooms.push((room.into(), 0));
        // Compaction is what SDKs ask for in every subscribe.
        let flag = subscribe_flags::COMPACTION;
        if self.dialect == Dialect::Json {
            let mut subscribe = json!({"channel": room, "flag": flag});
            if let Some(since) = since {
                subscribe["recover"] = json!(true);
                subscribe["recoverable"] = json!(true);
                subscribe["positioned"] = json!(true);
                subscribe["epoch"] = json!(since.epoch);
                subscribe["offset"] = json!(since.offset);
            }
            return put_json(&json!({"id": id, "subscribe": subscribe}).to_string(), out);
        }
        let mut subscribe = SubscribeRequest {
            channel: room.to_owned(),
            flag,
            ..SubscribeRequest::default()
        };
        if let Some(since) = since {
            subscribe.recover = true;
            subscribe.recoverable = true;
            subscribe.positioned = true;
            subscribe.epoch.clone_from(&since.epoch);
            subscribe.offset = since.offset;
        }
        put(
            Command {
                id,
                subscribe: Some(Box::new(subscribe)),
                ..Command::default()
            },
            out,
        );
    }

    /// `data` is JSON.
    pub(super) fn publish(&mut self, tag: u32, room: &str, data: &[u8], out: &mut Vec<u8>) {
        let id = PUBLISH.wrapping_add(tag);
        let argument = match self.method {
            Method::Publish => None,
            Method::Rpc => {
                let head = format!(
                    "{{\"room\":\"{room}\",\"id\":\"{}-{tag}\",\"data\":",
                    self.id_prefix
                );
                Some([head.as_bytes(), data, b"}"].concat())
            }
        };
        if self.dialect == Dialect::Json {
            let (head, data) = match &argument {
                None => (
                    format!("{{\"id\":{id},\"publish\":{{\"channel\":\"{room}\",\"data\":"),
                    data,
                ),
                Some(argument) => (
                    format!("{{\"id\":{id},\"rpc\":{{\"method\":\"room.publish\",\"data\":"),
                    &argument[..],
                ),
            };
            put_json(&head, out);
            out.extend_from_slice(data);
            return out.extend_from_slice(b"}}");
        }
        let mut command = Command {
            id,
            ..Command::default()
        };
        match argument {
            None => {
                command.publish = Some(PublishRequest {
                    channel: room.to_owned(),
                    data: Bytes::copy_from_slice(data),
                    ..PublishRequest::default()
                });
            }
            Some(argument) => {
                command.rpc = Some(RpcRequest {
                    method: "room.publish".to_owned(),
                    data: Bytes::from(argument),
                });
            }
        }
        put(command, out);
    }

    pub(super) fn read(
        &mut self,
        mut message: &[u8],
        out: &mut Vec<u8>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        while !message.is_empty() {
            let whole = message;
            let reply;
            let peeked;
            if self.dialect == Dialect::Json {
                let end = message.iter().position(|b| *b == b'\n');
                (reply, message) = match end {
                    Some(end) => (&message[..end], &message[end + 1..]),
                    None => (message, &[][..]),
                };
                if reply == b"{}" {
                    // The server's ping, and its answer.
                    put_json("{}", out);
                    continue;
                }
                peeked = peek_json(reply);
            } else {
                (reply, message) = varint(message)
                    .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(length).ok()?))
                    .ok_or_else(|| {
                        ProtocolError::Malformed("a frame ends inside a reply".to_owned())
                    })?;
                if reply.is_empty() {
                    out.push(0);
                    continue;
                }
                peeked = peek(reply);
            }
            match peeked {
                Peeked::Publication { room, offset, data } => {
                    let nth = self.nth(room)?;
                    on(Event::Delivered { nth, offset, data });
                }
                Peeked::Published { id } => on(Event::Acked {
                    tag: id.wrapping_sub(PUBLISH),
                }),
                Peeked::Other => self.read_other(&whole[..whole.len() - message.len()], on)?,
            }
        }
        Ok(())
    }

    /// Which subscription a push is for.
    fn nth(&self, room: Room<'_>) -> Result<usize, ProtocolError> {
        if self.rooms.len() <= 1 {
            return Ok(0);
        }
        let is_it = |(name, id): &(Box<str>, i64)| match room {
            Room::Id(pushed) => pushed == *id,
            Room::Name(pushed) => pushed == name.as_bytes(),
        };
        let known = self.rooms.iter().position(is_it);
        known.ok_or_else(|| ProtocolError::Malformed("a push for no subscription".to_owned()))
    }

    fn read_other(
        &mut self,
        reply: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        let replies = decode_replies(self.dialect, Bytes::copy_from_slice(reply))
            .map_err(|e| ProtocolError::Malformed(e.to_string()))?;
        for reply in replies {
            if let Some(error) = reply.error {
                let (code, message) = (error.code, error.message);
                match reply.id {
                    CONNECT => return Err(ProtocolError::Session { code, message }),
                    SUBSCRIBE..PUBLISH => on(Event::SubscriptionLost { code, message }),
                    id => on(Event::Failed {
                        tag: id.wrapping_sub(PUBLISH),
                        code,
                        message,
                    }),
                }
            } else if reply.connect.is_some() {
                on(Event::Ready);
            } else if let Some(result) = reply.subscribe {
                let nth = reply.id.saturating_sub(SUBSCRIBE) as usize;
                if let Some(room) = self.rooms.get_mut(nth) {
                    room.1 = result.id;
                }
                for publication in &result.publications {
                    on(Event::Delivered {
                        nth,
                        offset: publication.offset,
                        data: &publication.data,
                    });
                }
                // Recovered: the offset is the one that was asked from, the publications go on.
                let last = result.publications.last().map_or(0, |p| p.offset);
                on(Event::Subscribed {
                    nth,
                    position: Position {
                        epoch: result.epoch,
                        offset: result.offset.max(last),
                    },
                    recovered: result.recovered,
                });
            } else if reply.rpc.is_some() || reply.publish.is_some() {
                on(Event::Acked {
                    tag: reply.id.wrapping_sub(PUBLISH),
                });
            } else if let Some(end) = reply.push.and_then(|push| push.unsubscribe) {
                on(Event::SubscriptionLost {
                    code: end.code,
                    message: end.reason,
                });
            }
            // Joins, leaves and the like are none of a bench's business.
        }
        Ok(())
    }
}

fn put(command: Command, out: &mut Vec<u8>) {
    // Writing to a Vec can not run out of space, the only error that there is.
    let _ = command.encode_length_delimited(out);
}

/// A command, or its beginning, on a line of its own.
fn put_json(command: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b'\n');
    }
    out.extend_from_slice(command.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::codes::ErrorCode;
    use gb6_core_wire::client::{
        ConnectResult, Publication, PublishResult, Push, Reply, RpcResult, SubscribeResult,
        decode_frame, encode_replies,
    };

    fn codec(dialect: Dialect, method: Method) -> Gb6 {
        Gb6::new(dialect, "T".to_owned(), method, "run".to_owned())
    }

    fn sent(dialect: Dialect, write: impl FnOnce(&mut Vec<u8>)) -> Vec<Command> {
        let mut out = Vec::new();
        write(&mut out);
        decode_frame(dialect, Bytes::from(out)).unwrap()
    }

    fn events(dialect: Dialect, replies: &[Reply]) -> (Vec<String>, Vec<u8>) {
        let (mut frame, mut out, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        encode_replies(dialect, replies, &mut frame);
        let mut codec = codec(dialect, Method::Publish);
        for room in ["room:0", "room:1"] {
            codec.subscribe(room, None, &mut Vec::new());
        }
        codec
            .read(&frame, &mut out, &mut |event| {
                seen.push(format!("{event:?}"))
            })
            .unwrap();
        (seen, out)
    }

    #[test]
    fn commands_are_those_of_the_protocol() {
        for dialect in Dialect::ALL {
            let mut c = codec(dialect, Method::Publish);
            let hello = sent(dialect, |out| c.hello(out)).remove(0);
            assert_eq!(hello.connect.unwrap().token, "T");
            let since = Position {
                epoch: "E".into(),
                offset: 4,
            };
            // Two in one message, as an SDK sends them after it came back.
            let both = sent(dialect, |out| {
                c.subscribe("room:1", Some(&since), out);
                c.subscribe("room:2", None, out);
            });
            assert_eq!(both.len(), 2);
            assert_eq!((both[0].id, both[1].id), (SUBSCRIBE, SUBSCRIBE + 1));
            let subscribe = both[0].subscribe.as_ref().unwrap();
            assert!(subscribe.recover && subscribe.offset == 4 && subscribe.epoch == "E");
            assert_eq!(subscribe.flag, subscribe_flags::COMPACTION);
            assert!(!both[1].subscribe.as_ref().unwrap().recover);
            let publish = sent(dialect, |out| c.publish(5, "room:1", b"{}", out)).remove(0);
            assert_eq!(publish.id, PUBLISH + 5);
            let publish = publish.publish.unwrap();
            assert_eq!(
                (&publish.channel[..], &publish.data[..]),
                ("room:1", &b"{}"[..])
            );
            let mut c = codec(dialect, Method::Rpc);
            let rpc = sent(dialect, |out| c.publish(5, "room:1", b"{}", out)).remove(0);
            let rpc = rpc.rpc.unwrap();
            assert_eq!(rpc.method, "room.publish");
            assert_eq!(
                &rpc.data[..],
                br#"{"room":"room:1","id":"run-5","data":{}}"#
            );
        }
    }

    #[test]
    fn replies_become_events() {
        let publication = |offset, data| Publication {
            offset,
            data: Bytes::from_static(data),
            ..Publication::default()
        };
        let push = |channel: &str, id| {
            Reply::push(Push {
                channel: channel.into(),
                id,
                publication: Some(publication(9, b"2")),
                ..Push::default()
            })
        };
        let recovered = SubscribeResult {
            recovered: true,
            epoch: "E".into(),
            offset: 4,
            id: 77,
            publications: vec![publication(5, b"1")],
            ..SubscribeResult::default()
        };
        for dialect in Dialect::ALL {
            let (seen, out) = events(
                dialect,
                &[
                    Reply::answer(CONNECT, ConnectResult::default()),
                    Reply::ping(),
                    Reply::answer(SUBSCRIBE + 1, recovered.clone()),
                    push("", 77),
                    push("room:0", 0),
                    Reply::answer(PUBLISH, PublishResult {}),
                    Reply::answer(PUBLISH + 1, RpcResult::default()),
                    Reply::error(PUBLISH + 2, ErrorCode::LimitExceeded),
                ],
            );
            let pong: &[u8] = match dialect {
                Dialect::Json => b"{}",
                Dialect::Protobuf => &[0],
            };
            assert_eq!(out, pong, "the ping is answered");
            let expected = [
                "Ready",
                "Delivered { nth: 1, offset: 5, data: [49] }",
                "Subscribed { nth: 1, position: Position { epoch: \"E\", offset: 5 }, recovered: true }",
                "Delivered { nth: 1, offset: 9, data: [50] }",
                "Delivered { nth: 0, offset: 9, data: [50] }",
                "Acked { tag: 0 }",
                "Acked { tag: 1 }",
            ];
            assert_eq!(seen[..7], expected);
            assert!(
                seen[7].starts_with("Failed { tag: 2, code: 106"),
                "{}",
                seen[7]
            );
        }
    }

    #[test]
    fn a_refused_session_a_cut_frame_and_a_push_for_nothing_are_errors() {
        let read = |dialect, bytes: &[u8]| {
            let mut codec = codec(dialect, Method::Publish);
            for room in ["room:0", "room:1"] {
                codec.subscribe(room, None, &mut Vec::new());
            }
            codec.read(bytes, &mut Vec::new(), &mut |_| ())
        };
        let stray = Reply::push(Push {
            id: 5,
            publication: Some(Publication {
                data: Bytes::from_static(b"1"),
                ..Publication::default()
            }),
            ..Push::default()
        });
        for dialect in Dialect::ALL {
            let mut frame = Vec::new();
            let refusal = Reply::error(CONNECT, ErrorCode::TokenExpired);
            encode_replies(dialect, [&refusal], &mut frame);
            assert!(matches!(
                read(dialect, &frame),
                Err(ProtocolError::Session { code: 109, .. })
            ));
            let cut = &frame[..frame.len() - 2];
            assert!(matches!(
                read(dialect, cut),
                Err(ProtocolError::Malformed(_))
            ));
            let mut frame = Vec::new();
            encode_replies(dialect, [&stray], &mut frame);
            let refused = read(dialect, &frame);
            assert!(
                matches!(refused, Err(ProtocolError::Malformed(_))),
                "{refused:?}"
            );
        }
    }
}
