//! A unidirectional WebSocket: the first message is the connect request, what else comes is passed
//! over, and each message to the client is one bare push.

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_core_wire::client::frame::frame_payload;
use gb6_core_wire::client::{Dialect, bare_push, connect_command, each_reply, websocket_frame};

use crate::connection::batch::{Batch, Envelope};
use crate::connection::framing::{Farewell, Framing, Incoming, Verdict};
use crate::stream::framing::disconnect_push;
use crate::ws::framing::WebSocket;

/// The framing of one such WebSocket.
pub(crate) struct Listening {
    websocket: WebSocket,
    dialect: Dialect,
    connected: bool,
}

impl Listening {
    /// A WebSocket of this dialect; messages of up to `bytes_max` bytes are read.
    pub(crate) fn new(dialect: Dialect, bytes_max: usize) -> Self {
        Self {
            websocket: WebSocket::new(bytes_max),
            dialect,
            connected: false,
        }
    }

    fn connect(&mut self, request: &[u8]) -> Result<Bytes, Verdict> {
        self.connected = true;
        connect_command(self.dialect, request).map_err(|_| Verdict {
            reason: "the first message is no connect request",
            ..Disconnect::BadRequest.into()
        })
    }
}

impl Framing for Listening {
    const ANSWERS_CLOSE: bool = true;

    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Verdict> {
        loop {
            return Ok(match self.websocket.next(input)? {
                Some(Incoming::Text(_) | Incoming::Binary(_)) if self.connected => continue,
                Some(Incoming::Text(request)) => Some(Incoming::Text(self.connect(&request)?)),
                Some(Incoming::Binary(request)) => Some(Incoming::Binary(self.connect(&request)?)),
                other => other,
            });
        }
    }

    fn forget(&mut self) {
        self.websocket.forget();
    }

    fn envelope(&self) -> Envelope {
        self.websocket.envelope()
    }

    fn push(&self, frame: Bytes, batch: &mut Batch) {
        each_reply(self.dialect, &frame_payload(&frame), |reply| {
            if let Some(push) = bare_push(self.dialect, &reply) {
                // A header of its own must be written with it or not at all.
                batch.push(websocket_frame(self.dialect, &push));
            }
        });
    }

    fn verdict(&self, dialect: Dialect, verdict: Farewell<'_>) -> Bytes {
        let close = self.websocket.verdict(dialect, verdict);
        match bare_push(dialect, &disconnect_push(dialect, verdict)) {
            Some(push) => [websocket_frame(dialect, &push), close].concat().into(),
            None => close,
        }
    }

    fn pong(&self, payload: &[u8]) -> Option<Bytes> {
        self.websocket.pong(payload)
    }
}
