//! Writing commands: the server only reads them, so that the JSON side of it stands here.

use bytes::Bytes;
use gb6_core_wire::client::{Command, Dialect, Method};
use prost::Message as _;
use serde_json::Value;

/// A JSON object under construction; data goes in as it is.
struct Object(String);

impl Object {
    fn new() -> Self {
        Object("{".to_owned())
    }

    fn raw(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&Value::String(name.to_owned()).to_string());
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    fn text(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        let value = Value::String(value.to_owned()).to_string();
        self.raw(name, &value)
    }

    fn number(self, name: &str, value: i128) -> Self {
        if value == 0 {
            return self;
        }
        self.raw(name, &value.to_string())
    }

    fn flag(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    fn data(self, name: &str, value: &Bytes) -> Self {
        if value.is_empty() {
            return self;
        }
        let value = String::from_utf8_lossy(value).into_owned();
        self.raw(name, &value)
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// One command as it stands in a frame: JSON without a newline, Protobuf behind its length. Data
/// must be JSON in the JSON dialect.
pub fn encode_command(dialect: Dialect, command: &Command) -> Vec<u8> {
    match dialect {
        Dialect::Protobuf => command.encode_length_delimited_to_vec(),
        Dialect::Json => json(command).into_bytes(),
    }
}

/// Several commands as one frame.
pub fn encode_commands(dialect: Dialect, commands: &[Command]) -> Vec<u8> {
    let mut frame = Vec::new();
    for (n, command) in commands.iter().enumerate() {
        if n > 0 && dialect == Dialect::Json {
            frame.push(b'\n');
        }
        frame.extend(encode_command(dialect, command));
    }
    frame
}

fn json(command: &Command) -> String {
    let method = command.method();
    let name = method.name();
    let channel = |channel: &str| Object::new().text("channel", channel);
    let content = match method {
        // Several methods in one command are not written: the server's own tests cover them.
        Method::None | Method::Many => None,
        Method::Connect(c) => {
            let mut subs = Object::new();
            for (name, sub) in &c.subs {
                let position = Object::new()
                    .flag("recover", sub.recover)
                    .number("offset", sub.offset.into())
                    .text("epoch", &sub.epoch);
                subs = subs.raw(name, &position.end());
            }
            let object = Object::new()
                .text("token", &c.token)
                .data("data", &c.data)
                .text("name", &c.name)
                .text("version", &c.version);
            Some(if c.subs.is_empty() {
                object
            } else {
                object.raw("subs", &subs.end())
            })
        }
        Method::Subscribe(s) => Some(
            channel(&s.channel)
                .text("token", &s.token)
                .flag("recover", s.recover)
                .text("epoch", &s.epoch)
                .number("offset", s.offset.into())
                .data("data", &s.data)
                .flag("positioned", s.positioned)
                .flag("recoverable", s.recoverable)
                .flag("join_leave", s.join_leave)
                .text("delta", &s.delta)
                .number("flag", s.flag.into()),
        ),
        Method::Unsubscribe(u) => Some(channel(&u.channel)),
        Method::Publish(p) => Some(channel(&p.channel).data("data", &p.data)),
        Method::Presence(p) => Some(channel(&p.channel)),
        Method::PresenceStats(p) => Some(channel(&p.channel)),
        Method::History(h) => {
            let object = channel(&h.channel)
                .number("limit", h.limit.into())
                .flag("reverse", h.reverse);
            Some(match &h.since {
                None => object,
                Some(since) => object.raw(
                    "since",
                    &Object::new()
                        .number("offset", since.offset.into())
                        .text("epoch", &since.epoch)
                        .end(),
                ),
            })
        }
        Method::Ping => Some(Object::new()),
        Method::Send(s) => Some(Object::new().data("data", &s.data)),
        Method::Rpc(r) => Some(
            Object::new()
                .text("method", &r.method)
                .data("data", &r.data),
        ),
        Method::Refresh(r) => Some(Object::new().text("token", &r.token)),
        Method::SubRefresh(r) => Some(channel(&r.channel).text("token", &r.token)),
    };
    let object = Object::new().number("id", command.id.into());
    match content {
        None => object.end(),
        Some(content) => object.raw(name, &content.end()).end(),
    }
}

#[cfg(test)]
mod tests {
    use gb6_core_wire::client::*;

    use super::*;

    /// What is written here reads back there, in both dialects.
    #[test]
    fn commands_read_back() {
        let commands = vec![
            Command {
                id: 1,
                connect: Some(Box::new(ConnectRequest {
                    token: "T\"\\".into(),
                    name: "test".into(),
                    subs: [(
                        "room:\"1".to_owned(),
                        SubscribeRequest {
                            recover: true,
                            offset: 3,
                            epoch: "E".into(),
                            ..Default::default()
                        },
                    )]
                    .into(),
                    ..Default::default()
                })),
                ..Default::default()
            },
            Command {
                id: 2,
                subscribe: Some(Box::new(SubscribeRequest {
                    channel: "room:ä".into(),
                    recover: true,
                    epoch: "E".into(),
                    offset: u64::MAX,
                    positioned: true,
                    recoverable: true,
                    join_leave: true,
                    flag: 2,
                    ..Default::default()
                })),
                ..Default::default()
            },
            Command {
                id: 3,
                publish: Some(PublishRequest {
                    channel: "room:a".into(),
                    data: Bytes::from_static(b"{\"a\": [1,\"x\"]}"),
                    ..Default::default()
                }),
                ..Default::default()
            },
            Command {
                id: 4,
                history: Some(HistoryRequest {
                    channel: "room:a".into(),
                    limit: -1,
                    since: Some(StreamPosition {
                        offset: 7,
                        epoch: "E".into(),
                    }),
                    reverse: true,
                }),
                ..Default::default()
            },
            Command {
                id: 5,
                rpc: Some(RpcRequest {
                    method: "room.publish".into(),
                    data: Bytes::from_static(b"{}"),
                }),
                ..Default::default()
            },
            Command {
                id: 6,
                presence_stats: Some(PresenceStatsRequest {
                    channel: "room:a".into(),
                }),
                ..Default::default()
            },
            Command::default(),
        ];
        for dialect in Dialect::ALL {
            let frame = encode_commands(dialect, &commands);
            let back = decode_frame(dialect, frame.into()).unwrap();
            assert_eq!(back, commands, "{dialect:?}");
        }
    }
}
