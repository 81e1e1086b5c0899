//! What a connection does with tokens: verifying them, at once or when their key has been fetched,
//! and what follows from a good and from a bad one.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::snapshot::Instance;
use gb6_core_model::{Channel, Disconnect, InstanceId};
use gb6_edge_session::{
    Answer, Claims, Identity, SubscriptionClaims, TokenError, TokenRef, id_of_user,
};

use super::carrier::Carrier;
use super::driver::Connection;
use super::framing::Framing;
use super::handle::{Event, JudgedSubscription};
use super::instance::InstanceTag;
use crate::auth::jwks::Waited;
use crate::auth::{KeyTable, Refusal, verify_subscription_token, verify_token};
use crate::shared::Shared;

/// How long a token waits until the newest revocations are known. After that its connection begins,
/// and is held still: nothing is delivered to it or accepted of it until they are.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What a session is told of a token; an error ends it.
pub(super) type Judged = Result<Result<Claims, TokenError>, Disconnect>;

/// Waits until the newest revocations of an instance are known, or can not be in time: what is not
/// known then is found out while the connection is held.
async fn until_known(shared: &Arc<Shared>, instance: &InstanceId) {
    let revoked = shared.revocations.of(shared, instance);
    if !revoked.is_open() {
        let _ = tokio::time::timeout(PATIENCE, revoked.until_current()).await;
    }
}

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// What a token says; `None`: that is found out later, and comes as an event.
    pub(super) fn verify(&mut self, request: u32, token: String, unix_ms: i64) -> Option<Judged> {
        let keys = self.shared.keys.load();
        match verify_token(&keys, &self.origin.instance, &token, unix_ms) {
            Err(Refusal::KeyNotFetched) => {
                let shared = self.shared.clone();
                let verify = move |keys: &KeyTable, instance: &InstanceId| {
                    verify_token(keys, instance, &token, shared.clock.unix_ms())
                };
                let of = |verified: &(Claims, TokenRef)| verified.0.instance.clone();
                self.verify_later(self.origin.instance.clone(), verify, of, move |result| {
                    Event::Verified(request, Box::new(result))
                });
                None
            }
            Ok(verified) => {
                let instance = verified.0.instance.clone();
                if !self.knows_revoked(&instance) {
                    let event = Event::Verified(request, Box::new(Ok(verified)));
                    self.once_known(instance, event);
                    return None;
                }
                let judged = self.judge(Ok(verified));
                self.arrive(request, judged)
            }
            refused => Some(self.judge(refused)),
        }
    }

    /// Whether the revocations of an instance are known, as far as tokens wait for that.
    fn knows_revoked(&self, instance: &InstanceId) -> bool {
        let revoked = self.shared.revocations.of(&self.shared, instance);
        revoked.is_open()
    }

    /// Tells the session of a token of `instance` once the newest revocations are known, or can not
    /// be in time.
    fn once_known(&self, instance: InstanceId, event: Event) {
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
        tokio::spawn(async move {
            until_known(&shared, &instance).await;
            handle.outbox.event(event);
        });
    }

    /// What a subscription token says; `None`: that is found out later, and comes as an event.
    pub(super) fn verify_subscription(
        &mut self,
        request: u32,
        channel: &Channel,
        token: String,
        unix_ms: i64,
    ) -> Option<Result<SubscriptionClaims, TokenError>> {
        let Some((instance, _)) = self.session.identity() else {
            return Some(Err(TokenError::Invalid));
        };
        let keys = self.shared.keys.load();
        match verify_subscription_token(&keys, instance, &token, unix_ms) {
            Err(Refusal::KeyNotFetched) => {
                let (instance, channel) = (instance.clone(), channel.clone());
                let shared = self.shared.clone();
                let verify = move |keys: &KeyTable, instance: &InstanceId| {
                    verify_subscription_token(keys, instance, &token, shared.clock.unix_ms())
                };
                let of = |verified: &(SubscriptionClaims, TokenRef)| verified.0.instance.clone();
                self.verify_later(instance, verify, of, move |result| {
                    Event::SubscriptionVerified(request, channel, Box::new(result))
                });
                None
            }
            result => Some(self.judge_subscription(channel, result)),
        }
    }

    /// Verifies a token once its key has been fetched, or can not be, and tells the session.
    /// `instance` is the connection's, `of` the one that a good token is of.
    fn verify_later<T: Send + 'static>(
        &self,
        instance: InstanceId,
        verify: impl Fn(&KeyTable, &InstanceId) -> Result<T, Refusal> + Send + Sync + 'static,
        of: fn(&T) -> InstanceId,
        event: impl FnOnce(Result<T, Refusal>) -> Event + Send + 'static,
    ) {
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
        tokio::spawn(async move {
            let missing =
                |keys: &KeyTable| matches!(verify(keys, &instance), Err(Refusal::KeyNotFetched));
            let waited = shared.keys.wait(&instance, missing).await;
            let result = match verify(&shared.keys.load(), &instance) {
                Err(Refusal::KeyNotFetched) if waited == Waited::Fetched => {
                    Err(Refusal::UnknownKey)
                }
                result => result,
            };
            if let Ok(verified) = &result {
                until_known(&shared, &of(verified)).await;
            }
            handle.outbox.event(event(result));
        });
    }

    /// A token was verified that had to wait.
    pub(super) fn verified(
        &mut self,
        now_ms: u64,
        request: u32,
        result: Result<(Claims, TokenRef), Refusal>,
    ) {
        let judged = self.judge(result);
        self.tell_of_token(now_ms, request, judged);
    }

    /// What follows from a token; the outer error ends the session.
    fn judge(&mut self, result: Result<(Claims, TokenRef), Refusal>) -> Judged {
        let foreign = |claims: &Claims| {
            let identity = self.session.identity();
            identity.is_some_and(|own| own != (&claims.instance, claims.user.as_str()))
        };
        let result = match result {
            Ok((claims, token)) if !foreign(&claims) => match self.revoked(&claims, &token) {
                None => Ok(claims),
                Some(refusal) => Err(refusal),
            },
            result => result.map(|(claims, _)| claims),
        };
        match &result {
            Err(refusal) => self.refused_token(refusal.name()),
            Ok(claims) if foreign(claims) => self.refused_token("foreign"),
            Ok(_) => {}
        }
        if let Ok(claims) = &result {
            self.admit(claims)?;
        }
        Ok(result.map_err(TokenError::from))
    }

    /// A connection without a token, which its instance allows; `None`: what is revoked is found out
    /// first, and it comes as an event.
    pub(super) fn admit_without_token(&mut self, request: u32, claims: Claims) -> Option<Judged> {
        if !self.knows_revoked(&claims.instance) {
            let instance = claims.instance.clone();
            self.once_known(instance, Event::Admitted(request, Box::new(claims)));
            return None;
        }
        let judged = self.admit(&claims).map(|()| Ok(claims));
        self.arrive(request, judged)
    }

    /// A connection without a token has waited until what is revoked is known, or could not be.
    pub(super) fn admitted(&mut self, now_ms: u64, request: u32, claims: Claims) {
        let judged = self.admit(&claims).map(|()| Ok(claims));
        self.tell_of_token(now_ms, request, judged);
    }

    /// Tells the session what became of a token that had to wait.
    fn tell_of_token(&mut self, now_ms: u64, request: u32, judged: Judged) {
        let Some(judged) = self.arrive(request, judged) else {
            return;
        };
        self.input(now_ms, |session, cx, out| match judged {
            Ok(result) => session.verified(cx, request, result, out),
            Err(refused) => session.shutdown(cx, refused, out),
        });
    }

    /// Why a token is of no use though it is good: it was taken back.
    fn revoked(&self, claims: &Claims, token: &TokenRef) -> Option<Refusal> {
        let revoked = self.shared.revocations.of(&self.shared, &claims.instance);
        let identity = Identity {
            token: Some(token.id),
            issued_unix_ms: token.issued_unix_ms,
            user: id_of_user(&claims.user),
            client: self.origin.client,
        };
        // Before it is looked up: what is revoked from here on finds the connection.
        self.handle.identify(&revoked, identity);
        let verdict = revoked.verdict(&identity, self.shared.clock.unix_ms());
        verdict.map(|_| Refusal::Revoked)
    }

    /// A subscription token was verified that had to wait.
    pub(super) fn subscription_verified(
        &mut self,
        now_ms: u64,
        request: u32,
        channel: &Channel,
        result: JudgedSubscription,
    ) {
        let result = self.judge_subscription(channel, result);
        self.input(now_ms, |session, cx, out| {
            session.subscription_verified(cx, request, result, out);
        });
    }

    /// What the session is told of a subscription token; one that is for somebody else or another
    /// channel will end it.
    fn judge_subscription(
        &self,
        channel: &Channel,
        result: JudgedSubscription,
    ) -> Result<SubscriptionClaims, TokenError> {
        // Before it is looked up: what is revoked from here on finds the connection.
        self.handle.shows_token();
        let user = self.session.identity().map(|(_, user)| user);
        let result = result.and_then(|(claims, token)| {
            let revoked = self.shared.revocations.of(&self.shared, &claims.instance);
            let unix_ms = self.shared.clock.unix_ms();
            match revoked.has_token(&token, &id_of_user(&claims.user), unix_ms) {
                true => Err(Refusal::Revoked),
                false => Ok((claims, token)),
            }
        });
        match &result {
            Err(refusal) => self.refused_token(refusal.name()),
            Ok((claims, _)) if user != Some(&claims.user) || claims.channel != channel.as_str() => {
                self.refused_token("foreign");
            }
            Ok(_) => {}
        }
        Ok(result.map_err(TokenError::from)?.0)
    }

    /// The connection belongs to the instance of these claims from here on, if the page that it is
    /// from may connect there and the instance has a place for it.
    pub(super) fn admit(&mut self, claims: &Claims) -> Result<(), Disconnect> {
        let snapshot = self.shared.snapshot.load();
        let placed = snapshot.instances.get(&claims.instance);
        self.comes_from_a_page_of(placed)?;
        let tag = InstanceTag::of(claims.instance.as_str());
        if self.counted.is_none() {
            let max = placed.and_then(|i| i.connections_max).unwrap_or(usize::MAX);
            match self.shared.by_instance.take(tag.number(), max) {
                Some((place, _)) => self.counted = Some(place),
                None => {
                    self.shared.metrics.over_limit.with(&["instance"]).inc();
                    return Err(Disconnect::ConnectionLimit);
                }
            }
        }
        self.handle.belongs_to(tag);
        if !self.handle.is_identified() {
            // Nobody's token, but whoever runs the instance may end the connection.
            let revoked = self.shared.revocations.of(&self.shared, &claims.instance);
            let identity = Identity {
                token: None,
                issued_unix_ms: None,
                user: id_of_user(""),
                client: self.origin.client,
            };
            self.handle.identify(&revoked, identity);
        }
        self.unproven = None;
        self.keep_shown(claims);
        Ok(())
    }

    /// Whether the page that the connection is from may connect to this instance.
    pub(super) fn comes_from_a_page_of(&self, placed: Option<&Instance>) -> Result<(), Disconnect> {
        let Some(origin) = &self.origin.foreign else {
            return Ok(());
        };
        let listed = |i: &Instance| crate::origin::is_listed(origin, &i.allowed_origins);
        if placed.is_some_and(listed) {
            return Ok(());
        }
        self.refused_token("origin");
        Err(Disconnect::PermissionDenied)
    }

    /// Enters the session among those of its user, when its first token is good. `None`: the owner of
    /// the user's shard hears of the user first, and the session goes on when it has.
    fn arrive(&mut self, request: u32, judged: Judged) -> Option<Judged> {
        let claims = match judged {
            Ok(Ok(claims)) if self.listed.is_none() => claims,
            judged => return Some(judged),
        };
        let (instance, user) = (&claims.instance, &claims.user);
        let home = || self.shared.home(instance, user);
        let people = &self.shared.people;
        let (listed, waits) = people.enter(instance, user, &self.handle, home);
        self.listed = Some(listed);
        // What came before the session was found there has passed it by.
        if let Some(why) = self.missed(&claims.instance) {
            return Some(Err(why));
        }
        let Some(shard) = waits else {
            return Some(Ok(Ok(claims)));
        };
        // Should its task be lost, the session is told.
        self.asked.push(shard);
        self.arriving = Some(Box::new((request, claims)));
        None
    }

    /// Why a session has to end that was entered a moment ago: its instance is gone, or it was revoked
    /// while it could not be found.
    fn missed(&self, instance: &InstanceId) -> Option<Disconnect> {
        let snapshot = self.shared.snapshot.load();
        if !snapshot.instances.contains_key(instance) {
            return Some(Disconnect::NotAvailable);
        }
        let revoked = self.shared.revocations.of(&self.shared, instance);
        let identity = self.handle.identity_of(&revoked)?;
        revoked.verdict(&identity, self.shared.clock.unix_ms())
    }

    /// The owner of the user's shard has heard of the user, or will not in time.
    pub(super) fn arrived(&mut self, now_ms: u64, answer: &Answer) {
        if let Some(arriving) = self.arriving.take() {
            // Nothing else has been asked yet.
            let asked = std::mem::take(&mut self.asked);
            if let (Answer::Arrived(true), Some(listed)) = (answer, &self.listed)
                && let Some(shard) = asked.first()
            {
                self.shared.people.heard(listed, shard);
            }
            let (request, claims) = *arriving;
            self.input(now_ms, |s, cx, out| {
                s.verified(cx, request, Ok(claims), out)
            });
        }
    }

    /// Counts a refused token, and says so to the operator as often as is good.
    fn refused_token(&self, reason: &'static str) {
        self.shared.metrics.tokens_refused.with(&[reason]).inc();
        let (session, instance) = (self.handle.session.0, self.origin.instance.as_str());
        if self.shared.may_log() {
            tracing::info!(session, instance, reason, "token refused");
        } else {
            tracing::debug!(session, instance, reason, "token refused");
        }
    }
}
