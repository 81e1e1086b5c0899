//! From the transport to an accepted connect: nothing else is done before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Caps, Disconnect, ErrorCode, InstanceId};
use gb6_core_wire::client::{
    Command, ConnectRequest, ConnectResult, Method, SubscribeRequest, SubscribeResult,
};
use gb6_core_wire::mesh::Person;

use super::Closes;
use super::decision::Decision;
use super::live::Live;
use super::options::Options;
use super::reply::Turn;
use super::server::CloseReason;
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
    app: Option<Box<App>>,
}

/// What a client says of the program that it is part of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct App {
    /// Its name, cut to [`App::BYTES_MAX`].
    pub name: Box<str>,
    /// Its version, cut likewise.
    pub version: Box<str>,
}

impl App {
    /// Longest name and version that are kept, in bytes: every idle connection has them.
    pub const BYTES_MAX: usize = 32;

    /// `None`: it says nothing.
    fn of(connect: &ConnectRequest) -> Option<Box<Self>> {
        let kept = |text: &str| text[..text.floor_char_boundary(Self::BYTES_MAX)].into();
        let says = !connect.name.is_empty() || !connect.version.is_empty();
        says.then(|| {
            Box::new(Self {
                name: kept(&connect.name),
                version: kept(&connect.version),
            })
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The connect command has not come.
    Waiting,
    /// Its token is being verified.
    Verifying {
        /// Its id.
        id: u32,
        /// When it came, in ms of the monotonic clock.
        since: u64,
    },
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
            app: None,
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
            app: None,
        }
    }

    /// Whether commands behind the connect have to wait.
    pub(super) fn is_verifying(&self) -> bool {
        matches!(self.step, Step::Verifying { .. })
    }

    pub(super) fn command(&mut self, turn: &mut Turn<'_>, command: Command) -> Closes {
        match self.step {
            // A refused connection is unusable: what follows is neither done nor answered.
            Step::Refused | Step::Verifying { .. } => Ok(()),
            Step::Waiting => {
                count(&turn.cx.counters.commands);
                let Method::Connect(connect) = command.method() else {
                    return Err(Disconnect::BadRequest);
                };
                if command.id == 0 {
                    return Err(Disconnect::BadRequest);
                }
                self.step = Step::Verifying {
                    id: command.id,
                    since: turn.cx.now_ms,
                };
                self.positions = connect.subs.clone();
                self.options = Options::of(connect, turn.dialect);
                self.app = App::of(connect);
                if !connect.token.is_empty() {
                    turn.verify(CONNECT_VERIFICATION, connect.token.clone());
                } else if self.is_asked_about(turn.cx) {
                    let client = self.client.clone();
                    turn.ask_connect(CONNECT_VERIFICATION, client, connect.clone());
                } else {
                    self.admit_nobody(turn)?;
                }
                Ok(())
            }
        }
    }

    /// Whether the application's backend decides about connections without a token.
    fn is_asked_about(&self, cx: &Context<'_>) -> bool {
        let instance = cx.snapshot.instances.get(&self.instance);
        instance.is_some_and(|i| i.proxies.connect.is_some())
    }

    fn admit_nobody(&mut self, turn: &mut Turn<'_>) -> Closes {
        let nobody = self.nobody(turn.cx).ok_or(Disconnect::BadRequest)?;
        turn.admit(CONNECT_VERIFICATION, nobody);
        Ok(())
    }

    /// The application's backend has decided, and has given no claims.
    pub(super) fn decided(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        decision: Decision<()>,
    ) -> Result<(), CloseReason> {
        let Step::Verifying { id, .. } = self.step else {
            return Ok(());
        };
        if request != CONNECT_VERIFICATION {
            return Ok(());
        }
        match decision {
            // As though nobody had been asked.
            Decision::Allow(()) => Ok(self.admit_nobody(turn)?),
            Decision::Disconnect(why) => Err(why),
            Decision::Error(error) if turn.cx.config.unidirectional => {
                Err(match (ErrorCode::from_code(error.code), error.temporary) {
                    (_, true) => Disconnect::ServerError,
                    (Some(ours), false) => end_for(ours),
                    (None, false) => Disconnect::PermissionDenied,
                }
                .into())
            }
            Decision::Error(error) => {
                self.step = Step::Refused;
                turn.refuse(id, error);
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
            data: Bytes::new(),
            meta: Bytes::new(),
            client_refreshes: true,
        })
    }

    /// `None`: no session begins, or none yet.
    pub(super) fn verified(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        result: Result<Claims, TokenError>,
    ) -> Result<Option<Box<Live>>, Disconnect> {
        let Step::Verifying { id, since } = self.step else {
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
            since,
            secret: self.secret,
            data: std::mem::take(&mut claims.data),
            tells_expiry: claims.client_refreshes,
        };
        let granted = std::mem::take(&mut claims.subscriptions);
        let positions = std::mem::take(&mut self.positions);
        let mut live = Box::new(Live::new(turn.cx, claims, person, self.spread));
        live.options = self.options;
        live.app = self.app.take();
        match live.join(turn, reply, granted, positions)? {
            Err(code) => return self.refuse(turn, id, code),
            Ok(Some(reply)) => connected(turn, &live, reply, BTreeMap::new()),
            Ok(None) => {}
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
pub(super) struct ConnectReply {
    /// The command's id.
    pub(super) id: u32,
    /// When the command came, in ms of the monotonic clock.
    pub(super) since: u64,
    /// What names the session to whoever carries its commands otherwise.
    pub(super) secret: u128,
    /// Data for the client.
    pub(super) data: Bytes,
    /// Whether it is told when it expires.
    pub(super) tells_expiry: bool,
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
    let ttl = ttl.filter(|_| reply.tells_expiry);
    let result = ConnectResult {
        client: live.person().client.clone(),
        version: config.version.clone(),
        expires: ttl.is_some(),
        ttl: ttl.unwrap_or(0),
        data: reply.data,
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
