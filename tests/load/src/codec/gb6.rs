//! The Centrifuge client protocol, version 2, in Protobuf, over `gb6_core_wire`.

use bytes::Bytes;
use gb6_core_wire::client::{
    Command, ConnectRequest, Dialect, PublishRequest, RpcRequest, SubscribeRequest, decode_replies,
    subscribe_flags,
};
use prost::Message as _;

use super::peek::{Peeked, peek, varint};
use super::{Event, Position, ProtocolError};

/// Numbers of the commands that are no publishes.
const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;
/// The number of the publish with tag 0.
const PUBLISH: u32 = 16;

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
    token: String,
    method: Method,
    /// Makes ids unlike those of every other connection and run.
    id_prefix: String,
}

impl Gb6 {
    /// A connection that signs in with `token`.
    pub(crate) fn new(token: String, method: Method, id_prefix: String) -> Self {
        Gb6 {
            token,
            method,
            id_prefix,
        }
    }

    pub(super) fn hello(&mut self, out: &mut Vec<u8>) {
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
        // Compaction is what SDKs ask for in every subscribe.
        let mut subscribe = SubscribeRequest {
            channel: room.to_owned(),
            flag: subscribe_flags::COMPACTION,
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
                id: SUBSCRIBE,
                subscribe: Some(Box::new(subscribe)),
                ..Command::default()
            },
            out,
        );
    }

    pub(super) fn publish(&mut self, tag: u32, room: &str, data: &[u8], out: &mut Vec<u8>) {
        let mut command = Command {
            id: PUBLISH.wrapping_add(tag),
            ..Command::default()
        };
        match self.method {
            Method::Publish => {
                command.publish = Some(PublishRequest {
                    channel: room.to_owned(),
                    data: Bytes::copy_from_slice(data),
                    ..PublishRequest::default()
                });
            }
            Method::Rpc => {
                let mut argument = format!(
                    "{{\"room\":\"{room}\",\"id\":\"{}-{tag}\",\"data\":",
                    self.id_prefix
                )
                .into_bytes();
                argument.extend_from_slice(data);
                argument.push(b'}');
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
            (reply, message) = varint(message)
                .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(length).ok()?))
                .ok_or_else(|| {
                    ProtocolError::Malformed("a frame ends inside a reply".to_owned())
                })?;
            if reply.is_empty() {
                // The server's ping, and its answer.
                out.push(0);
                continue;
            }
            match peek(reply) {
                Peeked::Publication { offset, data } => on(Event::Delivered { offset, data }),
                Peeked::Published { id } => on(Event::Acked {
                    tag: id.wrapping_sub(PUBLISH),
                }),
                Peeked::Other => self.read_other(&whole[..whole.len() - message.len()], on)?,
            }
        }
        Ok(())
    }

    fn read_other(
        &mut self,
        reply: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        let replies = decode_replies(Dialect::Protobuf, Bytes::copy_from_slice(reply))
            .map_err(|e| ProtocolError::Malformed(e.to_string()))?;
        for reply in replies {
            if let Some(error) = reply.error {
                let (code, message) = (error.code, error.message);
                match reply.id {
                    CONNECT => return Err(ProtocolError::Session { code, message }),
                    SUBSCRIBE => on(Event::SubscriptionLost { code, message }),
                    id => on(Event::Failed {
                        tag: id.wrapping_sub(PUBLISH),
                        code,
                        message,
                    }),
                }
            } else if reply.connect.is_some() {
                on(Event::Ready);
            } else if let Some(result) = reply.subscribe {
                for publication in &result.publications {
                    on(Event::Delivered {
                        offset: publication.offset,
                        data: &publication.data,
                    });
                }
                // Recovered: the offset is the one that was asked from, the publications go on.
                let last = result.publications.last().map_or(0, |p| p.offset);
                on(Event::Subscribed {
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

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::codes::ErrorCode;
    use gb6_core_wire::client::{
        ConnectResult, Publication, PublishResult, Push, Reply, RpcResult, SubscribeResult,
        decode_frame, encode_replies,
    };

    fn codec(method: Method) -> Gb6 {
        Gb6::new("T".to_owned(), method, "run".to_owned())
    }

    fn sent(write: impl FnOnce(&mut Vec<u8>)) -> Command {
        let mut out = Vec::new();
        write(&mut out);
        decode_frame(Dialect::Protobuf, Bytes::from(out))
            .unwrap()
            .remove(0)
    }

    fn events(replies: &[Reply]) -> (Vec<String>, Vec<u8>) {
        let (mut frame, mut out, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        encode_replies(Dialect::Protobuf, replies, &mut frame);
        codec(Method::Publish)
            .read(&frame, &mut out, &mut |event| {
                seen.push(format!("{event:?}"))
            })
            .unwrap();
        (seen, out)
    }

    #[test]
    fn commands_are_those_of_the_protocol() {
        let mut c = codec(Method::Publish);
        assert_eq!(sent(|out| c.hello(out)).connect.unwrap().token, "T");
        let since = Position {
            epoch: "E".into(),
            offset: 4,
        };
        let subscribe = sent(|out| c.subscribe("room:1", Some(&since), out));
        let subscribe = subscribe.subscribe.unwrap();
        assert!(subscribe.recover && subscribe.offset == 4 && subscribe.epoch == "E");
        let publish = sent(|out| c.publish(5, "room:1", b"{}", out));
        assert_eq!(publish.id, PUBLISH + 5);
        assert_eq!(publish.publish.unwrap().channel, "room:1");
        let rpc = sent(|out| codec(Method::Rpc).publish(5, "room:1", b"{}", out));
        let rpc = rpc.rpc.unwrap();
        assert_eq!(rpc.method, "room.publish");
        assert_eq!(
            &rpc.data[..],
            br#"{"room":"room:1","id":"run-5","data":{}}"#
        );
    }

    #[test]
    fn replies_become_events() {
        let push = Reply::push(Push {
            publication: Some(Publication {
                offset: 9,
                ..Publication::default()
            }),
            ..Push::default()
        });
        let recovered = SubscribeResult {
            recovered: true,
            epoch: "E".into(),
            offset: 4,
            publications: vec![Publication {
                offset: 5,
                data: Bytes::from_static(b"1"),
                ..Publication::default()
            }],
            ..SubscribeResult::default()
        };
        let (seen, out) = events(&[
            Reply::answer(CONNECT, ConnectResult::default()),
            Reply::ping(),
            Reply::answer(SUBSCRIBE, recovered),
            push,
            Reply::answer(PUBLISH, PublishResult {}),
            Reply::answer(PUBLISH + 1, RpcResult::default()),
            Reply::error(PUBLISH + 2, ErrorCode::LimitExceeded),
        ]);
        assert_eq!(out, [0], "the ping is answered");
        let expected = [
            "Ready",
            "Delivered { offset: 5, data: [49] }",
            "Subscribed { position: Position { epoch: \"E\", offset: 5 }, recovered: true }",
            "Delivered { offset: 9, data: [] }",
            "Acked { tag: 0 }",
            "Acked { tag: 1 }",
        ];
        assert_eq!(seen[..6], expected);
        assert!(
            seen[6].starts_with("Failed { tag: 2, code: 106"),
            "{}",
            seen[6]
        );
    }

    #[test]
    fn a_refused_session_and_a_cut_frame_are_errors() {
        let mut frame = Vec::new();
        let refusal = Reply::error(CONNECT, ErrorCode::TokenExpired);
        encode_replies(Dialect::Protobuf, [&refusal], &mut frame);
        let read = |bytes: &[u8]| codec(Method::Publish).read(bytes, &mut Vec::new(), &mut |_| ());
        assert!(matches!(
            read(&frame),
            Err(ProtocolError::Session { code: 109, .. })
        ));
        assert!(matches!(
            read(&frame[..frame.len() - 1]),
            Err(ProtocolError::Malformed(_))
        ));
    }
}
