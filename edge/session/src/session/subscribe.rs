//! Subscriptions: how one begins, whoever wants it, and how it ends.
//!
//! Three begin them: the client by a command, the server with the answer to the connect, and the
//! server later. The same request goes to the hub each time; only to whom its answer is told, and
//! as what, differs.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::{ChannelKind, Namespace, RecoveryMode};
use gb6_core_model::{Channel, Disconnect, ErrorCode, Unsubscribed, WebhookEvent, limits};
use gb6_core_wire::client::{
    Dialect, SubscribeRequest, UnsubscribeRequest, UnsubscribeResult, subscribe_flags,
};
use gb6_core_wire::mesh::Person;

use super::Closes;
use super::bulk;
use super::delivery::delivery;
use super::live::{Asked, Live, RecoveryBudget};
use super::liveness::{expires_at, seconds_until};
use super::permission::prefix_in;
use super::reply::Turn;
use super::subscription::{
    Features, Subscribing, Subscription, Terms, Told, VERIFYING, subscribe_result, tell_subscribed,
    unsubscribe_push,
};
use super::types::{Context, SubscriptionGrant, count};
use crate::request::{
    Answer, Delivery, HubRequest, RecoverFrom, Request, SubscribeAnswer, SubscribeQuery,
};

impl Live {
    /// The client wants a subscription.
    pub(super) fn subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &SubscribeRequest,
    ) -> Result<(), ErrorCode> {
        let snapshot = turn.cx.snapshot;
        let token = !request.token.is_empty();
        let asker = self.asker();
        let (channel, rules) = asker.may_subscribe(snapshot, &request.channel, token)?;
        // Map and shared-poll subscriptions are not offered.
        if request.r#type != 0 {
            return Err(ErrorCode::NotAvailable);
        }
        delivery(turn.dialect, request, rules, self.options)?;
        let Err(at) = self.find(&channel) else {
            return Err(ErrorCode::AlreadySubscribed);
        };
        if self.subscriptions.len() >= self.subscriptions_max(turn.cx) {
            return Err(ErrorCode::LimitExceeded);
        }
        if token {
            self.insert(at, channel.clone(), VERIFYING, None);
            self.prove_subscribe(turn, id, channel, request.clone());
        } else {
            self.insert(at, channel, VERIFYING, None);
            self.begin(turn, id, at, rules, request, None, Told::Reply);
        }
        Ok(())
    }

    pub(super) fn subscriptions_max(&self, cx: &Context<'_>) -> usize {
        let instance = cx.snapshot.instances.get(self.instance());
        instance.map_or(limits::SUBSCRIPTIONS_MAX, |i| i.subscriptions_max)
    }

    pub(super) fn insert(
        &mut self,
        at: usize,
        channel: Channel,
        pending: u64,
        terms: Option<Box<Terms>>,
    ) {
        if self.subscriptions.is_empty() {
            self.subscriptions.reserve_exact(1);
        }
        let subscription = Subscription {
            channel,
            pending,
            terms,
        };
        self.subscriptions.insert(at, subscription);
    }

    /// Asks the hub for the subscription at `at`, which stands there by name.
    #[expect(clippy::too_many_arguments, reason = "each says one thing about it")]
    pub(super) fn begin(
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
        if prefix_in(&channel, rules).is_some() {
            return self.begin_following(turn, id, at, rules, request, grant, told);
        }
        let overrides = grant.as_ref().map(|g| g.overrides).unwrap_or_default();
        let positions = rules.kind == ChannelKind::Stream;
        let forced = overrides.force_recovery.unwrap_or(rules.force_recovery);
        let recovers = positions && request.recover;
        let recoverable = recovers || (positions && (forced || request.recoverable));
        let forced = overrides
            .force_positioning
            .unwrap_or(rules.force_positioning);
        let delivery = self.delivery_of(turn.dialect, request, rules, told);
        let features = Features {
            positioned: recoverable || (positions && (forced || request.positioned)),
            recoverable,
            was_recovering: recovers,
            or_fail: told == Told::Reply && request.flag & subscribe_flags::REJECT_UNRECOVERED != 0,
            delta: delivery.delta,
        };
        let hears = overrides
            .force_push_join_leave
            .unwrap_or(rules.force_join_leave);
        let join_leave = hears || (rules.join_leave && request.join_leave);
        // Joins and leaves are told from presence, so either needs it.
        let kept = overrides.presence.unwrap_or(rules.presence);
        let told_of = overrides
            .join_leave
            .unwrap_or(rules.join_leave || rules.force_join_leave);
        let recover = recovers.then(|| RecoverFrom {
            offset: request.offset,
            epoch: request.epoch.clone(),
            publications_max: 0,
            bytes_max: 0,
            newest_only: rules.recovery_mode == RecoveryMode::Cache,
            or_fail: features.or_fail,
        });
        let (terms, data) = self.terms(turn.cx, grant, told);
        if let Some(end) = terms.as_ref().and_then(|t| t.expires) {
            self.times.subscription_expires(end);
        }
        let person = terms.as_ref().and_then(|t| t.person.as_ref());
        let query = Request::Subscribe(Box::new(SubscribeQuery {
            dialect: turn.dialect,
            join_leave,
            presence: (kept || told_of).then(|| Arc::clone(person.unwrap_or(self.person()))),
            recover,
            delivery,
        }));
        let asked = Asked::Subscribe(Box::new(Subscribing {
            channel: channel.clone(),
            told,
            features,
            data,
            debounce: rules.publish_debounce_ms,
        }));
        let request = self.request(turn, id, &channel, asked, query);
        let subscription = &mut self.subscriptions[at];
        subscription.pending = request.token;
        subscription.terms = terms;
        if recovers {
            self.bulk(turn, request);
        } else {
            turn.hub(request);
        }
    }

    /// How publications are to be told to the subscriber.
    pub(super) fn delivery_of(
        &self,
        dialect: Dialect,
        request: &SubscribeRequest,
        rules: &Namespace,
        told: Told,
    ) -> Delivery {
        // Checked when it came; where the rules have changed since, what they do not allow any more
        // is not granted. The server's own subscriptions have no such wishes.
        let mut delivery = match told {
            Told::Reply => delivery(dialect, request, rules, self.options).unwrap_or_default(),
            Told::Connect | Told::Push => Delivery::default(),
        };
        delivery.without_own = self.options.exclude_own.then(|| Arc::clone(self.person()));
        delivery
    }

    /// What a grant makes of a subscription, and the data for its client.
    pub(super) fn terms(
        &self,
        cx: &Context<'_>,
        grant: Option<SubscriptionGrant>,
        told: Told,
    ) -> (Option<Box<Terms>>, Bytes) {
        let Some(grant) = grant else {
            return (None, Bytes::new());
        };
        let person = (!grant.info.is_empty()).then(|| {
            Arc::new(Person {
                chan_info: grant.info,
                ..Person::clone(self.person())
            })
        });
        let terms = Terms {
            server_side: told != Told::Reply,
            person,
            expires: expires_at(cx, grant.expires_unix_ms),
            following: None,
            token: None,
        };
        (Some(Box::new(terms)), grant.data)
    }

    /// A hub has answered a subscribe.
    pub(super) fn subscribed(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        token: u64,
        what: Subscribing,
        answer: Answer,
    ) -> Result<(), ErrorCode> {
        let Subscribing {
            channel,
            told,
            features,
            ..
        } = &what;
        // Another one under the same name, asked for since, is not meant.
        let ours = self
            .find(channel)
            .ok()
            .filter(|at| self.subscriptions[*at].pending == token);
        let mut answer = match answer {
            Answer::Subscribed(answer) => answer,
            failed => {
                if let Some(at) = ours {
                    // Some shards may have it.
                    match self.subscriptions[at].following() {
                        Some(_) => self.end_subscription(turn, at, 0, Asked::Nothing),
                        None => drop(self.subscriptions.remove(at)),
                    }
                }
                let code = match failed {
                    Answer::Failed(code) => code,
                    _ => ErrorCode::Internal,
                };
                if *told == Told::Connect {
                    self.joined(channel, Err(code));
                    return Ok(());
                }
                return Err(code);
            }
        };
        let as_text = features.delta && turn.dialect == Dialect::Json;
        if !self.spend(&answer, as_text) {
            // Others used the budget up meanwhile. The subscription stands behind what it was
            // given; the client is told so and reads the rest by history.
            let last = answer.publications.last();
            answer.offset = last.map_or(answer.offset, |p| p.publication.offset);
            // The hub makes deltas against the last of what is not told here: another attempt has
            // a budget of its own.
            let based = features.delta && last.is_some();
            answer.publications.clear();
            answer.recovered = false;
            if features.or_fail || based {
                count(&turn.cx.counters.not_recovered);
                if let Some(at) = ours {
                    self.end_subscription(turn, at, 0, Asked::Nothing);
                }
                return Err(match features.or_fail {
                    true => ErrorCode::UnrecoverablePosition,
                    false => ErrorCode::TooManyRequests,
                });
            }
        }
        let mut expires = None;
        if let Some(at) = ours {
            self.subscriptions[at].pending = 0;
            let terms = self.subscriptions[at].terms.as_ref();
            expires = terms.and_then(|t| t.expires);
        }
        let counters = turn.cx.counters;
        count(&counters.subscribed);
        if features.was_recovering {
            self.recovered_at = turn.cx.now_ms;
            count(match answer.recovered {
                true => &counters.recovered,
                false => &counters.not_recovered,
            });
        }
        let (channel, told) = (channel.clone(), *told);
        let ttl = expires.map(|at| seconds_until(at, turn.cx.now_ms));
        let result = subscribe_result(&answer, what, ttl, as_text);
        match told {
            Told::Reply => turn.answer(id, result),
            Told::Connect => self.joined(&channel, Ok(result)),
            Told::Push if ours.is_some() => tell_subscribed(turn, &channel, result),
            // Ended before it began: the client never heard of it.
            Told::Push => {}
        }
        Ok(())
    }

    /// Takes what was recovered off the budget; `false`, and nothing is taken, if it is too much.
    fn spend(&mut self, answer: &SubscribeAnswer, as_text: bool) -> bool {
        let bytes: usize = answer.publications.iter().map(|p| p.cost).sum();
        let bytes = bytes * bulk::weight(as_text);
        let left = &mut self.recovery;
        let less = |left: u32, by: usize| left.checked_sub(u32::try_from(by).ok()?);
        let publications = less(left.publications, answer.publications.len());
        let (Some(publications), Some(bytes)) = (publications, less(left.bytes, bytes)) else {
            return false;
        };
        *left = RecoveryBudget {
            publications,
            bytes,
        };
        true
    }

    /// The client wants a subscription no longer, whoever began it. Always succeeds, whatever the
    /// name.
    pub(super) fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &UnsubscribeRequest,
    ) -> Closes {
        let channel = Channel::parse(&request.channel).ok();
        // What came behind the subscribe comes before this; another subscribe may be among it.
        while let Some(channel) = &channel
            && self.is_verifying(channel)
        {
            self.give_up_proof(turn, channel, ErrorCode::Internal)?;
        }
        let Some(at) = channel.and_then(|c| self.find(&c).ok()) else {
            turn.answer(id, UnsubscribeResult {});
            return Ok(());
        };
        let pending = self.subscriptions[at].pending;
        if pending != 0 && self.withdraw(pending) {
            self.subscriptions.remove(at);
            if let Some(subscribe) = self.settle(pending) {
                turn.fail(subscribe.id, ErrorCode::Internal);
            }
            turn.answer(id, UnsubscribeResult {});
            return Ok(());
        }
        // Answered behind everything that the room still sends.
        self.end_subscription(turn, at, id, Asked::Unsubscribe);
        Ok(())
    }

    /// Whether a subscribe to a channel waits for its token to be verified.
    pub(super) fn is_verifying(&self, channel: &Channel) -> bool {
        let found = self.find(channel);
        found.is_ok_and(|at| self.subscriptions[at].pending == VERIFYING)
    }

    /// Takes a subscription off the list and tells its hub, whose answer comes behind everything
    /// that the room still sends.
    pub(super) fn end_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        at: usize,
        id: u32,
        then: Asked,
    ) {
        let subscription = self.subscriptions.remove(at);
        let channel = &subscription.channel;
        self.drop_refresh(turn, channel);
        let (code, reason) = match &then {
            Asked::Ended(ended) => (ended.1.code(), ended.1.text()),
            _ => (0, "client unsubscribed"),
        };
        if subscription.pending == 0 {
            self.tell_ended(turn, channel, code, reason);
        }
        let request = self.request(turn, id, channel, then, subscription.leaving());
        turn.hub(request);
    }

    /// Says that a subscription has ended, where the instance wants to hear of it.
    fn tell_ended(&self, turn: &mut Turn<'_>, channel: &Channel, code: u32, reason: &'static str) {
        let instance = turn.cx.snapshot.instances.get(self.instance());
        if instance.is_some_and(|i| i.tells(WebhookEvent::Unsubscribe)) {
            turn.subscription_ended(channel.clone(), code, reason);
        }
    }

    /// The server ends a subscription: the client is told behind everything that the room still
    /// sends, unless it has begun another one by then.
    pub(super) fn unsubscribed_by_server(
        &mut self,
        turn: &mut Turn<'_>,
        at: usize,
        why: Unsubscribed,
    ) {
        let channel = self.subscriptions[at].channel.clone();
        let then = Asked::Ended(Box::new((channel, why)));
        self.end_subscription(turn, at, 0, then);
    }

    /// A subscription that the server ended is over.
    pub(super) fn ended(&mut self, turn: &mut Turn<'_>, channel: &Channel, why: Unsubscribed) {
        if self.find(channel).is_err() {
            turn.say(&unsubscribe_push(channel, why));
        }
    }

    /// The log can not continue a subscription.
    pub(super) fn gap(
        &mut self,
        turn: &mut Turn<'_>,
        channel: &Channel,
        why: Unsubscribed,
    ) -> Closes {
        let Ok(at) = self.find(channel) else {
            return Ok(());
        };
        // One that is pending has been asked for since.
        if self.subscriptions[at].pending != 0 {
            return Ok(());
        }
        if self.subscriptions[at].is_server_side() {
            // A client does not subscribe again to what it did not subscribe to.
            return Err(Disconnect::InsufficientState);
        }
        if self.subscriptions[at].following().is_some() {
            // The other shards have it still: told behind what they send.
            self.unsubscribed_by_server(turn, at, why);
            return Ok(());
        }
        self.subscriptions.remove(at);
        self.drop_refresh(turn, channel);
        turn.say(&unsubscribe_push(channel, why));
        self.tell_ended(turn, channel, why.code(), why.text());
        Ok(())
    }

    /// Where a channel's subscription is, or would be.
    pub(super) fn find(&self, channel: &Channel) -> Result<usize, usize> {
        self.subscriptions
            .binary_search_by(|s| s.channel.as_str().cmp(channel.as_str()))
    }

    /// Asks every hub to forget this session's subscriptions: the connection is unusable.
    pub(super) fn leave_all(&mut self, turn: &mut Turn<'_>) {
        for subscription in std::mem::take(&mut self.subscriptions) {
            let pending = subscription.pending;
            let waits = pending == VERIFYING || (pending != 0 && self.withdraw(pending));
            if !waits {
                let channel = &subscription.channel;
                let leaving = subscription.leaving();
                let leave: HubRequest = self.request(turn, 0, channel, Asked::Nothing, leaving);
                turn.hub(leave);
            }
        }
    }
}
