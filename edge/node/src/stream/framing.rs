//! Streams of commands and replies as a framing of a connection: the messages of a WebSocket frame
//! without its header, the verdict as a push, and behind it the end of the stream.

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_core_wire::client::frame::frame_payload;
use gb6_core_wire::client::{self, Dialect, Push, encode_push};

use super::reader::{CommandReader, StreamError};
use crate::connection::batch::{Batch, Envelope};
use crate::connection::framing::{Farewell, Framing, Incoming, Verdict};

/// The framing of one stream.
pub(crate) struct Stream {
    reader: CommandReader,
    dialect: Dialect,
}

impl Stream {
    /// A stream of this dialect whose first command may have `first_max` bytes.
    pub(crate) fn new(dialect: Dialect, first_max: usize) -> Self {
        Self {
            reader: CommandReader::new(dialect, first_max),
            dialect,
        }
    }
}

impl Framing for Stream {
    const ANSWERS_CLOSE: bool = false;

    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Verdict> {
        let run = self.reader.next(input).map_err(refusal)?;
        Ok(run.map(|commands| match self.dialect {
            Dialect::Json => Incoming::Text(commands),
            Dialect::Protobuf => Incoming::Binary(commands),
        }))
    }

    fn forget(&mut self) {
        self.reader.forget();
    }

    fn envelope(&self) -> Envelope {
        match self.dialect {
            Dialect::Json => Envelope::Line,
            Dialect::Protobuf => Envelope::Bare,
        }
    }

    fn push(&self, frame: Bytes, batch: &mut Batch) {
        batch.push(frame_payload(&frame));
    }

    fn verdict(&self, dialect: Dialect, verdict: Farewell<'_>) -> Bytes {
        disconnect_push(dialect, verdict)
    }

    fn pong(&self, _: &[u8]) -> Option<Bytes> {
        None
    }
}

/// What the client is told of bytes that are no commands.
fn refusal(error: StreamError) -> Verdict {
    Verdict {
        reason: match error {
            StreamError::Length => "command length is no varint",
            StreamError::TooLarge(_) => "command too large",
        },
        ..Disconnect::BadRequest.into()
    }
}

/// A push that says why the connection ends, for framings that have no close frame.
pub(crate) fn disconnect_push(dialect: Dialect, verdict: Farewell<'_>) -> Bytes {
    let push = Push {
        disconnect: Some(client::Disconnect {
            code: u32::from(verdict.code),
            reason: verdict.reason.to_owned(),
            reconnect: verdict.reconnect,
        }),
        ..Push::default()
    };
    let mut out = Vec::new();
    encode_push(dialect, &push, &mut out);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::client::{decode_replies, websocket_frame};

    #[test]
    fn frames_lose_their_header_and_the_verdict_is_a_push() {
        for (dialect, payload, want) in [
            (Dialect::Json, &b"{}\n{}"[..], &b"{}\n{}\n"[..]),
            (Dialect::Protobuf, b"\x00\x00", b"\x00\x00"),
        ] {
            let stream = Stream::new(dialect, 1000);
            let mut batch = Batch::new(stream.envelope());
            stream.push(websocket_frame(dialect, payload), &mut batch);
            assert_eq!(batch.pieces().collect::<Vec<_>>().concat(), want);
            let told = stream.verdict(dialect, Disconnect::Slow.into());
            let replies = decode_replies(dialect, told).unwrap_or_default();
            let disconnect = replies[0].push.as_ref().and_then(|p| p.disconnect.as_ref());
            assert_eq!(
                disconnect.map(|d| (d.code, d.reconnect)),
                Some((3008, true))
            );
            assert!(disconnect.is_some_and(|d| !d.reason.is_empty()));
        }
    }
}
