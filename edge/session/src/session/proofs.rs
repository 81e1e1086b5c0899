//! Commands that wait for somebody outside: subscription tokens that are being verified, and
//! publications about which the application's backend is asked.
//!
//! What the client asks of a channel behind a subscribe whose token is being verified, or behind
//! such a publication, is done behind it: commands about one channel keep their order. Those about
//! other channels go on.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use gb6_core_model::{Channel, Disconnect, ErrorCode, Unsubscribed, limits};
use gb6_core_wire::client::{
    Command, Method, SubRefreshRequest, SubRefreshResult, SubscribeRequest,
};

use super::Closes;
use super::asking::Publishing;
use super::live::{Asked, Live};
use super::liveness::{expires_at, seconds_until};
use super::reply::Turn;
use super::rpc::channel_named;
use super::subscription::{Told, VERIFYING};
use super::types::{SubscriptionClaims, SubscriptionGrant, TokenError, count};
use crate::revocation::TokenRef;

/// What is waited for; this exists while there is anything.
#[derive(Default)]
pub(super) struct Proofs {
    /// In the order in which they came: at most two for each subscription, and as many publications
    /// as may be asked about at once.
    under_way: Vec<Proof>,
    /// Commands that wait for one of them.
    held: usize,
    /// Their bytes.
    held_bytes: usize,
}

struct Proof {
    request: u32,
    /// The command's id.
    id: u32,
    channel: Channel,
    what: What,
    /// Commands about the channel that came behind it.
    behind: VecDeque<Command>,
}

/// What a good token gives, and by what it can be revoked.
type Shown = (SubscriptionGrant, TokenRef);

pub(super) enum What {
    Subscribe(Box<SubscribeRequest>),
    Refresh,
    Publish(Box<Publishing>),
}

impl Proof {
    fn is_subscribe_to(&self, name: &str) -> bool {
        matches!(self.what, What::Subscribe(_)) && self.channel.as_str() == name
    }

    /// Whether commands about this channel wait for it.
    fn is_before(&self, name: &str) -> bool {
        !matches!(self.what, What::Refresh) && self.channel.as_str() == name
    }
}

impl Live {
    /// Commands without a reply because of what is waited for.
    pub(super) fn unproven(&self) -> usize {
        let proofs = self.proofs.as_ref();
        proofs.map_or(0, |p| p.under_way.len() + p.held)
    }

    /// Has the token of a subscribe verified, for which the list has an entry.
    pub(super) fn prove_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: Channel,
        mut request: SubscribeRequest,
    ) {
        let token = std::mem::take(&mut request.token);
        self.prove(turn, id, channel, token, What::Subscribe(Box::new(request)));
    }

    /// The client brings a fresh token for a subscription.
    pub(super) fn sub_refresh(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &SubRefreshRequest,
    ) -> Result<(), ErrorCode> {
        // Shared-poll subscriptions are not offered.
        if request.r#type != 0 {
            return Err(ErrorCode::NotAvailable);
        }
        let channel = Channel::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        if request.token.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let at = self.find(&channel).ok();
        let client_side = at.is_some_and(|at| {
            let subscription = &self.subscriptions[at];
            subscription.pending == 0 && !subscription.is_server_side()
        });
        if !client_side {
            return Err(ErrorCode::PermissionDenied);
        }
        let proofs = self.proofs.iter().flat_map(|p| &p.under_way);
        if proofs.into_iter().any(|p| p.channel == channel) {
            return Err(ErrorCode::TooManyRequests);
        }
        self.prove(turn, id, channel, request.token.clone(), What::Refresh);
        Ok(())
    }

    fn prove(&mut self, turn: &mut Turn<'_>, id: u32, channel: Channel, token: String, what: What) {
        let request = self.under_way(id, channel.clone(), what);
        turn.verify_subscription(request, channel, token);
    }

    /// Lists what is waited for; its number.
    pub(super) fn under_way(&mut self, id: u32, channel: Channel, what: What) -> u32 {
        self.verifications += 1;
        let request = self.verifications;
        self.proofs.get_or_insert_default().under_way.push(Proof {
            request,
            id,
            channel,
            what,
            behind: VecDeque::new(),
        });
        request
    }

    /// Publications about which the backend is being asked.
    pub(super) fn being_asked(&self) -> usize {
        let under_way = self.proofs.iter().flat_map(|p| &p.under_way);
        let asked = under_way.filter(|p| matches!(p.what, What::Publish(_)));
        asked.count()
    }

    /// Keeps a command back that is about a channel whose subscribe waits for its token, or about
    /// which the backend is asked; gives back one that need not wait.
    pub(super) fn hold(&mut self, turn: &mut Turn<'_>, mut command: Command) -> Option<Command> {
        let Some(proofs) = &mut self.proofs else {
            return Some(command);
        };
        let name = channel_of(&command);
        let proof = name.and_then(|name| {
            let mut under_way = proofs.under_way.iter_mut();
            under_way.find(|p| p.is_before(&name))
        });
        let Some(proof) = proof else {
            return Some(command);
        };
        let bytes = size(&command);
        let most = turn.cx.config.verifying_waiting_max;
        // Overflow policy of this queue: the newest is refused, by an error that says to try again.
        if proofs.held >= most || proofs.held_bytes + bytes > limits::CLIENT_FRAME_BYTES_MAX {
            turn.fail(command.id, ErrorCode::TooManyRequests);
            return None;
        }
        detach(&mut command);
        proof.behind.push_back(command);
        proofs.held += 1;
        proofs.held_bytes += bytes;
        None
    }

    /// A subscription token was verified.
    pub(super) fn proven(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        result: Result<SubscriptionClaims, TokenError>,
    ) -> Closes {
        let is_it = |p: &Proof| p.request == request && !matches!(p.what, What::Publish(_));
        let Some(proof) = self.take_proof(is_it) else {
            return Ok(());
        };
        let grant = match result {
            Ok(claims) if !self.is_for_us(&proof.channel, &claims) => {
                count(&turn.cx.counters.tokens_refused);
                return Err(Disconnect::InvalidToken);
            }
            Ok(claims) => Ok((claims.grant, claims.token)),
            Err(TokenError::Unavailable) => Err(ErrorCode::Internal),
            Err(TokenError::Invalid) => Err(ErrorCode::PermissionDenied),
            Err(TokenError::Expired) => Err(ErrorCode::TokenExpired),
        };
        if matches!(
            grant,
            Err(ErrorCode::PermissionDenied | ErrorCode::TokenExpired)
        ) {
            count(&turn.cx.counters.tokens_refused);
        }
        let Proof {
            id,
            channel,
            what,
            behind,
            ..
        } = proof;
        match what {
            What::Subscribe(wanted) => {
                let begun =
                    grant.and_then(|g| self.proven_subscribe(turn, id, &channel, &wanted, g));
                if let Err(code) = begun {
                    self.refused(turn, id, &channel, code);
                }
            }
            What::Refresh => self.proven_refresh(turn, id, &channel, grant),
            What::Publish(_) => {}
        }
        self.go_on(turn, &channel, behind)
    }

    /// Takes what was waited for under this number from the list, if it is that: the command's id,
    /// the channel, and what waits behind it.
    pub(super) fn take_under_way(
        &mut self,
        request: u32,
        is_it: impl Fn(&What) -> bool,
    ) -> Option<(u32, Channel, What, VecDeque<Command>)> {
        let proof = self.take_proof(|p| p.request == request && is_it(&p.what))?;
        Some((proof.id, proof.channel, proof.what, proof.behind))
    }

    /// Whether a token was made for this session and channel.
    fn is_for_us(&self, channel: &Channel, claims: &SubscriptionClaims) -> bool {
        let client = claims.client.as_ref();
        self.identity() == (&claims.instance, claims.user.as_str())
            && claims.channel == channel.as_str()
            && client.is_none_or(|c| *c == self.person().client)
    }

    fn proven_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        wanted: &SubscribeRequest,
        (grant, token): Shown,
    ) -> Result<(), ErrorCode> {
        // The rules may have changed while the token was looked at.
        let asker = self.asker();
        let (_, rules) = asker.may_subscribe(turn.cx.snapshot, channel.as_str(), true)?;
        let at = self.find(channel).map_err(|_| ErrorCode::Internal)?;
        self.begin(turn, id, at, rules, wanted, Some(grant), Told::Reply);
        self.held_by(channel, token);
        Ok(())
    }

    /// A subscription is the client's by this token from here on.
    fn held_by(&mut self, channel: &Channel, token: TokenRef) {
        if let Ok(at) = self.find(channel) {
            let terms = self.subscriptions[at].terms.get_or_insert_default();
            terms.token = Some(token);
        }
    }

    /// Whether a subscription is the client's by a token that is revoked.
    pub(super) fn has_revoked_token(&self, revoked: impl Fn(&TokenRef) -> bool) -> bool {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.any(|s| s.token().is_some_and(&revoked))
    }

    /// Ends the subscriptions that are the client's by tokens that are revoked.
    pub(super) fn tokens_revoked(
        &mut self,
        turn: &mut Turn<'_>,
        revoked: impl Fn(&TokenRef) -> bool,
    ) {
        for at in (0..self.subscriptions.len()).rev() {
            if self.subscriptions[at].token().is_some_and(&revoked) {
                count(&turn.cx.counters.subscriptions_revoked);
                self.take_back(turn, at);
            }
        }
    }

    fn proven_refresh(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        shown: Result<Shown, ErrorCode>,
    ) {
        let Ok(at) = self.find(channel) else {
            return turn.fail(id, ErrorCode::PermissionDenied);
        };
        match shown {
            Ok((grant, token)) => {
                self.held_by(channel, token);
                if !grant.info.is_empty() {
                    self.introduce_in(turn, at, grant.info);
                }
                let expires = expires_at(turn.cx, grant.expires_unix_ms);
                let terms = self.subscriptions[at].terms.get_or_insert_default();
                terms.expires = expires;
                if let Some(end) = expires {
                    self.times.subscription_expires(end);
                }
                let ttl = expires.map(|end| seconds_until(end, turn.cx.now_ms));
                let result = SubRefreshResult {
                    expires: ttl.is_some(),
                    ttl: ttl.unwrap_or(0),
                    ..SubRefreshResult::default()
                };
                turn.answer(id, result);
            }
            // SDKs end a subscription for good when its refresh fails with this. Told that it
            // expired they subscribe again, and fetch a new token when the old one is refused.
            Err(ErrorCode::TokenExpired) => {
                let then = Asked::Ended(Box::new((channel.clone(), Unsubscribed::Expired)));
                self.end_subscription(turn, at, id, then);
            }
            Err(code) => turn.fail(id, code),
        }
    }

    /// A subscribe is not waited for any more: it is answered with an error, and what waited behind
    /// it goes on.
    pub(super) fn give_up_proof(
        &mut self,
        turn: &mut Turn<'_>,
        channel: &Channel,
        code: ErrorCode,
    ) -> Closes {
        let Some(proof) = self.take_proof(|p| p.is_subscribe_to(channel.as_str())) else {
            return Ok(());
        };
        self.refused(turn, proof.id, channel, code);
        self.go_on(turn, channel, proof.behind)
    }

    /// The subscription has ended: a fresh token for it is not waited for any more.
    pub(super) fn drop_refresh(&mut self, turn: &mut Turn<'_>, channel: &Channel) {
        let refresh = |p: &Proof| matches!(p.what, What::Refresh) && p.channel == *channel;
        if let Some(proof) = self.take_proof(refresh) {
            turn.fail(proof.id, ErrorCode::PermissionDenied);
        }
    }

    fn take_proof(&mut self, is: impl Fn(&Proof) -> bool) -> Option<Proof> {
        let proofs = self.proofs.as_mut()?;
        let at = proofs.under_way.iter().position(is)?;
        let proof = proofs.under_way.remove(at);
        proofs.held -= proof.behind.len();
        proofs.held_bytes -= proof.behind.iter().map(size).sum::<usize>();
        if proofs.under_way.is_empty() {
            self.proofs = None;
        }
        Some(proof)
    }

    fn refused(&mut self, turn: &mut Turn<'_>, id: u32, channel: &Channel, code: ErrorCode) {
        if let Ok(at) = self.find(channel)
            && self.subscriptions[at].pending == VERIFYING
        {
            self.subscriptions.remove(at);
        }
        turn.fail(id, code);
    }

    /// Carries out what waited, until one of them has to be waited for in its turn.
    pub(super) fn go_on(
        &mut self,
        turn: &mut Turn<'_>,
        channel: &Channel,
        mut behind: VecDeque<Command>,
    ) -> Closes {
        while let Some(command) = behind.pop_front() {
            self.dispatch(turn, command)?;
            // They had room, and still have: nothing came in between.
            if let Some(proofs) = &mut self.proofs {
                let mut under_way = proofs.under_way.iter_mut();
                if let Some(next) = under_way.find(|p| p.is_before(channel.as_str())) {
                    proofs.held += behind.len();
                    proofs.held_bytes += behind.iter().map(size).sum::<usize>();
                    next.behind.append(&mut behind);
                }
            }
        }
        Ok(())
    }
}

/// The channel that a command is about, as it names it; an unsubscribe waits for nothing.
fn channel_of(command: &Command) -> Option<Cow<'_, str>> {
    let name = match command.method() {
        Method::Subscribe(r) => &r.channel,
        Method::Publish(r) => &r.channel,
        Method::Presence(r) => &r.channel,
        Method::PresenceStats(r) => &r.channel,
        Method::History(r) => &r.channel,
        Method::SubRefresh(r) => &r.channel,
        Method::Rpc(r) => return channel_named(&r.data).map(Cow::Owned),
        _ => return None,
    };
    Some(Cow::Borrowed(name))
}

/// About the bytes that a command holds.
fn size(command: &Command) -> usize {
    let fields = match command.method() {
        Method::Subscribe(r) => r.token.len() + r.data.len() + r.tf.len(),
        Method::Publish(r) => r.data.len(),
        Method::Rpc(r) => r.data.len(),
        Method::SubRefresh(r) => r.token.len(),
        _ => 0,
    };
    fields + size_of::<Command>()
}

/// Lets go of the frame that a command came in, which may be many times as large.
fn detach(command: &mut Command) {
    let publish = command.publish.iter_mut().map(|p| &mut p.data);
    let rpc = command.rpc.iter_mut().map(|r| &mut r.data);
    let subscribe = command.subscribe.iter_mut();
    let subscribe = subscribe.flat_map(|s| [&mut s.data, &mut s.tf]);
    for data in publish.chain(rpc).chain(subscribe) {
        *data = Bytes::copy_from_slice(data);
    }
}
