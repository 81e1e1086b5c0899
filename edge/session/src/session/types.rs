//! What goes into a session machine and what comes out of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gb6_core_model::snapshot::{CommandRate, Instance, Snapshot};
use gb6_core_model::{Caps, Channel, ErrorCode, InstanceId, SessionId};
use gb6_core_wire::client::{ConnectRequest, Dialect};

use super::server::CloseReason;
use crate::request::HubRequest;
use crate::revocation::TokenRef;

/// Settings that all sessions of a listener share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// From one ping of the server to the next, in ms; 0: none. A multiple of 1,000: clients are
    /// told seconds.
    pub ping_interval_ms: u64,
    /// How long the answer to a ping may take, in ms, before the session ends with 3012.
    pub pong_timeout_ms: u64,
    /// How long a connection may stay without an accepted connect command, in ms, before it ends
    /// with 3502.
    pub connect_timeout_ms: u64,
    /// How long a session outlives its token, in ms, before it ends with 3005.
    pub expiry_grace_ms: u64,
    /// Bytes that may wait in the outbox when the next bulk answer (history, recovery,
    /// presence) is begun.
    pub bulk_low_water_bytes: usize,
    /// Bytes that may wait in the outbox when the next command is carried out; others wait until it
    /// has fallen to `bulk_low_water_bytes`.
    pub commands_high_water_bytes: usize,
    /// Bulk requests that may wait their turn in one session, besides recovering subscribes;
    /// further ones are answered 111.
    pub bulk_waiting_max: usize,
    /// How long behind its command the answer to a connect may wait for its server-side
    /// subscriptions, in ms, before it is an error: less than SDKs wait for it, which is 5 s. They
    /// have an eighth of it at least, also where its token took longer to be verified.
    pub connect_subscriptions_ms: u64,
    /// Commands of one session that may wait for its subscription tokens to be verified, or for the
    /// application's backend to be asked; further ones are answered 111.
    pub verifying_waiting_max: usize,
    /// Publications of one session about which the application's backend may be asked at once;
    /// further ones are answered 111.
    pub asking_max: usize,
    /// Commands that may fail at once, and a second, through the client's own doing, before the
    /// session ends with 3509.
    pub errors_max: CommandRate,
    /// How long nothing may have been recovered, in ms, before a recovering subscribe counts as the
    /// first of a new attempt, with a whole budget.
    pub recovery_rest_ms: u64,
    /// Requests of one session that may be unanswered; further ones are answered 111.
    pub in_flight_max: usize,
    /// Whether clients say nothing behind their connect: they answer no pings, and an error in
    /// place of the connect's result ends the connection.
    pub unidirectional: bool,
    /// This server's version, told to clients.
    pub version: String,
    /// This node's id, told to clients for transports of two connections.
    pub node: String,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            ping_interval_ms: 25_000,
            pong_timeout_ms: 8_000,
            connect_timeout_ms: 10_000,
            expiry_grace_ms: 25_000,
            bulk_low_water_bytes: 64 * 1024,
            commands_high_water_bytes: 256 * 1024,
            bulk_waiting_max: 128,
            connect_subscriptions_ms: 4_000,
            verifying_waiting_max: 128,
            asking_max: 32,
            errors_max: CommandRate {
                per_second: 50,
                burst: 4_096,
            },
            recovery_rest_ms: 5_000,
            in_flight_max: 4_096,
            unidirectional: false,
            version: String::new(),
            node: String::new(),
        }
    }
}

/// What makes one session different from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionSeed {
    /// The session's number at this edge incarnation; never used again.
    pub session: SessionId,
    /// 128 random bits: the session id that its client alone is told. Whoever knows it can send
    /// commands in its name.
    pub secret: u128,
    /// The client id that other clients see; must be unique in the mesh (a UUID).
    pub client: String,
    /// How the client's bytes are encoded.
    pub dialect: Dialect,
    /// The instance that the host name or the listener names: where a connection without a token
    /// belongs, if that has any.
    pub instance: InstanceId,
    /// A random number: spreads the first ping over half an interval.
    pub spread: u32,
}

/// What a call may look at: passed to every input of a session.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The monotonic clock in ms.
    pub now_ms: u64,
    /// The wall clock, Unix ms.
    pub unix_ms: i64,
    /// The placement snapshot: instances, namespaces, rates.
    pub snapshot: &'a Snapshot,
    /// Settings.
    pub config: &'a SessionConfig,
    /// Where events are counted.
    pub counters: &'a SessionCounters,
    /// Bytes that wait to be written to the client.
    pub outbox_bytes: usize,
    /// The limits that the session shares with others; `None`: none.
    pub limits: Option<&'a dyn SharedLimits>,
}

/// Limits of commands that a session shares with other sessions: of its user and of its instance.
pub trait SharedLimits: std::fmt::Debug {
    /// Takes one command of `instance`, the session's own; `false`: one of the limits is reached,
    /// and nothing is taken.
    fn take(&self, now_ms: u64, instance: &Instance) -> bool;
}

/// What the driver must do, in order.
#[derive(Clone, Debug)]
pub enum Action {
    /// Queue this complete WebSocket frame.
    Send(Bytes),
    /// Verify this connection token and call `Session::verified` with the same number.
    Verify {
        /// The number.
        request: u32,
        /// The token as the client sent it.
        token: String,
    },
    /// Verify this subscription token and call `Session::subscription_verified` with the same
    /// number, in any case and within seconds. The token is for this channel.
    VerifySubscription {
        /// The number.
        request: u32,
        /// The channel.
        channel: Channel,
        /// The token as the client sent it.
        token: String,
    },
    /// A connection without a token, which its instance allows: do for these claims what is done
    /// when a token was good, and call `Session::verified` with the same number.
    Admit {
        /// The number.
        request: u32,
        /// What the connection is and may do.
        claims: Box<Claims>,
    },
    /// Ask the instance's connect proxy about this connection without a token. Of claims do what is
    /// done when a token was good, and call `Session::verified` with the same number; of any other
    /// answer tell `Session::connect_decided`, in any case and within seconds.
    AskConnect {
        /// The number.
        request: u32,
        /// The client id.
        client: String,
        /// What the client says.
        connect: Box<ConnectRequest>,
    },
    /// Ask the instance's publish proxy about these data for this channel, and call
    /// `Session::publish_decided` with the same number, in any case and within seconds.
    AskPublish {
        /// The number.
        request: u32,
        /// The channel.
        channel: Channel,
        /// The data as the client sent them.
        data: Bytes,
    },
    /// Hand this to the hub of the room's shard. Where there is no hub for the room, call
    /// `Session::complete` with `Answer::Failed(ErrorCode::OwnerMoving)`.
    Hub(HubRequest),
    /// A subscription has ended while the session goes on, and its instance wants to hear of that.
    SubscriptionEnded {
        /// The channel.
        channel: Channel,
        /// The code; 0: the client wanted it no longer.
        code: u32,
        /// Why, for people.
        reason: &'static str,
    },
    /// Write what is queued, then close with this code and reason. Nothing comes behind it; call
    /// `Hub::session_closed` on every hub that got a request of this session.
    Close(CloseReason),
}

/// How the client framed its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A WebSocket text frame.
    Text,
    /// A WebSocket binary frame.
    Binary,
}

/// What a verified connection token says, or the application's backend in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The instance whose key verified it, or whose backend says so.
    pub instance: InstanceId,
    /// The user; empty: anonymous.
    pub user: String,
    /// Info about the connection that other clients see: JSON, or empty.
    pub info: Bytes,
    /// What the connection may do.
    pub caps: Caps,
    /// When the connection expires, Unix ms; `None`: never.
    pub expires_unix_ms: Option<i64>,
    /// Channels that the server subscribes the connection to (claims `channels` and `subs`), with
    /// what it is given there.
    pub subscriptions: BTreeMap<String, SubscriptionGrant>,
    /// Data for the client, in the answer to its connect: JSON, or empty.
    pub data: Bytes,
    /// What only the application's backend is shown of the connection: JSON, or empty. Sessions
    /// pass it over.
    pub meta: Bytes,
    /// Whether the client is told when the connection expires, so that it brings another token in
    /// time. One that a backend let in has none to bring: it connects again.
    pub client_refreshes: bool,
}

/// What a token gives a subscription besides the right to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubscriptionGrant {
    /// Info about the connection in this channel that other clients see: JSON, or empty.
    pub info: Bytes,
    /// Data for the client, in the answer to its subscribe: JSON, or empty.
    pub data: Bytes,
    /// What is otherwise than the namespace has it.
    pub overrides: Overrides,
    /// When the subscription expires, Unix ms; `None`: never.
    pub expires_unix_ms: Option<i64>,
}

/// Rules of the namespace that one subscription is not bound to; `None`: as the namespace has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// Whether presence is kept.
    pub presence: Option<bool>,
    /// Whether its coming and going is told to others.
    pub join_leave: Option<bool>,
    /// Whether it is told of others' coming and going without having asked.
    pub force_push_join_leave: Option<bool>,
    /// Whether it can be recovered without having asked.
    pub force_recovery: Option<bool>,
    /// Whether it is told its position without having asked.
    pub force_positioning: Option<bool>,
}

/// What a verified subscription token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionClaims {
    /// The instance whose key verified it.
    pub instance: InstanceId,
    /// The user; empty: anonymous.
    pub user: String,
    /// The channel that it is for.
    pub channel: String,
    /// The only client id that may use it; `None`: any of the user's.
    pub client: Option<String>,
    /// What it gives.
    pub grant: SubscriptionGrant,
    /// By what the token can be revoked.
    pub token: TokenRef,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenError {
    /// It was valid and is not any more: the client should fetch another.
    Expired,
    /// It never was valid here.
    Invalid,
    /// It could not be checked now; trying again may help.
    Unavailable,
}

macro_rules! counters {
    (
        $(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident,)+ }
        and $(#[$mdoc:meta])* $more:ident: $type:ty
    ) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: AtomicU64,)+
            $(#[$mdoc])* pub $more: $type,
        }

        impl $name {
            /// Every counter with its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Events of all sessions that share it: each field only grows.
    SessionCounters {
        /// Connections whose connect was accepted.
        connected,
        /// Tokens that were not accepted, at connect, for a subscription, or at a refresh.
        tokens_refused,
        /// Commands read.
        commands,
        /// Commands answered with an error.
        errors,
        /// Commands refused by the rate of the user or the instance.
        shared_rate_refused,
        /// Commands refused by the connection's rate.
        rate_refused,
        /// Frames that could not be read.
        bad_frames,
        /// Subscriptions begun.
        subscribed,
        /// Subscriptions that asked for recovery and got it.
        recovered,
        /// Subscriptions that asked for recovery and did not get it.
        not_recovered,
        /// Publications acknowledged.
        published,
        /// Pages of history answered.
        history_pages,
        /// Pings sent.
        pings,
        /// Sessions that ended for want of a pong.
        no_pong,
        /// Sessions that ended because their token was not refreshed.
        expired,
        /// Connections that sent no connect in time.
        stale,
        /// Subscriptions that ended because their token was not refreshed.
        subscriptions_expired,
        /// Subscriptions that ended because their token was revoked.
        subscriptions_revoked,
        /// Connects that were refused because a server-side subscription could not begin.
        connects_unready,
        /// Sessions that ended because too many of their commands failed.
        too_many_errors,
    }
    and
    /// Commands answered with an error, by its code.
    error_codes: ErrorCounts
}

/// How often each error was answered.
#[derive(Debug, Default)]
pub struct ErrorCounts([AtomicU64; ErrorCode::ALL.len()]);

impl ErrorCounts {
    pub(crate) fn count(&self, code: ErrorCode) {
        let at = ErrorCode::ALL.iter().position(|c| *c == code);
        if let Some(counter) = at.and_then(|at| self.0.get(at)) {
            count(counter);
        }
    }

    /// Every code with its count.
    pub fn all(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        let counts = self.0.iter().map(|c| c.load(Ordering::Relaxed));
        ErrorCode::ALL.iter().copied().zip(counts)
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
