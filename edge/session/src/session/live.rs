//! A connected session: what it holds, and which part of it does which command.

use std::collections::VecDeque;
use std::sync::Arc;

use gb6_core_model::snapshot::CommandRate;
use gb6_core_model::{
    Caps, Channel, Disconnect, ErrorCode, InstanceId, Offset, Unsubscribed, limits,
};
use gb6_core_wire::client::{Command, Method, PingResult};
use gb6_core_wire::mesh::{Person, RoomRef};

use super::Closes;
use super::bulk::Bulk;
use super::granted::Joining;
use super::liveness::Times;
use super::options::Options;
use super::permission::Asker;
use super::proofs::Proofs;
use super::rate::{Bucket, Verdict};
use super::reply::Turn;
use super::subscription::{Subscribing, Subscription};
use super::types::{Claims, Context, count};
use crate::request::{Answer, HubRequest, Notice, Request};

/// A session whose connect was accepted.
pub(super) struct Live {
    instance: InstanceId,
    person: Arc<Person>,
    pub(super) caps: Caps,
    pub(super) times: Times,
    bucket: Bucket,
    /// Ascending by name.
    pub(super) subscriptions: Vec<Subscription>,
    /// Requests without a reply, ascending by token.
    pending: VecDeque<Pending>,
    next_token: u64,
    pub(super) refreshing: Option<Refreshing>,
    /// Verifications asked for.
    pub(super) verifications: u32,
    /// What may still be recovered before the session has rested from recovering.
    pub(super) recovery: RecoveryBudget,
    /// When it last asked for or was given something recovered, in ms of the monotonic clock.
    pub(super) recovered_at: u64,
    pub(super) bulk: Option<Box<Bulk>>,
    /// The connect, while it is not answered.
    pub(super) joining: Option<Box<Joining>>,
    /// Subscription tokens that are being verified.
    pub(super) proofs: Option<Box<Proofs>>,
    /// How many of its commands may still fail; `None`: none has.
    errors: Option<Box<Bucket>>,
    pub(super) options: Options,
    /// What its client says of the program that it is part of.
    pub(super) app: Option<Box<super::connect::App>>,
}

// Every idle connection has one: above this, allocators hand out 320 bytes.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Live>() <= 256);

/// A token on its way to be verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refreshing {
    pub(super) request: u32,
    /// The command's id.
    pub(super) id: u32,
}

/// Publications and bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecoveryBudget {
    pub(super) publications: u32,
    pub(super) bytes: u32,
}

impl RecoveryBudget {
    /// All that one connection attempt may recover.
    pub(super) const WHOLE: Self = Self {
        publications: limits::RECOVERY_PUBLICATIONS_MAX as u32,
        bytes: limits::RECOVERY_BYTES_MAX as u32,
    };
}

/// A request without a reply.
pub(super) struct Pending {
    pub(super) token: u64,
    /// The command's id.
    pub(super) id: u32,
    pub(super) what: Asked,
}

/// What a reply is made from besides the answer.
pub(super) enum Asked {
    Subscribe(Box<Subscribing>),
    Unsubscribe,
    /// The server ended the subscription. An id is that of the `sub_refresh` whose token had
    /// expired.
    Ended(Box<(Channel, Unsubscribed)>),
    Publish,
    Presence,
    PresenceStats,
    History(Box<HistoryAsked>),
    RpcPublish(Channel),
    RpcTrace(Offset),
    RpcStatus,
    /// Others are told who the session is by now: no reply is made.
    Introduced,
    /// No reply is made.
    Nothing,
}

/// What a history reply is made from.
pub(super) struct HistoryAsked {
    pub(super) channel: Channel,
    /// The stream epoch that the client knows; empty: any.
    pub(super) epoch: String,
}

impl Live {
    pub(super) fn new(cx: &Context<'_>, claims: Claims, person: Arc<Person>, spread: u32) -> Self {
        Self {
            instance: claims.instance,
            person,
            caps: claims.caps,
            times: Times::new(cx, claims.expires_unix_ms, spread),
            bucket: Bucket::default(),
            subscriptions: Vec::new(),
            pending: VecDeque::new(),
            next_token: 1,
            refreshing: None,
            verifications: super::connect::CONNECT_VERIFICATION,
            recovery: RecoveryBudget::WHOLE,
            recovered_at: cx.now_ms,
            bulk: None,
            joining: None,
            proofs: None,
            errors: None,
            options: Options::default(),
            app: None,
        }
    }

    pub(super) fn identity(&self) -> (&InstanceId, &str) {
        (&self.instance, &self.person.user)
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }

    pub(super) fn person(&self) -> &Arc<Person> {
        &self.person
    }

    pub(super) fn set_person(&mut self, person: Arc<Person>) {
        self.person = person;
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker {
            instance: &self.instance,
            user: &self.person.user,
            caps: &self.caps,
            subscriptions: &self.subscriptions,
        }
    }

    pub(super) fn deadline(&self) -> u64 {
        let joining = self.joining_until().unwrap_or(u64::MAX);
        self.times.deadline().min(joining)
    }

    fn rate(&self, cx: &Context<'_>) -> Option<CommandRate> {
        cx.snapshot.instances.get(&self.instance)?.command_rate
    }

    /// Takes a command of the limits that the session shares with others. Being over them never
    /// ends it: it may be the others who are.
    fn take_shared(&self, cx: &Context<'_>) -> bool {
        let placed = cx.snapshot.instances.get(&self.instance);
        match (cx.limits, placed) {
            (Some(limits), Some(placed)) => limits.take(cx.now_ms, placed),
            _ => true,
        }
    }

    pub(super) fn command(&mut self, turn: &mut Turn<'_>, command: Command) -> Closes {
        if command.is_pong() {
            return self.pong();
        }
        count(&turn.cx.counters.commands);
        let refused = match self.bucket.take(turn.cx.now_ms, self.rate(turn.cx)) {
            Verdict::Accept => false,
            Verdict::Refuse => true,
            Verdict::Disconnect => return Err(Disconnect::TooManyRequests),
        };
        let (id, method) = (command.id, command.method());
        match method {
            // Nobody handles messages of clients to the application here.
            Method::Send(_) => return Err(Disconnect::NotAvailable),
            Method::None | Method::Many | Method::Connect(_) => {
                return Err(Disconnect::BadRequest);
            }
            _ if id == 0 => return Err(Disconnect::BadRequest),
            _ => {}
        }
        // An unsubscribe makes room and always succeeds. It counts, so that a flood of them ends
        // all the same; those without an answer are bounded by the subscriptions.
        let makes_room = matches!(method, Method::Unsubscribe(_));
        let shared_refused = !refused && !makes_room && !self.take_shared(turn.cx);
        if shared_refused || (refused && !makes_room) {
            let counters = turn.cx.counters;
            count(match shared_refused {
                true => &counters.shared_rate_refused,
                false => &counters.rate_refused,
            });
            turn.fail(id, ErrorCode::TooManyRequests);
            return Ok(());
        }
        let unanswered = self.pending.len() + self.unproven();
        if unanswered >= turn.cx.config.in_flight_max && !makes_room {
            turn.fail(id, ErrorCode::TooManyRequests);
            return Ok(());
        }
        self.dispatch(turn, command)
    }

    /// Does what a command says, unless another about the same channel has to be done first.
    pub(super) fn dispatch(&mut self, turn: &mut Turn<'_>, command: Command) -> Closes {
        let Some(command) = self.hold(turn, command) else {
            return Ok(());
        };
        let id = command.id;
        let done = match command.method() {
            Method::Subscribe(r) => self.subscribe(turn, id, r),
            Method::Unsubscribe(r) => return self.unsubscribe(turn, id, r),
            Method::Publish(r) => self.publish(turn, id, r),
            Method::Presence(r) => self.presence(turn, id, &r.channel, true),
            Method::PresenceStats(r) => self.presence(turn, id, &r.channel, false),
            Method::History(r) => self.history(turn, id, r),
            Method::Rpc(r) => self.rpc(turn, id, r),
            Method::Refresh(r) => {
                self.refresh(turn, id, r);
                Ok(())
            }
            Method::Ping => {
                turn.answer(id, PingResult {});
                Ok(())
            }
            Method::SubRefresh(r) => self.sub_refresh(turn, id, r),
            Method::None | Method::Many | Method::Connect(_) | Method::Send(_) => Ok(()),
        };
        if let Err(code) = done {
            turn.fail(id, code);
        }
        Ok(())
    }

    /// A request to a hub, for which a reply to command `id` will be made. Returns its token.
    pub(super) fn request(
        &mut self,
        turn: &Turn<'_>,
        id: u32,
        channel: &Channel,
        what: Asked,
        request: Request,
    ) -> HubRequest {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.push_back(Pending { token, id, what });
        HubRequest {
            token,
            session: turn.session,
            room: RoomRef {
                instance: self.instance.as_str().to_owned(),
                channel: channel.as_str().to_owned(),
            },
            request,
        }
    }

    /// Whether there is no answer yet to a request of some kind.
    pub(super) fn pending_any(&self, is: impl Fn(&Asked) -> bool) -> bool {
        self.pending.iter().any(|p| is(&p.what))
    }

    /// Takes a request off the list.
    pub(super) fn settle(&mut self, token: u64) -> Option<Pending> {
        let at = self.pending.binary_search_by_key(&token, |p| p.token);
        let pending = self.pending.remove(at.ok()?);
        if self.pending.is_empty() {
            // An idle session keeps no room for requests.
            self.pending = VecDeque::new();
        }
        pending
    }

    /// Whether the request is one of the client's publishes, and not answered yet.
    pub(super) fn is_publishing(&self, token: u64) -> bool {
        let at = self.pending.binary_search_by_key(&token, |p| p.token);
        let pending = at.ok().and_then(|at| self.pending.get(at));
        pending.is_some_and(|p| matches!(p.what, Asked::Publish | Asked::RpcPublish(_)))
    }

    pub(super) fn complete(&mut self, turn: &mut Turn<'_>, token: u64, answer: Answer) {
        if let Some(answer) = self.hold_page(turn, token, answer) {
            self.put(turn, token, answer);
            self.bulk_done(turn, token);
        }
    }

    /// Replies to the command that a request was made for.
    pub(super) fn put(&mut self, turn: &mut Turn<'_>, token: u64, answer: Answer) {
        if let Some(pending) = self.settle(token) {
            let id = pending.id;
            if let Err(code) = self.reply(turn, pending, answer) {
                turn.fail(id, code);
            }
        }
    }

    pub(super) fn notice(&mut self, turn: &mut Turn<'_>, notice: Notice) -> Closes {
        let Notice::Unsubscribed { channel, why } = notice;
        self.gap(turn, &channel, why)
    }

    /// So many of the client's commands failed by its own doing.
    pub(super) fn failed(&mut self, turn: &Turn<'_>, times: usize) -> Closes {
        if times == 0 {
            return Ok(());
        }
        let bucket = self.errors.get_or_insert_default();
        for _ in 0..times {
            let rate = Some(turn.cx.config.errors_max);
            if bucket.take(turn.cx.now_ms, rate) != Verdict::Accept {
                count(&turn.cx.counters.too_many_errors);
                return Err(Disconnect::TooManyErrors);
            }
        }
        Ok(())
    }
}
