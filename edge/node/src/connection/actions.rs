//! Doing what a session asks for: verifying tokens, asking shards, sending, closing.

use std::collections::VecDeque;
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Channel, ErrorCode, InstanceId, ShardId, WebhookEvent};
use gb6_core_wire::mesh::{SessionEnd, SessionHere};
use gb6_core_wire::record::SessionEvent;
use gb6_edge_session::{
    Action, Answer, Context, Following, HubRequest, Request, Session, SharedLimits,
};

use super::carrier::Carrier;
use super::driver::{Connection, End};
use super::framing::Framing;
use super::instance::InstanceTag;
use crate::limits::SessionLimits;
use crate::shards::ShardInbox;

impl<C: Carrier, F: Framing> Connection<C, F> {
    /// Calls the session and does what it asks for.
    pub(super) fn input(
        &mut self,
        now_ms: u64,
        call: impl FnOnce(&mut Session, &Context<'_>, &mut Vec<Action>),
    ) {
        let shared = self.shared.clone();
        let snapshot = shared.snapshot.load();
        let config = shared.session_config(self.frame_ping.is_some(), self.transport);
        let unix_ms = shared.clock.unix_ms();
        let limits = self.shared_limits();
        let limits = limits.as_deref().map(|limits| limits as &dyn SharedLimits);
        let mut actions = Vec::new();
        let context = |outbox_bytes| Context {
            now_ms,
            unix_ms,
            snapshot: &snapshot,
            config,
            counters: &shared.counters,
            outbox_bytes,
            limits,
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
                    let result = self.verify(request, token, unix_ms);
                    let cx = context(self.batch.left());
                    match result {
                        // The answer comes as an event.
                        None => {}
                        Some(Ok(result)) => {
                            self.session.verified(&cx, request, result, &mut more);
                        }
                        Some(Err(refused)) => self.session.shutdown(&cx, refused, &mut more),
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
                    request,
                    channel,
                    token,
                } => {
                    let verified = self.verify_subscription(request, &channel, token, unix_ms);
                    // Without a result it comes as an event.
                    if let Some(result) = verified {
                        let cx = context(self.batch.left());
                        self.session
                            .subscription_verified(&cx, request, result, &mut more);
                    }
                }
                Action::Admit { request, claims } => {
                    // Without an answer now it comes as an event.
                    if let Some(judged) = self.admit_without_token(request, *claims) {
                        let cx = context(self.batch.left());
                        match judged {
                            Ok(result) => self.session.verified(&cx, request, result, &mut more),
                            Err(refused) => self.session.shutdown(&cx, refused, &mut more),
                        }
                    }
                }
                // The answers of backends come as events.
                Action::AskConnect {
                    request,
                    client,
                    connect,
                } => self.ask_connect(request, &client, &connect),
                Action::AskPublish {
                    request,
                    channel,
                    data,
                } => self.ask_publish(request, &channel, &data),
                Action::SubscriptionEnded {
                    channel,
                    code,
                    reason,
                } => self.subscription_ended(&channel, code, reason),
                Action::Close(why) => self.begin_close_for(now_ms, &why),
            }
            // What follows from an action comes before the actions behind it.
            for action in more.into_iter().rev() {
                queue.push_front(action);
            }
        }
        if !self.began && self.session.is_connected() {
            self.began = true;
            self.session_began(&snapshot);
        }
        self.release();
    }

    /// The session is connected: somebody may want to hear of its end.
    fn session_began(&mut self, snapshot: &Snapshot) {
        let Some(here) = self.session_here() else {
            return;
        };
        let instance = snapshot.instances.get(here.instance.as_str());
        if instance.is_some_and(|i| i.tells(WebhookEvent::Disconnect)) {
            self.reported = Some(InstanceId::from(here.instance.as_str()));
            self.shared.session_here(here);
        }
    }

    /// A subscription has ended and the session goes on, of which somebody wants to hear.
    fn subscription_ended(&self, channel: &Channel, code: u32, reason: &str) {
        if let Some(of) = self.session_here() {
            self.shared.session_ended(SessionEnd {
                of,
                event: SessionEvent::Unsubscribe.into(),
                channel: channel.as_str().to_owned(),
                code,
                reason: reason.to_owned(),
                ..SessionEnd::default()
            });
        }
    }

    /// What it is reported as.
    fn session_here(&self) -> Option<SessionHere> {
        let (instance, user) = self.session.identity()?;
        Some(SessionHere {
            session: self.handle.session.0,
            instance: instance.as_str().to_owned(),
            user: user.to_owned(),
            client: self.session.client()?.to_owned(),
        })
    }

    /// The limits that the session shares with others; `None`: there are none, or it has no
    /// instance yet.
    fn shared_limits(&mut self) -> Option<Arc<SessionLimits>> {
        if !self.shared.limits.are_wanted() {
            return None;
        }
        if self.limits.is_none() {
            let (instance, user) = self.session.identity()?;
            let limits = SessionLimits::new(self.shared.limits.clone(), instance, user);
            self.limits = Some(Arc::new(limits));
        }
        self.limits.clone()
    }

    /// Hands a request to the shard of its room.
    fn ask(&mut self, snapshot: &Snapshot, request: HubRequest) -> Result<(), ErrorCode> {
        if !self.handle.is_of(InstanceTag::of(&request.room.instance)) {
            return Err(ErrorCode::Internal);
        }
        // What was revoked meanwhile comes first.
        match self.wait_while_held(request)? {
            Some(request) => self.hand(snapshot, request),
            None => Ok(()),
        }
    }

    /// Puts a request into the inbox of its room's shard.
    pub(super) fn hand(
        &mut self,
        snapshot: &Snapshot,
        request: HubRequest,
    ) -> Result<(), ErrorCode> {
        let following = match &request.request {
            Request::Follow(query) => Some(query.following.clone()),
            Request::Unfollow(following) => Some(following.clone()),
            _ => None,
        };
        if let Some(following) = following {
            return self.hand_to_all(&following, &request);
        }
        let inbox = self
            .shared
            .shards
            .inbox_for(&self.shared, snapshot, &request.room)
            .ok_or(ErrorCode::OwnerMoving)?;
        self.hand_to(&inbox, request)
    }

    /// Puts a request about a prefix into the inbox of every shard that it is in. An error is the
    /// whole request's answer.
    fn hand_to_all(
        &mut self,
        following: &Following,
        request: &HubRequest,
    ) -> Result<(), ErrorCode> {
        let mut outcome = Ok(());
        for shard in following.shards() {
            let shards = &self.shared.shards;
            let inbox = shards.inbox(&self.shared, &shard.region, ShardId(shard.shard));
            let handed = self.hand_to(&inbox, request.clone());
            match (handed, request.request.leaves()) {
                (Ok(()), _) => {}
                // Whoever leaves has left a shard whose task is gone.
                (Err(code), true) if following.left() => outcome = Err(code),
                (Err(_), true) => {}
                (Err(code), false) => return Err(code),
            }
        }
        outcome
    }

    fn hand_to(&mut self, inbox: &Arc<ShardInbox>, request: HubRequest) -> Result<(), ErrorCode> {
        if !self.asked.iter().any(|known| Arc::ptr_eq(known, inbox)) {
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
