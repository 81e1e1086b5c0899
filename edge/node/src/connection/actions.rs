//! Doing what a session asks for: verifying tokens, asking shards, sending, closing.

use std::collections::VecDeque;
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Disconnect, ErrorCode};
use gb6_edge_session::{Action, Answer, Claims, Context, HubRequest, Session, TokenError};

use super::carrier::Carrier;
use super::driver::{Connection, End};
use super::framing::Framing;
use super::instance::InstanceTag;

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Calls the session and does what it asks for.
    pub(super) fn input(
        &mut self,
        now_ms: u64,
        call: impl FnOnce(&mut Session, &Context<'_>, &mut Vec<Action>),
    ) {
        let shared = self.shared.clone();
        let snapshot = shared.snapshot.load();
        let config = shared.session_config(self.frame_ping.is_some());
        let unix_ms = shared.clock.unix_ms();
        let mut actions = Vec::new();
        let context = |outbox_bytes| Context {
            now_ms,
            unix_ms,
            snapshot: &snapshot,
            config,
            counters: &shared.counters,
            outbox_bytes,
        };
        call(&mut self.session, &context(self.batch.left()), &mut actions);
        let mut queue = VecDeque::from(actions);
        // Once the end has begun the shards know that this session is gone: a request that reached
        // one now would leave a subscriber and a presence that nobody ever takes back.
        while self.end == End::Open
            && let Some(action) = queue.pop_front()
        {
            let mut more = Vec::new();
            match action {
                Action::Send(frame) => self.framing.push(frame, &mut self.batch),
                Action::Verify { request, token } => {
                    let result = self.verify(&token, unix_ms);
                    let cx = context(self.batch.left());
                    match result {
                        Ok(result) => self.session.verified(&cx, request, result, &mut more),
                        Err(refused) => self.session.shutdown(&cx, refused, &mut more),
                    }
                }
                Action::Hub(request) => {
                    let token = request.token;
                    if let Err(code) = self.ask(&snapshot, request) {
                        let cx = context(self.batch.left());
                        self.session
                            .complete(&cx, token, Answer::Failed(code), &mut more);
                    }
                }
                Action::VerifySubscription {
                    request, token: _, ..
                } => {
                    self.refused_token("subscription");
                    let cx = context(self.batch.left());
                    let refused = Err(TokenError::Invalid);
                    self.session
                        .subscription_verified(&cx, request, refused, &mut more);
                }
                Action::Admit { request, claims } => {
                    let admitted = self.admit(&snapshot, &claims);
                    let cx = context(self.batch.left());
                    match admitted {
                        Ok(()) => self.session.verified(&cx, request, Ok(*claims), &mut more),
                        Err(refused) => self.session.shutdown(&cx, refused, &mut more),
                    }
                }
                Action::Close(why) => self.begin_close_for(now_ms, &why),
            }
            // What follows from an action comes before the actions behind it.
            for action in more.into_iter().rev() {
                queue.push_front(action);
            }
        }
        self.release();
    }

    /// What a token says; the outer error ends the session.
    fn verify(
        &mut self,
        token: &str,
        unix_ms: i64,
    ) -> Result<Result<Claims, TokenError>, Disconnect> {
        let snapshot = self.shared.snapshot.load();
        let keys = self.shared.keys.load();
        let result = crate::auth::verify_token(&keys, &self.origin.instance, token, unix_ms)
            .map(|(claims, _)| claims);
        let foreign = |claims: &Claims| {
            let identity = self.session.identity();
            identity.is_some_and(|own| own != (&claims.instance, claims.user.as_str()))
        };
        match &result {
            Err(refusal) => self.refused_token(refusal.name()),
            Ok(claims) if foreign(claims) => self.refused_token("foreign"),
            Ok(_) => {}
        }
        if let Ok(claims) = &result {
            self.admit(&snapshot, claims)?;
        }
        Ok(result.map_err(TokenError::from))
    }

    /// The connection belongs to the instance of these claims from here on, if the page that it is
    /// from may connect there and the instance has a place for it.
    fn admit(&mut self, snapshot: &Snapshot, claims: &Claims) -> Result<(), Disconnect> {
        if let Some(origin) = &self.origin.foreign {
            let listed = snapshot
                .instances
                .get(&claims.instance)
                .is_some_and(|i| crate::origin::is_listed(origin, &i.allowed_origins));
            if !listed {
                self.refused_token("origin");
                return Err(Disconnect::PermissionDenied);
            }
        }
        let tag = InstanceTag::of(claims.instance.as_str());
        if self.counted.is_none() {
            let placed = snapshot.instances.get(&claims.instance);
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
        self.unproven = None;
        Ok(())
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

    /// Hands a request to the shard of its room.
    fn ask(&mut self, snapshot: &Snapshot, request: HubRequest) -> Result<(), ErrorCode> {
        if !self.handle.is_of(InstanceTag::of(&request.room.instance)) {
            return Err(ErrorCode::Internal);
        }
        let inbox = self
            .shared
            .shards
            .inbox_for(&self.shared, snapshot, &request.room)
            .ok_or(ErrorCode::OwnerMoving)?;
        if !self.asked.iter().any(|known| Arc::ptr_eq(known, &inbox)) {
            self.asked.reserve_exact(1);
            self.asked.push(inbox.clone());
        }
        inbox.request(&self.handle, request).map_err(|_full| {
            self.shared.metrics.inbox_full.inc();
            ErrorCode::TooManyRequests
        })
    }
}

/// A random UUID (RFC 9562 section 5.4): the id under which other clients see this one.
pub(super) fn client_id() -> String {
    let bits: u128 = rand::random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_uuids_of_version_4() {
        for _ in 0..100 {
            let id = client_id();
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }
}
