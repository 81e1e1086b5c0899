//! An endless response body as a framing of a connection: the commands of its request come in once,
//! replies go out one by one, and the verdict as a push.

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_core_wire::client::frame::frame_payload;
use gb6_core_wire::client::{Dialect, bare_push, each_reply};

use crate::connection::batch::{Batch, Envelope};
use crate::connection::framing::{Farewell, Framing, Incoming, Verdict};
use crate::stream::framing::disconnect_push;

/// Bytes behind a request that are passed over: some clients end a body with a line break. Whoever
/// sends more is told to go.
const PASSED_OVER_MAX: usize = 64;

/// The framing of one response body.
pub(crate) struct OneWay {
    /// The commands of the request, until they are taken.
    commands: Option<Bytes>,
    dialect: Dialect,
    envelope: Envelope,
    /// Whether the client reads bare pushes and says nothing.
    unidirectional: bool,
    passed_over: usize,
}

impl OneWay {
    /// A body of this dialect behind a request with these commands; `events`: an event stream.
    pub(crate) fn new(
        commands: Bytes,
        dialect: Dialect,
        events: bool,
        unidirectional: bool,
    ) -> Self {
        Self {
            commands: Some(commands),
            dialect,
            envelope: match (events, dialect) {
                (true, _) => Envelope::Event,
                (false, Dialect::Json) => Envelope::Line,
                (false, Dialect::Protobuf) => Envelope::Bare,
            },
            unidirectional,
            passed_over: 0,
        }
    }
}

impl Framing for OneWay {
    const ANSWERS_CLOSE: bool = false;

    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Verdict> {
        if let Some(commands) = self.commands.take() {
            return Ok(Some(match self.dialect {
                Dialect::Json => Incoming::Text(commands),
                Dialect::Protobuf => Incoming::Binary(commands),
            }));
        }
        self.passed_over += std::mem::take(input).len();
        if self.passed_over > PASSED_OVER_MAX {
            return Err(Verdict {
                reason: "bytes behind the request",
                ..Disconnect::BadRequest.into()
            });
        }
        Ok(None)
    }

    fn forget(&mut self) {
        self.commands = None;
        self.passed_over = 0;
    }

    fn envelope(&self) -> Envelope {
        self.envelope
    }

    fn push(&self, frame: Bytes, batch: &mut Batch) {
        let payload = frame_payload(&frame);
        if self.unidirectional {
            each_reply(self.dialect, &payload, |reply| {
                if let Some(push) = bare_push(self.dialect, &reply) {
                    batch.push(push);
                }
            });
        } else if self.envelope == Envelope::Event {
            // One event has one line.
            each_reply(self.dialect, &payload, |reply| batch.push(reply));
        } else {
            batch.push(payload);
        }
    }

    fn verdict(&self, dialect: Dialect, verdict: Farewell<'_>) -> Bytes {
        let push = disconnect_push(dialect, verdict);
        let bare = self
            .unidirectional
            .then(|| bare_push(dialect, &push))
            .flatten();
        bare.unwrap_or(push)
    }

    fn pong(&self, _: &[u8]) -> Option<Bytes> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::client::websocket_frame;

    const TWO: &[u8] = b"{\"push\":{\"channel\":\"room:1\",\"pub\":{\"data\":1}}}\n{}";

    fn written(framing: &OneWay, payload: &[u8]) -> String {
        let mut batch = Batch::new(framing.envelope());
        framing.push(websocket_frame(framing.dialect, payload), &mut batch);
        let bytes = batch.pieces().collect::<Vec<_>>().concat();
        assert_eq!(bytes.len(), batch.left());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn each_way_of_writing() {
        let body = |events, unidirectional| {
            OneWay::new(Bytes::new(), Dialect::Json, events, unidirectional)
        };
        let reply = "{\"push\":{\"channel\":\"room:1\",\"pub\":{\"data\":1}}}";
        let bare = "{\"channel\":\"room:1\",\"pub\":{\"data\":1}}";
        for (events, unidirectional, want) in [
            (false, false, format!("{reply}\n{{}}\n")),
            (true, false, format!("data: {reply}\n\ndata: {{}}\n\n")),
            (false, true, format!("{bare}\n{{}}\n")),
            (true, true, format!("data: {bare}\n\ndata: {{}}\n\n")),
        ] {
            assert_eq!(written(&body(events, unidirectional), TWO), want);
        }
        let protobuf = OneWay::new(Bytes::new(), Dialect::Protobuf, false, true);
        assert_eq!(
            written(&protobuf, b"\x04\x22\x02\x12\x00\x00"),
            "\x02\x12\0\0"
        );
        let told = |framing: &OneWay| framing.verdict(Dialect::Json, Disconnect::Shutdown.into());
        let disconnect = r#"{"disconnect":{"code":3001,"reason":"shutdown","reconnect":true}}"#;
        assert_eq!(told(&body(true, true)), disconnect);
        let reply = format!("{{\"push\":{disconnect}}}");
        assert_eq!(told(&body(true, false)), reply);
    }

    #[test]
    fn the_request_is_taken_once_and_little_behind_it_is_passed_over() {
        let mut body = OneWay::new(Bytes::from_static(b"{}"), Dialect::Json, true, false);
        let mut behind = &b"\r\n"[..];
        let commands = Some(Incoming::Text(Bytes::from_static(b"{}")));
        assert_eq!(body.next(&mut behind), Ok(commands));
        assert_eq!(body.next(&mut behind), Ok(None));
        assert!(behind.is_empty());
        let refused = body.next(&mut &[b'x'; PASSED_OVER_MAX][..]).err();
        assert_eq!(refused.map(|v| v.code), Some(3501));
    }
}
