//! The session machine: its inputs.

use bytes::Bytes;
use gb6_core_model::{Disconnect, SessionId};

use super::types::{Action, Claims, Context, FrameKind, SessionSeed, TokenError};
use crate::request::{Answer, Notice};

/// One client connection. Every input appends to `out` what the driver must do, in order.
pub struct Session {
    seed: SessionSeed,
}

impl Session {
    /// A connection whose transport is ready; the connect command is waited for.
    pub fn new(_cx: &Context<'_>, seed: SessionSeed) -> Self {
        Self { seed }
    }
    /// Its number.
    pub fn id(&self) -> SessionId {
        self.seed.session
    }
    /// The client sent a frame.
    pub fn frame(
        &mut self,
        _cx: &Context<'_>,
        _kind: FrameKind,
        _frame: Bytes,
        _out: &mut Vec<Action>,
    ) {
    }
    /// A token was verified: the answer to [`Action::Verify`].
    pub fn verified(
        &mut self,
        _cx: &Context<'_>,
        _request: u32,
        _result: Result<Claims, TokenError>,
        _out: &mut Vec<Action>,
    ) {
    }
    /// A hub answered.
    pub fn complete(
        &mut self,
        _cx: &Context<'_>,
        _token: u64,
        _answer: Answer,
        _out: &mut Vec<Action>,
    ) {
    }
    /// A hub says something unasked.
    pub fn notice(&mut self, _cx: &Context<'_>, _notice: Notice, _out: &mut Vec<Action>) {}
    /// Bytes were written to the client: call it when the outbox falls below
    /// `bulk_low_water_bytes` while [`Session::wants_drain`].
    pub fn drained(&mut self, _cx: &Context<'_>, _out: &mut Vec<Action>) {}
    /// Whether bulk answers wait for the outbox to drain.
    pub fn wants_drain(&self) -> bool {
        false
    }
    /// Time has passed: call it at [`Session::deadline`] or later.
    pub fn tick(&mut self, _cx: &Context<'_>, _out: &mut Vec<Action>) {}
    /// When `tick` is wanted next, in ms of the monotonic clock; `None` once closed.
    pub fn deadline(&self) -> Option<u64> {
        None
    }
    /// Ends the session from here: 3001 when the node drains, 3008 for a full outbox, …
    pub fn shutdown(&mut self, _cx: &Context<'_>, _why: Disconnect, _out: &mut Vec<Action>) {}
    /// Whether it has ended: no input changes anything any more.
    pub fn is_closed(&self) -> bool {
        false
    }
}
