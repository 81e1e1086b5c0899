//! The machine of one client connection: opening → live → closed.
//!
//! It holds what is the client's own: identity, permissions, subscriptions by name, requests
//! without a reply, the budget of what may be recovered, its rate, its pings. Rooms belong to the
//! hubs. An idle session is small: what only busy ones need is allocated when it is needed.

mod asking;
mod bulk;
mod commands;
mod connect;
mod decision;
mod delivery;
mod granted;
mod live;
mod liveness;
mod message_id;
mod options;
mod permission;
mod person;
mod prefix;
mod proofs;
mod rate;
mod reply;
mod rooms;
mod rpc;
mod server;
mod subscribe;
mod subscription;
mod types;

use bytes::Bytes;
use gb6_core_model::{Disconnect, ErrorCode, SessionId, limits};
use gb6_core_wire::client::{CodecError, Commands, Dialect};

pub use connect::App;
pub use decision::{Decision, Replacement};
pub use rpc::{RoomPublished, RoomTraced, room_channel};
pub use server::{CloseReason, RecoverSince, ServerCommand};
pub use types::{
    Action, Claims, Context, ErrorCounts, FrameKind, Overrides, SessionConfig, SessionCounters,
    SessionSeed, SharedLimits, SubscriptionClaims, SubscriptionGrant, TokenError,
};

use crate::request::{Answer, Notice};
use crate::revocation::TokenRef;
use commands::Rest;
use connect::{Opening, connected, end_for};
use granted::Joined;
use live::Live;
use reply::Turn;
use types::count;

/// One client connection. Every input appends to `out` what the driver must do, in order.
pub struct Session {
    id: SessionId,
    dialect: Dialect,
    state: State,
    /// Commands that wait; `None`: none do.
    rest: Option<Box<Rest>>,
    /// What was wrong with the frame that ended it.
    fault: Option<Box<CodecError>>,
}

enum State {
    /// No connect has been accepted.
    Opening(Box<Opening>),
    /// The client is connected.
    Live(Box<Live>),
    /// It has ended.
    Closed,
}

/// That the session ends.
type Closes = Result<(), Disconnect>;

impl Session {
    /// A connection whose transport is ready; the connect command is waited for.
    pub fn new(cx: &Context<'_>, seed: SessionSeed) -> Self {
        Self {
            id: seed.session,
            dialect: seed.dialect,
            state: State::Opening(Box::new(Opening::new(cx, seed))),
            rest: None,
            fault: None,
        }
    }

    /// Its number.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// How its client's bytes are encoded.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The client sent a frame: one or more commands, which are carried out in order. Commands that
    /// come while a token is verified or the client's queue is long wait for it; where that is so
    /// for long, read no more of the client until [`Session::is_behind`] is false.
    pub fn frame(
        &mut self,
        cx: &Context<'_>,
        kind: FrameKind,
        frame: Bytes,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| {
            let ours = match kind {
                FrameKind::Text => Dialect::Json,
                FrameKind::Binary => Dialect::Protobuf,
            };
            if ours != session.dialect {
                count(&turn.cx.counters.bad_frames);
                return Err(Disconnect::InappropriateProtocol);
            }
            if frame.len() > limits::CLIENT_FRAME_BYTES_MAX {
                count(&turn.cx.counters.bad_frames);
                return Err(Disconnect::BadRequest);
            }
            session.commands(turn, Commands::new(session.dialect, frame))
        });
    }

    /// A token was verified: the answer to [`Action::Verify`].
    pub fn verified(
        &mut self,
        cx: &Context<'_>,
        request: u32,
        result: Result<Claims, TokenError>,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| {
            match &mut session.state {
                State::Closed => return Ok(()),
                State::Live(live) => return live.refreshed(turn, request, result),
                State::Opening(opening) => {
                    if let Some(live) = opening.verified(turn, request, result)? {
                        session.state = State::Live(live);
                    }
                }
            }
            session.waiting_commands(turn)
        });
    }

    /// A subscription token was verified: the answer to [`Action::VerifySubscription`].
    pub fn subscription_verified(
        &mut self,
        cx: &Context<'_>,
        request: u32,
        result: Result<SubscriptionClaims, TokenError>,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| match &mut session.state {
            State::Live(live) => live.proven(turn, request, result),
            State::Opening(_) | State::Closed => Ok(()),
        });
    }

    /// The application's backend has decided about the connect, and has given no claims: an answer
    /// to [`Action::AskConnect`].
    pub fn connect_decided(
        &mut self,
        cx: &Context<'_>,
        request: u32,
        decision: Decision<()>,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| {
            if let State::Opening(opening) = &mut session.state {
                opening.decided(turn, request, decision)?;
            }
            Ok::<(), CloseReason>(session.waiting_commands(turn)?)
        });
    }

    /// The application's backend has decided about a publication: the answer to
    /// [`Action::AskPublish`].
    pub fn publish_decided(
        &mut self,
        cx: &Context<'_>,
        request: u32,
        decision: Decision<Option<Replacement>>,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| match &mut session.state {
            State::Live(live) => live.decided(turn, request, decision),
            State::Opening(_) | State::Closed => Ok(()),
        });
    }

    /// The application's server wants something of this session.
    ///
    /// # Errors
    /// Why it was not done: 101 it is not connected, 102 or 103 the channel is none that may be
    /// named, 105 it is subscribed already, 106 it has as many subscriptions as it may have, 111
    /// too much waits for the answer to its connect.
    pub fn command(
        &mut self,
        cx: &Context<'_>,
        command: ServerCommand,
        out: &mut Vec<Action>,
    ) -> Result<(), ErrorCode> {
        let mut done = Err(ErrorCode::Unauthorized);
        self.turn(cx, out, |session, turn| match &mut session.state {
            State::Live(live) => {
                done = live.server_command(turn, command)?;
                Ok(())
            }
            _ => match command {
                ServerCommand::Disconnect(why) => Err(why),
                _ => Ok(()),
            },
        });
        match self.is_closed() {
            // It ended by the command, or has nothing any more that could be changed.
            true => Ok(()),
            false => done,
        }
    }

    /// A hub answered. Answers to what the session does not wait for are passed over.
    pub fn complete(
        &mut self,
        cx: &Context<'_>,
        token: u64,
        answer: Answer,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |session, turn| {
            if let State::Live(live) = &mut session.state {
                live.complete(turn, token, answer);
            }
            session.joined(turn)
        });
    }

    /// Whether the request with this token is one of the client's publishes, and not answered yet.
    pub fn is_publishing(&self, token: u64) -> bool {
        matches!(&self.state, State::Live(live) if live.is_publishing(token))
    }

    /// A hub says something unasked.
    pub fn notice(&mut self, cx: &Context<'_>, notice: Notice, out: &mut Vec<Action>) {
        self.turn(cx, out, |session, turn| match &mut session.state {
            State::Live(live) => live.notice(turn, notice),
            State::Opening(_) | State::Closed => Ok(()),
        });
    }

    /// Bytes were written to the client: call it when the outbox has fallen to
    /// `bulk_low_water_bytes` or below while [`Session::wants_drain`], which any input may change.
    pub fn drained(&mut self, cx: &Context<'_>, out: &mut Vec<Action>) {
        self.turn(cx, out, |session, turn| {
            if let State::Live(live) = &mut session.state {
                live.next_bulk(turn);
            }
            session.waiting_commands(turn)
        });
    }

    /// Whether bulk answers or commands wait for the outbox to drain.
    pub fn wants_drain(&self) -> bool {
        self.is_behind() || matches!(&self.state, State::Live(live) if live.wants_drain())
    }

    /// Whether its connect was answered. Until then nothing that hubs deliver may be sent: the
    /// driver holds it back, and sends it behind what the session says when this has become true.
    pub fn is_connected(&self) -> bool {
        matches!(&self.state, State::Live(live) if !live.is_joining())
    }

    /// Whether commands wait for the outbox to drain.
    pub fn is_behind(&self) -> bool {
        self.rest.is_some() && self.is_connected()
    }

    /// Time has passed: call it at [`Session::deadline`] or later.
    pub fn tick(&mut self, cx: &Context<'_>, out: &mut Vec<Action>) {
        self.turn(cx, out, |session, turn| {
            match &mut session.state {
                State::Opening(opening) => opening.tick(turn)?,
                State::Live(live) => live.tick(turn)?,
                State::Closed => {}
            }
            session.joined(turn)
        });
    }

    /// When `tick` is wanted next, in ms of the monotonic clock; `None` once closed.
    pub fn deadline(&self) -> Option<u64> {
        match &self.state {
            State::Opening(opening) => Some(opening.deadline()),
            State::Live(live) => Some(live.deadline()),
            State::Closed => None,
        }
    }

    /// Ends the session from here: 3001 when the node drains, 3008 for a full outbox, …
    pub fn shutdown(&mut self, cx: &Context<'_>, why: Disconnect, out: &mut Vec<Action>) {
        self.turn(cx, out, |_, _| Err(why));
    }

    /// What was wrong with the frame that ended the session, if that was why; for logs. Holds
    /// nothing of what the client sent.
    pub fn fault(&self) -> Option<&CodecError> {
        self.fault.as_deref()
    }

    /// Whether it has ended: no input changes anything any more.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether one of its subscriptions is by a token that is revoked.
    pub fn has_revoked_token(&self, revoked: impl Fn(&TokenRef) -> bool) -> bool {
        match &self.state {
            State::Live(live) => live.has_revoked_token(revoked),
            _ => false,
        }
    }

    /// Tokens were revoked: subscriptions that are the client's by one of them end, and it is told by
    /// pushes with code 2000.
    pub fn tokens_revoked(
        &mut self,
        cx: &Context<'_>,
        revoked: impl Fn(&TokenRef) -> bool,
        out: &mut Vec<Action>,
    ) {
        self.turn(cx, out, |s, turn| {
            if let State::Live(live) = &mut s.state {
                live.tokens_revoked(turn, revoked);
            }
            Ok::<(), Disconnect>(())
        });
    }

    /// What the client of a connected session says of the program that it is part of.
    pub fn app(&self) -> Option<&App> {
        match &self.state {
            State::Live(live) => live.app.as_deref(),
            _ => None,
        }
    }

    /// The client id of a connected session.
    pub fn client(&self) -> Option<&str> {
        match &self.state {
            State::Live(live) => Some(&live.person().client),
            _ => None,
        }
    }

    /// The instance and user of a connected session.
    pub fn identity(&self) -> Option<(&gb6_core_model::InstanceId, &str)> {
        match &self.state {
            State::Live(live) => Some(live.identity()),
            _ => None,
        }
    }

    /// Answers the connect where that has become possible, and goes on behind it.
    fn joined(&mut self, turn: &mut Turn<'_>) -> Result<(), CloseReason> {
        let State::Live(live) = &mut self.state else {
            return Ok(());
        };
        let (joined, commands) = live.take_joined(turn);
        match joined {
            Joined::No => Ok(()),
            Joined::All(reply, subs) => {
                connected(turn, live, reply, subs);
                for command in commands {
                    // Nobody waits for what becomes of it.
                    if let Err(code) = live.server_command(turn, command)? {
                        turn.fail(0, code);
                    }
                }
                Ok(self.waiting_commands(turn)?)
            }
            Joined::Failed(id, code) => {
                live.leave_all(turn);
                if turn.cx.config.unidirectional {
                    return Err(end_for(code).into());
                }
                turn.fail(id, code);
                self.state = State::Opening(Box::new(Opening::refused(turn.cx)));
                Ok(self.waiting_commands(turn)?)
            }
        }
    }

    /// Runs one input: its replies leave in one frame, then the end of the session, if it ends.
    fn turn<E: Into<CloseReason>>(
        &mut self,
        cx: &Context<'_>,
        out: &mut Vec<Action>,
        input: impl FnOnce(&mut Self, &mut Turn<'_>) -> Result<(), E>,
    ) {
        if self.is_closed() {
            return;
        }
        let mut turn = Turn::new(cx, self.id, self.dialect, out);
        let result = input(self, &mut turn).map_err(Into::into);
        let result = result.and_then(|()| match &mut self.state {
            State::Live(live) => Ok(live.failed(&turn, turn.failures)?),
            State::Opening(_) | State::Closed => Ok(()),
        });
        turn.flush();
        if let Err(why) = result {
            self.state = State::Closed;
            self.rest = None;
            out.push(Action::Close(why));
        }
    }
}
