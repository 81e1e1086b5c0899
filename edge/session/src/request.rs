//! What a session asks of a hub and what the hub answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Channel, ErrorCode, InstanceEpoch, Offset, SessionId, Unsubscribed};
use gb6_core_wire::client::{Dialect, TagsFilter};
use gb6_core_wire::mesh::{Person, Publication, RoomRef};
use gb6_core_wire::record::ContentType;

use crate::following::Following;

/// A request of a session to the hub of the room's shard. Every one is answered exactly once,
/// through [`crate::HubOut::complete`] with the same token, unless the session closes first.
#[derive(Clone, Debug)]
pub struct HubRequest {
    /// The session's number for the answer.
    pub token: u64,
    /// The session that asks.
    pub session: SessionId,
    /// The room that it is about: decides the shard, and so the hub.
    pub room: RoomRef,
    /// What is asked.
    pub request: Request,
}

/// What a session asks.
#[derive(Clone, Debug)]
pub enum Request {
    /// To become a subscriber of the room.
    Subscribe(Box<SubscribeQuery>),
    /// To be one no longer. Always succeeds.
    Unsubscribe,
    /// To be told what is published in every room whose name begins like the one that the request
    /// names, which ends in `*`. It goes to every shard in which the subscription is; the last to
    /// have begun answers `Subscribed`, the first that can not, `Failed`.
    Follow(Box<FollowQuery>),
    /// To be so no longer, of the subscription that a `Follow` made: also to be asked once for one
    /// that failed. It goes to the same shards, always succeeds, and the last of them answers.
    Unfollow(Arc<Following>),
    /// That others see this of a subscriber that is present from here on. Of no effect where it is no
    /// subscriber, or nobody is told that it is there.
    Introduce(Arc<Person>),
    /// To write a publication.
    Publish(Box<PublishQuery>),
    /// Who is present; `entries`: the people and not only their number.
    Presence {
        /// Whether the people are wanted.
        entries: bool,
    },
    /// A page of history, or the position alone.
    History(HistoryQuery),
    /// That nothing which the room has now, or nothing below an offset, be shown any more.
    RemoveHistory {
        /// The instance epoch that the asker was routed by.
        instance_epoch: InstanceEpoch,
        /// The first offset that stays nevertheless; `None`: none does.
        first: Option<Offset>,
    },
    /// Where a record lies and how it got there.
    Trace {
        /// The record's room offset.
        offset: Offset,
    },
    /// Which edges have sessions of a user, whose own channel `#user` the room is.
    EdgesOf {
        /// The snapshot revision that the asker routed by.
        revision: u64,
    },
    /// The status of a user, whose own channel `#user` the room is, or a change of it.
    UserStatus {
        /// The instance epoch that the asker was routed by.
        instance_epoch: InstanceEpoch,
        /// What is wanted of it.
        wanted: StatusWanted,
    },
}

/// What is wanted of the status of a user.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StatusWanted {
    /// To read it.
    Get,
    /// That the user is active now.
    Update {
        /// What it says of itself from now on, at most `limits::USER_STATE_BYTES_MAX`; empty: what it
        /// said.
        state: String,
    },
    /// That nothing be known of it.
    Delete,
}

/// How a session wants to be subscribed.
#[derive(Clone, Debug)]
pub struct SubscribeQuery {
    /// The encoding of what it is sent.
    pub dialect: Dialect,
    /// Whether it gets join and leave pushes.
    pub join_leave: bool,
    /// Who is present in the room while the subscription lasts; `None`: nobody is told.
    pub presence: Option<Arc<Person>>,
    /// Where to go on from; `None`: from the room's current top.
    pub recover: Option<RecoverFrom>,
    /// What it is delivered, and in which form.
    pub delivery: Delivery,
}

impl Request {
    /// Whether it makes room, and so is never refused.
    pub fn leaves(&self) -> bool {
        matches!(self, Request::Unsubscribe | Request::Unfollow(_))
    }
}

/// How a session wants to follow a prefix.
#[derive(Clone, Debug)]
pub struct FollowQuery {
    /// The encoding of what it is sent.
    pub dialect: Dialect,
    /// The publications that it wants; `None`: all.
    pub filter: Option<Arc<TagsFilter>>,
    /// Who it is, where it does not want publications of its own connection.
    pub without_own: Option<Arc<Person>>,
    /// The subscription, in all its shards.
    pub following: Arc<Following>,
}

/// What of a room's events a subscriber is delivered, and in which form; by default everything,
/// whole, in replies that name the channel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delivery {
    /// A number in place of the channel's name, where the edge has one to give.
    pub compact: bool,
    /// Differences between publications (format fossil). Not together with `filter`.
    pub delta: bool,
    /// The publications that it wants; `None`: all.
    pub filter: Option<Arc<TagsFilter>>,
    /// Who it is, where it does not want publications of its own connection.
    pub without_own: Option<Arc<Person>>,
}

/// The position that a client wants to go on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoverFrom {
    /// The last offset that it has; 0: none.
    pub offset: Offset,
    /// The stream epoch that it knows; empty: any.
    pub epoch: String,
    /// Publications that may be recovered at most.
    pub publications_max: usize,
    /// Encoded bytes that may be recovered at most.
    pub bytes_max: usize,
    /// Only the newest publication is wanted, if the client has not got it, whatever lies between.
    pub newest_only: bool,
    /// Fail with 112, without a subscription, where the position can not be continued.
    pub or_fail: bool,
}

/// A publication to be written.
#[derive(Clone, Debug)]
pub struct PublishQuery {
    /// The instance epoch that the publisher was routed by.
    pub instance_epoch: InstanceEpoch,
    /// Who publishes.
    pub from: Arc<Person>,
    /// The client's message id; empty: none.
    pub id: Bytes,
    /// The data.
    pub data: Bytes,
    /// How the data is to be read.
    pub content_type: ContentType,
    /// Tags to show to clients.
    pub tags: BTreeMap<String, String>,
    /// W3C trace context; empty: none.
    pub traceparent: String,
    /// Write it only if it is newer than what was written; `None`: in any case.
    pub version: Option<Version>,
    /// Write it only as the next one behind this offset; where another is the newest it fails with
    /// 112. `None`: in any case.
    pub after: Option<Offset>,
    /// Whether it is kept nowhere: it is delivered at most once and gets no offset. It has no `id`
    /// then.
    pub signal: bool,
    /// Of a signal, whether its channel keeps other publications: it goes past them.
    pub unkept: bool,
}

/// The version of a publication among those of its room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// Its number, above 0: it is newer than lower ones of its epoch.
    pub number: u64,
    /// Versions of different epochs are not compared; empty: compared with any.
    pub epoch: String,
}

/// Which page of history is wanted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HistoryQuery {
    /// Read after this offset (before it when `reverse`); `None`: from the first kept offset, or
    /// from the newest when `reverse`.
    pub since: Option<Offset>,
    /// Newest first.
    pub reverse: bool,
    /// Publications at most; 0: only the position.
    pub limit: u32,
    /// Bytes at most, where the first publication always fits.
    pub bytes: u64,
}

/// A publication that the hub holds, with what it costs to send.
#[derive(Clone, PartialEq, Debug)]
pub struct Recent {
    /// The publication.
    pub publication: Publication,
    /// Its size in JSON in bytes, with its data as they are: what counts against a budget.
    pub cost: usize,
}

/// The token of [`Answer::Arrived`], which answers no request: requests count up from below.
pub const ARRIVAL: u64 = u64::MAX;

/// The answer to a [`Request`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Subscribe`: every publication behind `position` (and behind the recovered ones) follows.
    Subscribed(Box<SubscribeAnswer>),
    /// To `Unsubscribe`: nothing of the room follows.
    Unsubscribed,
    /// To `Introduce`.
    Introduced,
    /// To `Publish`: it is durable; a signal was handed on, and has no offset.
    Published(PublishAnswer),
    /// To `Presence`.
    Presence(Box<PresenceAnswer>),
    /// To `History`.
    History(Box<HistoryAnswer>),
    /// To `RemoveHistory`: it is durable.
    HistoryRemoved,
    /// To `Trace`.
    Traced(TraceAnswer),
    /// To `EdgesOf`. Shared by all who asked.
    EdgesOf(Arc<EdgesAnswer>),
    /// To `UserStatus`; of a change, empty. Shared by all who asked.
    UserStatus(Arc<StatusAnswer>),
    /// To whoever waits until the owner has heard of its user ([`ARRIVAL`]): whether it has.
    Arrived(bool),
    /// To any: it failed. A subscribe that failed has no subscriber.
    Failed(ErrorCode),
}

/// The subscription that begins.
#[derive(Clone, PartialEq, Debug)]
pub struct SubscribeAnswer {
    /// The room's stream epoch.
    pub epoch: Arc<str>,
    /// Where the subscription begins: the offset that was asked for when `recovered`, else the
    /// room's current top as this edge knows it; that also when only the newest publication was
    /// wanted.
    pub offset: Offset,
    /// Whether the position asked for is continued without a hole.
    pub recovered: bool,
    /// The publications between, ascending; those that it does not want are left out.
    pub publications: Vec<Arc<Recent>>,
    /// The channel's number in pushes; 0: they carry its name.
    pub number: i64,
}

/// A durable publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PublishAnswer {
    /// Its offset.
    pub offset: Offset,
    /// The room's generation: with instance and channel it gives the stream epoch.
    pub generation: u32,
    /// The record's time, Unix ms.
    pub time: i64,
    /// Whether the client's id had been written before.
    pub duplicate: bool,
}

/// Who is present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceAnswer {
    /// People, when asked for: at most `limits::PRESENCE_ENTRIES_MAX`. Shared by all who asked.
    pub entries: Arc<[Person]>,
    /// Connections present.
    pub clients: u32,
    /// Different users among them.
    pub users: u32,
}

/// Which edges have sessions of a user, as the owner of the user's shard knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgesAnswer {
    /// Their node ids.
    pub edges: Vec<String>,
    /// How many edges have reported all of their users.
    pub reported: u32,
    /// The `gb6_core_wire::mesh::edges_sum` of those.
    pub reported_sum: u64,
}

/// The status of a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatusAnswer {
    /// When it was active last, in Unix seconds; 0: not known.
    pub active: i64,
    /// When it was connected last, in Unix seconds; 0: not known.
    pub online: i64,
    /// What it says of itself; empty: nothing.
    pub state: String,
}

/// A page of history. Pages may be shared between sessions that asked for the same.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryAnswer {
    /// The publications, in the order asked for.
    pub publications: Arc<[Publication]>,
    /// The newest committed offset; 0: empty.
    pub top: Offset,
    /// The oldest kept offset.
    pub first: Offset,
    /// The room's generation.
    pub generation: u32,
    /// Set when the page could not be read from there (112): top and generation are valid.
    pub error: Option<ErrorCode>,
}

/// Where a record lies and how it got there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceAnswer {
    /// The shard's number.
    pub shard: u32,
    /// The shard epoch of the current owner.
    pub shard_epoch: u64,
    /// From the batch's append to the end of its sync in µs; 0: no longer known.
    pub sync_us: u64,
    /// Records that shared that sync; 0: no longer known.
    pub batch: u32,
}

/// What a hub tells a session unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The subscription has ended here: the client is told by an unsubscribe push.
    Unsubscribed {
        /// The channel.
        channel: Channel,
        /// Why.
        why: Unsubscribed,
    },
}
