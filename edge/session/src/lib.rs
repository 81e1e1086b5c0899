//! The pure machines of an edge: one [`Session`] per client connection, one [`Hub`] per shard, one
//! [`RevocationFollower`] per instance, and the [`ConnectPace`] at which sessions begin.
//!
//! None knows sockets, clocks or tasks. A driver feeds a session the client's frames and does
//! the [`Action`]s that come out; an action that names a room goes to the hub of that room's
//! shard, whose answers, deliveries and notices come back through [`HubOut`]. What a hub says to
//! one session must reach it through **one first-in-first-out queue** (frames, answers and
//! notices alike): the order of a subscription's answer and its publications rests on that. What a
//! session asks of one hub must keep its order too.
//!
//! Times are `now_ms`: milliseconds of a monotonic clock of the driver's; wall time is passed
//! apart, in Unix ms, where a wire format wants it.

mod following;
mod held;
mod hub;
mod pace;
mod request;
mod revocation;
mod session;

pub use following::Following;
pub use held::{GivenUp, HeldRequests};
pub use hub::{Detach, Hub, HubConfig, HubCounters, HubGauges, HubOut};
pub use pace::{ConnectLater, ConnectPace, drain_turn};
pub use request::{
    ARRIVAL, Answer, Delivery, EdgesAnswer, FollowQuery, HistoryAnswer, HistoryQuery, HubRequest,
    Notice, PresenceAnswer, PublishAnswer, PublishQuery, Recent, RecoverFrom, Request,
    StatusAnswer, StatusWanted, SubscribeAnswer, SubscribeQuery, TraceAnswer, Version,
};
pub use revocation::{
    Identity, Revocation, RevocationFollower, RevocationPage, RevocationRead, RevocationUpkeep,
    TokenRef, id_of_client, id_of_user,
};
pub use session::{
    Action, App, Claims, CloseReason, Context, Decision, ErrorCounts, FrameKind, Overrides,
    RecoverSince, Replacement, RoomPublished, RoomTraced, ServerCommand, Session, SessionConfig,
    SessionCounters, SessionSeed, SharedLimits, SubscriptionClaims, SubscriptionGrant, TokenError,
    room_channel,
};
