//! From the transport to an accepted connect: nothing else is done before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Caps, Disconnect, ErrorCode, InstanceId};
use gb6_core_wire::client::{Command, ConnectResult, Method, SubscribeRequest, SubscribeResult};
use gb6_core_wire::mesh::Person;

use super::Closes;
use super::live::Live;
use super::options::Options;
use super::reply::Turn;
use super::types::{Claims, Context, SessionSeed, TokenError, count};

/// The number of the connect token's verification; refreshes count on from it.
pub(super) const CONNECT_VERIFICATION: u32 = 0;

/// A session without an accepted connect.
pub(super) struct Opening {
    client: String,
    secret: u128,
    instance: InstanceId,
    spread: u32,
    stale_at: u64,
    step: Step,
    /// What the client has of its server-side subscriptions.
    positions: BTreeMap<String, SubscribeRequest>,
    options: Options,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The connect command has not come.
    Waiting,
    /// Its token is being verified; this is its id.
    Verifying(u32),
    /// It was answered with an error: the client is expected to close.
    Refused,
}

impl Opening {
    pub(super) fn new(cx: &Context<'_>, seed: SessionSeed) -> Self {
        Self {
            client: seed.client,
            secret: seed.secret,
            instance: seed.instance,
            spread: seed.spread,
            stale_at: cx.now_ms + cx.config.connect_timeout_ms,
            step: Step::Waiting,
            positions: BTreeMap::new(),
            options: Options::default(),
        }
    }

    /// A connection whose connect was answered with an error.
    pub(super) fn refused(cx: &Context<'_>) -> Self {
        Self {
            client: String::new(),
            secret: 0,
            instance: InstanceId::from(""),
            spread: 0,
            stale_at: cx.now_ms + cx.config.connect_timeout_ms,
            step: Step::Refused,
            positions: BTreeMap::new(),
            options: Options::default(),
        }
    }

    /// Whether commands behind the connect have to wait.
    pub(super) fn is_verifying(&self) -> bool {
        matches!(self.step, Step::Verifying(_))
    }

    pub(super) fn command(&mut self, turn: &mut Turn<'_>, command: Command) -> Closes {
        match self.step {
            // A refused connection is unusable: what follows is neither done nor answered.
            Step::Refused | Step::Verifying(_) => Ok(()),
            Step::Waiting => {
                count(&turn.cx.counters.commands);
                let Method::Connect(connect) = command.method() else {
                    return Err(Disconnect::BadRequest);
                };
                if command.id == 0 {
                    return Err(Disconnect::BadRequest);
                }
                self.step = Step::Verifying(command.id);
                self.positions = connect.subs.clone();
                self.options = Options::of(connect, turn.dialect);
                if connect.token.is_empty() {
                    let nobody = self.nobody(turn.cx).ok_or(Disconnect::BadRequest)?;
                    turn.admit(CONNECT_VERIFICATION, nobody);
                } else {
                    turn.verify(CONNECT_VERIFICATION, connect.token.clone());
                }
                Ok(())
            }
        }
    }

    /// What a connection without a token is, where the instance allows any.
    fn nobody(&self, cx: &Context<'_>) -> Option<Claims> {
        let instance = cx.snapshot.instances.get(&self.instance)?;
        instance.anonymous.allow.then(|| Claims {
            instance: self.instance.clone(),
            user: String::new(),
            info: Bytes::new(),
            caps: Caps(Some(instance.anonymous.caps.clone())),
            expires_unix_ms: None,
            subscriptions: BTreeMap::new(),
        })
    }

    /// `None`: no session begins, or none yet.
    pub(super) fn verified(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        result: Result<Claims, TokenError>,
    ) -> Result<Option<Box<Live>>, Disconnect> {
        let Step::Verifying(id) = self.step else {
            return Ok(None);
        };
        if request != CONNECT_VERIFICATION {
            return Ok(None);
        }
        let mut claims = match result {
            Ok(claims) if turn.cx.snapshot.instances.contains_key(&claims.instance) => claims,
            // The instance was valid when its key verified the token and is not served any more.
            Ok(_) | Err(TokenError::Unavailable) => {
                return self.refuse(turn, id, ErrorCode::Internal);
            }
            Err(TokenError::Expired) => {
                count(&turn.cx.counters.tokens_refused);
                return self.refuse(turn, id, ErrorCode::TokenExpired);
            }
            Err(TokenError::Invalid) => {
                count(&turn.cx.counters.tokens_refused);
                return Err(Disconnect::InvalidToken);
            }
        };
        let person = Arc::new(Person {
            user: claims.user.clone(),
            client: std::mem::take(&mut self.client),
            conn_info: claims.info.clone(),
            chan_info: Bytes::new(),
        });
        let reply = ConnectReply {
            id,
            secret: self.secret,
        };
        let granted = std::mem::take(&mut claims.subscriptions);
        let positions = std::mem::take(&mut self.positions);
        let mut live = Box::new(Live::new(turn.cx, claims, person, self.spread));
        live.options = self.options;
        if let Err(code) = live.join(turn, reply, granted, positions)? {
            return self.refuse(turn, id, code);
        }
        if !live.is_joining() {
            connected(turn, &live, reply, BTreeMap::new());
        }
        Ok(Some(live))
    }

    /// Answers the connect with an error; where the client reads no replies, ends the connection.
    fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        code: ErrorCode,
    ) -> Result<Option<Box<Live>>, Disconnect> {
        if turn.cx.config.unidirectional {
            return Err(end_for(code));
        }
        self.step = Step::Refused;
        turn.fail(id, code);
        Ok(None)
    }

    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) -> Closes {
        if turn.cx.now_ms < self.stale_at {
            return Ok(());
        }
        count(&turn.cx.counters.stale);
        Err(Disconnect::Stale)
    }

    pub(super) fn deadline(&self) -> u64 {
        self.stale_at
    }
}

/// How a connection ends whose connect failed with `code` and whose client reads no replies.
pub(super) fn end_for(code: ErrorCode) -> Disconnect {
    match code {
        ErrorCode::TokenExpired | ErrorCode::Expired => Disconnect::ConnectionExpired,
        ErrorCode::TooManyRequests => Disconnect::TooManyRequests,
        ErrorCode::PermissionDenied => Disconnect::PermissionDenied,
        _ => Disconnect::ServerError,
    }
}

/// What the answer to a connect is made from besides the session.
#[derive(Clone, Copy)]
pub(super) struct ConnectReply {
    /// The command's id.
    pub(super) id: u32,
    /// What names the session to whoever carries its commands otherwise.
    pub(super) secret: u128,
}

/// Answers the connect command.
pub(super) fn connected(
    turn: &mut Turn<'_>,
    live: &Live,
    reply: ConnectReply,
    subs: BTreeMap<String, SubscribeResult>,
) {
    count(&turn.cx.counters.connected);
    let config = turn.cx.config;
    let ttl = live.ttl_seconds(turn.cx.now_ms);
    let result = ConnectResult {
        client: live.person().client.clone(),
        version: config.version.clone(),
        expires: ttl.is_some(),
        ttl: ttl.unwrap_or(0),
        subs,
        ping: u32::try_from(config.ping_interval_ms / 1000).unwrap_or(u32::MAX),
        pong: config.ping_interval_ms > 0 && !config.unidirectional,
        session: format!("{:032x}", reply.secret),
        node: config.node.clone(),
        time: turn.cx.unix_ms,
        ..ConnectResult::default()
    };
    turn.answer(reply.id, result);
}
