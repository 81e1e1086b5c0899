//! Subscriptions to prefixes: all channels of a namespace whose names begin alike, live and nothing
//! else.

use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::client::{SubscribeRequest, subscribe_flags};
use gb6_core_wire::mesh::ShardRef;

use super::live::{Asked, Live};
use super::reply::Turn;
use super::subscription::{Features, Subscribing, Told};
use super::types::{Context, SubscriptionGrant};
use crate::following::Following;
use crate::request::{FollowQuery, Request};

impl Live {
    /// Asks every shard with rooms of the instance for the subscription at `at`, which stands there by
    /// name. What a prefix has not (positions, recovery, presence, joins, deltas, numbers) is not
    /// granted, and so not answered.
    #[expect(clippy::too_many_arguments, reason = "each says one thing about it")]
    pub(super) fn begin_following(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        at: usize,
        rules: &Namespace,
        request: &SubscribeRequest,
        grant: Option<SubscriptionGrant>,
        told: Told,
    ) {
        let channel = self.subscriptions[at].channel.clone();
        let delivery = self.delivery_of(turn.dialect, request, rules, told);
        let or_fail =
            told == Told::Reply && request.flag & subscribe_flags::REJECT_UNRECOVERED != 0;
        let shards = shards_of(turn.cx, self.instance());
        let failed = match (request.recover && or_fail, shards.is_empty()) {
            // It wants what was missed, or an error.
            (true, _) => Some(ErrorCode::UnrecoverablePosition),
            (_, true) => Some(ErrorCode::OwnerMoving),
            _ => None,
        };
        if let Some(code) = failed {
            if told == Told::Connect {
                // It stays on the list, as those behind it do, until the connect is refused.
                return self.joined(&channel, Err(code));
            }
            self.subscriptions.remove(at);
            if told == Told::Reply {
                turn.fail(id, code);
            }
            return;
        }
        let (terms, data) = self.terms(turn.cx, grant, told);
        if let Some(end) = terms.as_ref().and_then(|t| t.expires) {
            self.times.subscription_expires(end);
        }
        let following = Arc::new(Following::new(shards));
        let query = Request::Follow(Box::new(FollowQuery {
            dialect: turn.dialect,
            filter: delivery.filter,
            without_own: delivery.without_own,
            following: following.clone(),
        }));
        let asked = Asked::Subscribe(Box::new(Subscribing {
            channel: channel.clone(),
            told,
            features: Features::default(),
            data,
            debounce: 0,
        }));
        let request = self.request(turn, id, &channel, asked, query);
        let mut terms = terms.unwrap_or_default();
        terms.following = Some(following);
        let subscription = &mut self.subscriptions[at];
        subscription.pending = request.token;
        subscription.terms = Some(terms);
        turn.hub(request);
    }
}

/// The shards that have rooms of an instance, in the order of the placement; none where it is
/// incomplete.
fn shards_of(cx: &Context<'_>, instance: &gb6_core_model::InstanceId) -> Vec<ShardRef> {
    let Some((region, shards)) = cx.snapshot.shards_of(instance) else {
        return Vec::new();
    };
    let shard = |shard: gb6_core_model::ShardId| ShardRef {
        region: region.to_owned(),
        shard: shard.0,
    };
    shards.into_iter().map(shard).collect()
}
