//! Subscriptions that the server begins: those of the connect, whose answer waits for all of them,
//! and those that come later, by a command of the application's server.

use std::collections::{BTreeMap, VecDeque};

use gb6_core_model::{Channel, Disconnect, ErrorCode, Unsubscribed};
use gb6_core_wire::client::{Push, Refresh, Reply, SubscribeRequest, SubscribeResult};

use super::Closes;
use super::connect::ConnectReply;
use super::live::Live;
use super::liveness::expires_at;
use super::permission::known;
use super::reply::{REPLY_BYTES_MAX, Turn};
use super::server::{CloseReason, ServerCommand};
use super::subscription::{Told, VERIFYING};
use super::types::{SubscriptionGrant, count};

/// Commands of the server that wait for the answer to a connect.
const COMMANDS_WAITING_MAX: usize = 128;
/// Bytes of one entry in the answer to a connect, besides its names and data.
const ENTRY_BYTES: usize = 192;
/// The part of a connect's time that its subscriptions have at least, however long its token took.
const TIME_AT_LEAST: u64 = 8;

/// A connect whose answer waits for its subscriptions.
pub(super) struct Joining {
    /// What its answer is made from.
    reply: ConnectReply,
    /// Subscriptions that are not answered.
    waiting: usize,
    results: BTreeMap<String, SubscribeResult>,
    /// Why one could not begin.
    failed: Option<ErrorCode>,
    /// When it is too late, in ms of the monotonic clock.
    until: u64,
    /// What the server wants meanwhile.
    commands: VecDeque<ServerCommand>,
}

/// How far a connect is.
pub(super) enum Joined {
    /// It waits, or there is nothing to wait for.
    No,
    /// All have begun: for the connect's answer, and what is told of them.
    All(ConnectReply, BTreeMap<String, SubscribeResult>),
    /// One could not begin: the connect command's id, and why.
    Failed(u32, ErrorCode),
}

impl Live {
    /// Begins the subscriptions that a connect brings: those of its token, and the user's own
    /// channel where the instance has such. `positions`: what the client has already, of which only
    /// what is granted counts; of a client that can not subscribe, also what it would. Gives `reply`
    /// back where there is nothing to wait for.
    ///
    /// # Errors
    /// The outer one ends the session: there are more than a session may have (3505). The inner one
    /// refuses the connect: a channel that the token names is none, is the server's own, or is in
    /// no namespace.
    pub(super) fn join(
        &mut self,
        turn: &mut Turn<'_>,
        reply: ConnectReply,
        mut granted: BTreeMap<String, SubscriptionGrant>,
        mut positions: BTreeMap<String, SubscribeRequest>,
    ) -> Result<Result<Option<ConnectReply>, ErrorCode>, Disconnect> {
        let snapshot = turn.cx.snapshot;
        let instance = snapshot.instances.get(self.instance());
        if instance.is_some_and(|i| i.personal_channel && i.defaults.is_some())
            && let Some(personal) = Channel::personal(&self.person().user)
        {
            granted.entry(personal.as_str().to_owned()).or_default();
        }
        // Who can not subscribe later says here what it would: what it may not have is absent, as
        // what is not granted always is.
        if turn.cx.config.unidirectional {
            for name in positions.keys() {
                if self.asker().may_subscribe(snapshot, name, false).is_ok() {
                    granted.entry(name.clone()).or_default();
                }
            }
        }
        if granted.is_empty() {
            return Ok(Ok(Some(reply)));
        }
        if granted.len() > self.subscriptions_max(turn.cx) {
            return Err(Disconnect::ChannelLimit);
        }
        let mut begins = Vec::with_capacity(granted.len());
        for (name, grant) in granted {
            match known(snapshot, self.instance(), &name) {
                Ok((channel, rules)) => begins.push((channel, rules, grant)),
                Err(code) => return Ok(Err(code)),
            }
        }
        let reply_data = reply.data.len();
        // Counted from the command, because the client does: its token may have waited for a key, for
        // revocations, or for the owner of its user's shard.
        let whole = turn.cx.config.connect_subscriptions_ms;
        let until = (reply.since + whole).max(turn.cx.now_ms + whole / TIME_AT_LEAST);
        self.joining = Some(Box::new(Joining {
            reply,
            waiting: begins.len(),
            results: BTreeMap::new(),
            failed: None,
            until,
            commands: VecDeque::new(),
        }));
        // Everything goes out as one reply: what may be recovered is what that has room for, if all
        // of it were data that is a third longer in JSON.
        let entry = |(channel, _, grant): &(Channel, _, SubscriptionGrant)| {
            channel.as_str().len() + grant.data.len() + ENTRY_BYTES
        };
        let entries: usize = begins.iter().map(entry).sum();
        let entries = entries + reply_data;
        let room = REPLY_BYTES_MAX.saturating_sub(entries) / 4 * 3;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        self.recovery.bytes = self.recovery.bytes.min(room);
        // Listed in their order before the first is asked for, so that they stay where they are.
        for (at, (channel, ..)) in begins.iter().enumerate() {
            self.insert(at, channel.clone(), VERIFYING, None);
        }
        for (at, (channel, rules, grant)) in begins.into_iter().enumerate() {
            let request = positions.remove(channel.as_str()).unwrap_or_default();
            self.begin(turn, 0, at, rules, &request, Some(grant), Told::Connect);
        }
        Ok(Ok(None))
    }

    /// Whether the connect is not answered yet.
    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    pub(super) fn joining_until(&self) -> Option<u64> {
        Some(self.joining.as_ref()?.until)
    }

    /// A subscription of the connect has begun or could not.
    pub(super) fn joined(&mut self, channel: &Channel, result: Result<SubscribeResult, ErrorCode>) {
        let Some(joining) = &mut self.joining else {
            return;
        };
        joining.waiting = joining.waiting.saturating_sub(1);
        match result {
            Ok(result) => {
                joining.results.insert(channel.as_str().to_owned(), result);
            }
            Err(code) => joining.failed = joining.failed.or(Some(code)),
        }
    }

    /// Whether the connect can be answered now; then it is no longer waited for.
    pub(super) fn take_joined(&mut self, turn: &Turn<'_>) -> (Joined, VecDeque<ServerCommand>) {
        let Some(joining) = &self.joining else {
            return (Joined::No, VecDeque::new());
        };
        let late = turn.cx.now_ms >= joining.until;
        let failed = joining.failed.or(late.then_some(ErrorCode::Internal));
        let over = joining.waiting == 0 || failed.is_some();
        let Some(joining) = self.joining.take_if(|_| over) else {
            return (Joined::No, VecDeque::new());
        };
        let joined = match failed {
            Some(code) if joining.waiting > 0 || joining.failed.is_some() => {
                count(&turn.cx.counters.connects_unready);
                Joined::Failed(joining.reply.id, code)
            }
            _ => Joined::All(joining.reply, joining.results),
        };
        (joined, joining.commands)
    }

    /// The application's server wants something of this session.
    ///
    /// # Errors
    /// Why it was not done: 105 subscribed already, 106 it has all the subscriptions that it may
    /// have, 111 too much waits for its connect; or the channel is none that may be named (102,
    /// 103). The outer one ends the session.
    pub(super) fn server_command(
        &mut self,
        turn: &mut Turn<'_>,
        command: ServerCommand,
    ) -> Result<Result<(), ErrorCode>, CloseReason> {
        if let Some(joining) = &mut self.joining
            && !matches!(command, ServerCommand::Disconnect(_))
        {
            // Overflow policy of this queue: the newest is refused.
            if joining.commands.len() >= COMMANDS_WAITING_MAX {
                return Ok(Err(ErrorCode::TooManyRequests));
            }
            joining.commands.push_back(command);
            return Ok(Ok(()));
        }
        match command {
            ServerCommand::Subscribe {
                channel,
                grant,
                recover_since,
            } => {
                let since = recover_since.map(|since| SubscribeRequest {
                    recover: true,
                    offset: since.offset,
                    epoch: since.epoch,
                    ..SubscribeRequest::default()
                });
                Ok(self.subscribe_by_server(turn, &channel, *grant, since.unwrap_or_default()))
            }
            ServerCommand::Unsubscribe { channel } => {
                self.unsubscribe_by_server(turn, &channel)?;
                Ok(Ok(()))
            }
            ServerCommand::Disconnect(why) => Err(why),
            ServerCommand::Refresh { expired: true, .. } => {
                count(&turn.cx.counters.expired);
                Err(Disconnect::ConnectionExpired.into())
            }
            ServerCommand::Refresh {
                expires_unix_ms,
                info,
                ..
            } => {
                if let Some(info) = info {
                    self.introduce(turn, info);
                }
                self.times.expire(expires_at(turn.cx, expires_unix_ms));
                let ttl = self.ttl_seconds(turn.cx.now_ms);
                turn.say(&Reply::push(Push {
                    refresh: Some(Refresh {
                        expires: ttl.is_some(),
                        ttl: ttl.unwrap_or(0),
                    }),
                    ..Push::default()
                }));
                Ok(Ok(()))
            }
        }
    }

    fn subscribe_by_server(
        &mut self,
        turn: &mut Turn<'_>,
        channel: &Channel,
        grant: SubscriptionGrant,
        request: SubscribeRequest,
    ) -> Result<(), ErrorCode> {
        let (channel, rules) = known(turn.cx.snapshot, self.instance(), channel.as_str())?;
        let Err(at) = self.find(&channel) else {
            return Err(ErrorCode::AlreadySubscribed);
        };
        if self.subscriptions.len() >= self.subscriptions_max(turn.cx) {
            return Err(ErrorCode::LimitExceeded);
        }
        self.insert(at, channel, VERIFYING, None);
        self.begin(turn, 0, at, rules, &request, Some(grant), Told::Push);
        Ok(())
    }

    fn unsubscribe_by_server(&mut self, turn: &mut Turn<'_>, channel: &Channel) -> Closes {
        // Their client hears that they are refused; behind one there may be another.
        while self.is_verifying(channel) {
            self.give_up_proof(turn, channel, ErrorCode::PermissionDenied)?;
        }
        if let Ok(at) = self.find(channel) {
            self.take_back(turn, at);
        }
        Ok(())
    }

    /// Ends a subscription for good, or refuses what would have become one.
    pub(super) fn take_back(&mut self, turn: &mut Turn<'_>, at: usize) {
        let pending = self.subscriptions[at].pending;
        if pending != 0 && self.withdraw(pending) {
            self.subscriptions.remove(at);
            if let Some(subscribe) = self.settle(pending) {
                turn.fail(subscribe.id, ErrorCode::PermissionDenied);
            }
            return;
        }
        self.unsubscribed_by_server(turn, at, Unsubscribed::Server);
    }
}
