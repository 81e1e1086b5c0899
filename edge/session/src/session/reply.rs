//! What one input of a session produces: replies, gathered into as few frames as fit.

use bytes::Bytes;
use gb6_core_model::{Channel, ErrorCode, SessionId, limits};
use gb6_core_wire::client::{self, ConnectRequest, Dialect, Reply};

use super::types::{Action, Claims, Context, count};
use crate::request::HubRequest;

/// One input's outputs.
pub(super) struct Turn<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) session: SessionId,
    pub(super) dialect: Dialect,
    out: &'a mut Vec<Action>,
    /// Encoded replies that will leave as one frame.
    replies: Vec<u8>,
    /// Bytes that left in this turn.
    sent: usize,
    /// Commands carried out in this turn.
    pub(super) commands: usize,
    /// Commands that failed in this turn, and will again.
    pub(super) failures: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        cx: &'a Context<'a>,
        session: SessionId,
        dialect: Dialect,
        out: &'a mut Vec<Action>,
    ) -> Self {
        Self {
            cx,
            session,
            dialect,
            out,
            replies: Vec::new(),
            sent: 0,
            commands: 0,
            failures: 0,
        }
    }

    /// Adds a reply or push behind what was said before.
    pub(super) fn say(&mut self, reply: &Reply) {
        let before = self.replies.len();
        if before > 0 && self.dialect == Dialect::Json {
            self.replies.push(b'\n');
        }
        let start = self.replies.len();
        client::encode_reply(self.dialect, reply, &mut self.replies);
        if before > 0 && self.replies.len() > limits::CLIENT_FRAME_OUT_BYTES_MAX {
            let last = self.replies.split_off(start);
            self.replies.truncate(before);
            self.flush();
            self.replies = last;
        }
    }

    /// Answers command `id`.
    pub(super) fn answer(&mut self, id: u32, answer: impl Into<client::Answer>) {
        self.say(&Reply::answer(id, answer));
    }

    /// Answers command `id` with an error; a command without an id gets none.
    pub(super) fn fail(&mut self, id: u32, code: ErrorCode) {
        count(&self.cx.counters.errors);
        self.cx.counters.error_codes.count(code);
        self.failures += usize::from(!code.temporary());
        if id != 0 {
            self.say(&Reply::error(id, code));
        }
    }

    /// Answers command `id` with an error of the application's own.
    pub(super) fn refuse(&mut self, id: u32, error: client::Error) {
        count(&self.cx.counters.errors);
        if let Some(ours) = ErrorCode::from_code(error.code) {
            self.cx.counters.error_codes.count(ours);
        }
        self.failures += usize::from(!error.temporary);
        if id != 0 {
            self.answer(id, error);
        }
    }

    /// Sends the gathered replies.
    pub(super) fn flush(&mut self) {
        if !self.replies.is_empty() {
            let frame = client::websocket_frame(self.dialect, &self.replies);
            self.replies.clear();
            self.send(frame);
        }
    }

    fn send(&mut self, frame: Bytes) {
        self.sent += frame.len();
        self.out.push(Action::Send(frame));
    }

    /// Bytes that wait to be written to the client, those of this turn included.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.cx.outbox_bytes + self.sent + self.replies.len()
    }

    pub(super) fn verify(&mut self, request: u32, token: String) {
        self.out.push(Action::Verify { request, token });
    }

    pub(super) fn verify_subscription(&mut self, request: u32, channel: Channel, token: String) {
        self.out.push(Action::VerifySubscription {
            request,
            channel,
            token,
        });
    }

    pub(super) fn admit(&mut self, request: u32, claims: Claims) {
        self.out.push(Action::Admit {
            request,
            claims: Box::new(claims),
        });
    }

    pub(super) fn ask_connect(&mut self, request: u32, client: String, connect: ConnectRequest) {
        self.out.push(Action::AskConnect {
            request,
            client,
            connect: Box::new(connect),
        });
    }

    pub(super) fn ask_publish(&mut self, request: u32, channel: Channel, data: Bytes) {
        self.out.push(Action::AskPublish {
            request,
            channel,
            data,
        });
    }

    /// A subscription of this session has ended.
    pub(super) fn subscription_ended(&mut self, channel: Channel, code: u32, reason: &'static str) {
        self.out.push(Action::SubscriptionEnded {
            channel,
            code,
            reason,
        });
    }

    pub(super) fn hub(&mut self, request: HubRequest) {
        self.out.push(Action::Hub(request));
    }
}

/// Bytes of publications or people that one reply may hold: the rest is left to its other fields.
pub(super) const REPLY_BYTES_MAX: usize = limits::CLIENT_FRAME_OUT_BYTES_MAX - 16 * 1024;

/// How many of `costs` fit into one reply; the first always does.
pub(super) fn fitting(costs: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let mut fit = 0;
    for cost in costs {
        bytes += cost;
        if fit > 0 && bytes > REPLY_BYTES_MAX {
            break;
        }
        fit += 1;
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::types::{SessionConfig, SessionCounters};
    use gb6_core_model::snapshot::Snapshot;
    use gb6_core_wire::client::RpcResult;

    /// The payload of a complete WebSocket frame of a server.
    fn payload(frame: &Bytes) -> Bytes {
        let header = match frame[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        frame.slice(header..)
    }

    #[test]
    fn replies_of_a_turn_are_split_where_a_frame_would_be_too_long() {
        let (snapshot, config) = (Snapshot::default(), SessionConfig::default());
        let counters = SessionCounters::default();
        let cx = Context {
            now_ms: 0,
            unix_ms: 0,
            snapshot: &snapshot,
            config: &config,
            counters: &counters,
            outbox_bytes: 0,
            limits: None,
        };
        let reply = |id: u32, bytes: usize| {
            let data = format!("\"{}\"", "x".repeat(bytes));
            Reply::answer(id, RpcResult { data: data.into() })
        };
        // Small ones, three of which two fit into a frame, and one that is a frame alone.
        let sizes = [10, 400_000, 400_000, 400_000, 10, 890_000, 20, 30];
        for dialect in Dialect::ALL {
            let mut out = Vec::new();
            let mut turn = Turn::new(&cx, SessionId(1), dialect, &mut out);
            for (id, bytes) in (1..).zip(sizes) {
                turn.say(&reply(id, bytes));
            }
            let said = turn.outbox_bytes();
            turn.flush();
            let frames: Vec<Bytes> = out
                .into_iter()
                .map(|action| match action {
                    Action::Send(frame) => frame,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(frames.len(), 3, "{dialect:?}");
            assert!(
                frames
                    .iter()
                    .all(|f| payload(f).len() <= limits::CLIENT_FRAME_OUT_BYTES_MAX)
            );
            assert!(said.abs_diff(frames.iter().map(Bytes::len).sum()) < 20);
            let replies = frames
                .iter()
                .flat_map(|frame| client::decode_replies(dialect, payload(frame)).unwrap());
            let got: Vec<(u32, usize)> = replies
                .map(|r| (r.id, r.rpc.unwrap().data.len() - 2))
                .collect();
            assert_eq!(got, (1..).zip(sizes).collect::<Vec<_>>());
        }
    }
}
