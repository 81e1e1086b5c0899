//! A subscription as the session keeps it, and what its client is told of its beginning and end.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Channel, Offset, Unsubscribed};
use gb6_core_wire::client::{Publication, Push, Reply, Subscribe, SubscribeResult, Unsubscribe};
use gb6_core_wire::mesh::Person;

use super::reply::Turn;
use crate::following::Following;
use crate::request::{Request, SubscribeAnswer};
use crate::revocation::TokenRef;

/// A subscription of this session.
pub(super) struct Subscription {
    pub(super) channel: Channel,
    /// The request that will make it one; 0: it is. [`VERIFYING`]: none has been made yet.
    pub(super) pending: u64,
    /// What it has that a plain one has not.
    pub(super) terms: Option<Box<Terms>>,
}

/// In [`Subscription::pending`]: its token is being verified.
pub(super) const VERIFYING: u64 = u64::MAX;

/// What a subscription has that one which the client may have for the asking has not.
pub(super) struct Terms {
    /// The server began it.
    pub(super) server_side: bool,
    /// Who the session is in this channel, where that is not what it is everywhere.
    pub(super) person: Option<Arc<Person>>,
    /// When it expires, in ms of the monotonic clock.
    pub(super) expires: Option<u64>,
    /// Of one to a prefix: how far it is in the shards.
    pub(super) following: Option<Arc<Following>>,
    /// The token that the client has it by.
    pub(super) token: Option<TokenRef>,
}

impl Default for Terms {
    /// Of a subscription that the client has by a token.
    fn default() -> Self {
        Self {
            server_side: false,
            person: None,
            expires: None,
            following: None,
            token: None,
        }
    }
}

impl Subscription {
    /// Whether it is one, and by a token for this channel or by the server's own will. What stands for
    /// many channels proves nothing of one.
    pub(super) fn is_proof(&self) -> bool {
        self.pending != VERIFYING && self.terms.is_some() && self.following().is_none()
    }

    /// Of one to a prefix: how far it is in the shards.
    pub(super) fn following(&self) -> Option<&Arc<Following>> {
        self.terms.as_ref()?.following.as_ref()
    }

    /// The token that the client has it by.
    pub(super) fn token(&self) -> Option<&TokenRef> {
        self.terms.as_ref()?.token.as_ref()
    }

    /// What ends it.
    pub(super) fn leaving(&self) -> Request {
        match self.following() {
            Some(following) => Request::Unfollow(following.clone()),
            None => Request::Unsubscribe,
        }
    }

    pub(super) fn is_server_side(&self) -> bool {
        self.terms.as_ref().is_some_and(|t| t.server_side)
    }
}

/// To whom the beginning of a subscription is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// The client asked for it: by the reply.
    Reply,
    /// It is one of the connect's: by the answer to that.
    Connect,
    /// The server began it later: by a push.
    Push,
}

/// What is made from a hub's answer to a subscribe.
pub(super) struct Subscribing {
    pub(super) channel: Channel,
    pub(super) told: Told,
    pub(super) features: Features,
    /// Data of the application for the client.
    pub(super) data: Bytes,
    /// How long the client should gather publishes, in ms.
    pub(super) debounce: u32,
}

/// What a subscription was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Features {
    pub(super) positioned: bool,
    pub(super) recoverable: bool,
    pub(super) was_recovering: bool,
    /// Whether the client wants an error rather than a subscription without recovery.
    pub(super) or_fail: bool,
    /// Whether publications are told as differences.
    pub(super) delta: bool,
}

/// The push of a subscription that the server began, with what was recovered behind it.
pub(super) fn tell_subscribed(turn: &mut Turn<'_>, channel: &Channel, result: SubscribeResult) {
    let push = |push: Push| Push {
        channel: channel.as_str().to_owned(),
        ..push
    };
    turn.say(&Reply::push(push(Push {
        subscribe: Some(Subscribe {
            recoverable: result.recoverable,
            epoch: result.epoch,
            offset: result.offset,
            positioned: result.positioned,
            data: result.data,
        }),
        ..Push::default()
    })));
    for publication in result.publications {
        turn.say(&Reply::push(push(Push {
            publication: Some(publication),
            ..Push::default()
        })));
    }
}

pub(super) fn subscribe_result(
    answer: &SubscribeAnswer,
    what: Subscribing,
    ttl: Option<u32>,
    as_text: bool,
) -> SubscribeResult {
    let features = what.features;
    let position: Option<(Offset, String)> = features
        .positioned
        .then(|| (answer.offset, answer.epoch.to_string()));
    let (offset, epoch) = position.unwrap_or_default();
    let publications = answer.publications.iter();
    SubscribeResult {
        expires: ttl.is_some(),
        ttl: ttl.unwrap_or(0),
        recoverable: features.recoverable,
        positioned: features.positioned,
        epoch,
        offset,
        publications: publications
            .map(|recent| match as_text {
                true => Publication::whole_as_text(&recent.publication),
                false => Publication::from(&recent.publication),
            })
            .collect(),
        recovered: answer.recovered,
        was_recovering: features.was_recovering,
        data: what.data,
        delta: features.delta,
        id: answer.number,
        publish_debounce: what.debounce,
        ..SubscribeResult::default()
    }
}

pub(super) fn unsubscribe_push(channel: &Channel, why: Unsubscribed) -> Reply {
    Reply::push(Push {
        channel: channel.as_str().to_owned(),
        unsubscribe: Some(Unsubscribe::from(why)),
        ..Push::default()
    })
}
