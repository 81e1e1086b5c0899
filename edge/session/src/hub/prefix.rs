//! Subscribers of prefixes: of every room of their instance in this shard whose name begins alike.
//!
//! They are told what comes live and nothing else. When the link to the owner ends, or the instance
//! gets rooms in other shards, something may be missing: such a subscription ends, at the pace at
//! which those end that the log can not continue, and its client begins another.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use gb6_core_model::prefix::{self, MARK, PrefixMap};
use gb6_core_model::{Channel, ErrorCode, SessionId, Unsubscribed, limits};
use gb6_core_wire::client::{Dialect, Event};
use gb6_core_wire::mesh::{
    Deliver, OwnerFrame, PrefixFollowed, PrefixRef, Publication, RoomRef, ShardRef,
};

use super::encode::{OfPrefix, PrefixFrames};
use super::select::{Filters, Special};
use super::{Asked, Hub, HubOut};
use crate::following::{Ended, Following};
use crate::request::{Answer, FollowQuery, Notice, SubscribeAnswer};

/// The tag that names a publication's channel: what SDKs show, which leave the field `channel` out.
pub(super) const CHANNEL_TAG: &str = "gb6.channel";

/// The prefixes that have subscribers here.
pub(super) struct Prefixes<S> {
    by_instance: BTreeMap<String, PrefixMap<Followed<S>>>,
    /// Each subscription, by session and by the name that stands for the prefix.
    members: BTreeSet<(SessionId, Arc<RoomRef>)>,
    /// Prefixes that the owner was asked for, by request number, so in the order of asking.
    asked: BTreeMap<u64, Arc<RoomRef>>,
    /// Subscribes that had to wait, with when they came and their tokens, in that order; some are
    /// over by now. Each goes when it would have had no answer in time, so there are as many as come
    /// in that time.
    waiting: VecDeque<(u64, SessionId, u64, Arc<RoomRef>)>,
    /// Subscriptions to be ended.
    ending: BTreeMap<(SessionId, Arc<RoomRef>), Ending<S>>,
    /// Bytes of tags filters.
    filter_bytes: usize,
}

/// What is known of one prefix.
struct Followed<S> {
    key: Arc<RoomRef>,
    /// The owner answers for what comes from here on.
    confirmed: bool,
    /// The request that it has not answered.
    request: Option<u64>,
    subscribers: BTreeMap<SessionId, Subscriber<S>>,
    filters: Option<Box<Filters>>,
}

struct Subscriber<S> {
    handle: S,
    dialect: Dialect,
    /// The subscribe's number.
    token: u64,
    special: Option<Box<Special>>,
    following: Arc<Following>,
}

struct Ending<S> {
    handle: S,
    token: u64,
    following: Arc<Following>,
}

impl<S> Default for Prefixes<S> {
    fn default() -> Self {
        Self {
            by_instance: BTreeMap::new(),
            members: BTreeSet::new(),
            asked: BTreeMap::new(),
            waiting: VecDeque::new(),
            ending: BTreeMap::new(),
            filter_bytes: 0,
        }
    }
}

impl<S> Prefixes<S> {
    /// Subscribes that had to wait, also those that are over.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody follows any.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.ending.is_empty()
    }

    /// Different prefixes.
    pub(super) fn len(&self) -> usize {
        self.by_instance.values().map(PrefixMap::len).sum()
    }

    /// Subscriptions.
    pub(super) fn subscribers(&self) -> usize {
        self.members.len()
    }

    /// Subscriptions that wait to be ended.
    pub(super) fn ending(&self) -> usize {
        self.ending.len()
    }

    /// Bytes of tags filters.
    pub(super) fn filter_bytes(&self) -> usize {
        self.filter_bytes
    }

    fn followed(&mut self, key: &RoomRef) -> Option<&mut Followed<S>> {
        let prefixes = self.by_instance.get_mut(&key.instance)?;
        prefixes.get_mut(without_mark(key))
    }

    /// Takes a subscription out; gives it back where it was one.
    fn take(&mut self, session: SessionId, key: &Arc<RoomRef>) -> Option<Subscriber<S>> {
        self.members.remove(&(session, key.clone()));
        let followed = self.followed(key)?;
        let gone = followed.subscribers.remove(&session)?;
        let filter = gone.special.as_ref().and_then(|special| special.filter);
        let mut freed = 0;
        if let (Some(at), Some(filters)) = (filter, &mut followed.filters) {
            let before = filters.bytes();
            filters.remove(at);
            freed = before - filters.bytes();
            if filters.is_empty() {
                followed.filters = None;
            }
        }
        self.filter_bytes -= freed;
        Some(gone)
    }

    /// Forgets a prefix without subscribers: whether the owner knows of it.
    fn drop_if_unused(&mut self, key: &RoomRef) -> bool {
        if self.followed(key).is_none_or(|f| !f.subscribers.is_empty()) {
            return false;
        }
        let Some(prefixes) = self.by_instance.get_mut(&key.instance) else {
            return false;
        };
        let gone = prefixes.remove(without_mark(key));
        if prefixes.is_empty() {
            self.by_instance.remove(&key.instance);
        }
        let request = gone.as_ref().and_then(|gone| gone.request);
        if let Some(request) = request {
            self.asked.remove(&request);
        }
        gone.is_some_and(|gone| gone.confirmed || gone.request.is_some())
    }
}

impl<S: Clone> Hub<S> {
    /// A session wants to follow a prefix.
    pub(super) fn follow(&mut self, asked: Asked<S>, query: FollowQuery, out: &mut impl HubOut<S>) {
        let key = Arc::new(asked.room.clone());
        let member = (asked.session, key.clone());
        let known = self.prefixes.members.contains(&member);
        let place = match known {
            true => Err(ErrorCode::AlreadySubscribed),
            false => self.place_for(&key),
        };
        if let Err(code) = place {
            if query.following.end() == Ended::Unanswered {
                out.complete(&asked.handle, asked.token, Answer::Failed(code));
            }
            return;
        }
        let room = self.filter_room();
        let prefixes = self.prefixes.by_instance.entry(key.instance.clone());
        let prefixes = prefixes.or_default();
        let followed = prefixes.get_or_insert_with(without_mark(&key), || Followed {
            key: key.clone(),
            confirmed: false,
            request: None,
            subscribers: BTreeMap::new(),
            filters: None,
        });
        let mut filter = None;
        if let Some(wanted) = query.filter {
            let filters = followed.filters.get_or_insert_default();
            let before = filters.bytes();
            filter = filters.add(wanted, room);
            let added = filters.bytes() - before;
            self.prefixes.filter_bytes += added;
            if filter.is_none() {
                self.counters.filters_refused += 1;
                if query.following.end() == Ended::Unanswered {
                    let full = Answer::Failed(ErrorCode::LimitExceeded);
                    out.complete(&asked.handle, asked.token, full);
                }
                self.let_prefix_go(&key, out);
                return;
            }
        }
        let special = (filter.is_some() || query.without_own.is_some()).then(|| {
            Box::new(Special {
                filter,
                own: query.without_own,
                delta: None,
            })
        });
        let subscriber = Subscriber {
            handle: asked.handle,
            dialect: query.dialect,
            token: asked.token,
            special,
            following: query.following,
        };
        let confirmed = followed.confirmed;
        if confirmed {
            confirm(&subscriber, out);
        }
        followed.subscribers.insert(asked.session, subscriber);
        self.prefixes.members.insert(member);
        if !confirmed {
            let waiting = (asked.now, asked.session, asked.token, key.clone());
            self.prefixes.waiting.push_back(waiting);
            self.ask_for_prefix(&key, out);
        }
    }

    /// Bytes that filters of this hub may still have.
    pub(super) fn filter_room(&self) -> usize {
        let used = self.filter_bytes + self.prefixes.filter_bytes;
        self.config.filter_bytes.saturating_sub(used)
    }

    /// Whether the instance may have this prefix here.
    // overflow: the subscribe is answered 106.
    fn place_for(&self, key: &RoomRef) -> Result<(), ErrorCode> {
        if prefix::checked(without_mark(key)).is_err() {
            return Err(ErrorCode::BadRequest);
        }
        let prefixes = self.prefixes.by_instance.get(&key.instance);
        let full = prefixes.is_some_and(|prefixes| {
            prefixes.len() >= limits::PREFIXES_INSTANCE_MAX && !prefixes.contains(without_mark(key))
        });
        match full {
            true => Err(ErrorCode::LimitExceeded),
            false => Ok(()),
        }
    }

    fn ask_for_prefix(&mut self, key: &Arc<RoomRef>, out: &mut impl HubOut<S>) {
        if !self.lease.is_attached() {
            return;
        }
        let Some(followed) = self.prefixes.followed(key).filter(|f| f.request.is_none()) else {
            return;
        };
        let request = self.next_op;
        self.next_op += 1;
        followed.request = Some(request);
        self.prefixes.asked.insert(request, key.clone());
        out.to_owner(OwnerFrame::FollowPrefix(reference(key, request)));
    }

    /// The owner has answered.
    pub(super) fn prefix_followed(&mut self, frame: PrefixFollowed, out: &mut impl HubOut<S>) {
        // Without anybody there is nothing to answer: everybody has gone meanwhile.
        let Some(key) = self.prefixes.asked.remove(&frame.request) else {
            return;
        };
        let Some(followed) = self.prefixes.followed(&key) else {
            return;
        };
        followed.request = None;
        if frame.error == 0 {
            followed.confirmed = true;
            for subscriber in followed.subscribers.values() {
                confirm(subscriber, out);
            }
            return;
        }
        let code = ErrorCode::from_code(frame.error).unwrap_or(ErrorCode::Internal);
        let sessions: Vec<SessionId> = followed.subscribers.keys().copied().collect();
        for session in sessions {
            self.fail_follower(session, &key, code, out);
        }
        self.let_prefix_go(&key, out);
    }

    fn fail_follower(
        &mut self,
        session: SessionId,
        key: &Arc<RoomRef>,
        code: ErrorCode,
        out: &mut impl HubOut<S>,
    ) {
        if let Some(gone) = self.prefixes.take(session, key)
            && gone.following.end() == Ended::Unanswered
        {
            out.complete(&gone.handle, gone.token, Answer::Failed(code));
        }
    }

    /// A session follows a prefix no longer. The last hub to hear of it answers.
    pub(super) fn unfollow(
        &mut self,
        asked: Asked<S>,
        following: &Following,
        out: &mut impl HubOut<S>,
    ) {
        let key = Arc::new(asked.room.clone());
        let ours = |other: &Arc<Following>| std::ptr::eq(Arc::as_ptr(other), following);
        let member = (asked.session, key.clone());
        self.prefixes.ending.remove(&member);
        let subscriber = self
            .prefixes
            .followed(&key)
            .and_then(|followed| followed.subscribers.get(&asked.session));
        if subscriber.is_some_and(|subscriber| ours(&subscriber.following)) {
            self.fail_follower(asked.session, &key, ErrorCode::Internal, out);
        }
        self.let_prefix_go(&key, out);
        if following.left() {
            out.complete(&asked.handle, asked.token, Answer::Unsubscribed);
        }
    }

    /// A session has ended.
    pub(super) fn leave_prefixes(&mut self, session: SessionId, out: &mut impl HubOut<S>) {
        if self.prefixes.is_empty() {
            return;
        }
        let first = (session, Arc::new(RoomRef::default()));
        let members = self.prefixes.members.range(first.clone()..);
        let ending = self
            .prefixes
            .ending
            .range(first..)
            .map(|(member, _)| member);
        let of_session = |(of, _): &&(SessionId, Arc<RoomRef>)| *of == session;
        let members = members.take_while(of_session);
        let members: Vec<_> = members
            .chain(ending.take_while(of_session))
            .cloned()
            .collect();
        for member in members {
            self.prefixes.take(session, &member.1);
            self.prefixes.ending.remove(&member);
            self.let_prefix_go(&member.1, out);
        }
    }

    /// Tells the owner of a prefix that nobody here follows any more.
    fn let_prefix_go(&mut self, key: &RoomRef, out: &mut impl HubOut<S>) {
        if self.prefixes.drop_if_unused(key) && self.lease.is_attached() {
            out.to_owner(OwnerFrame::UnfollowPrefix(reference(key, 0)));
        }
    }

    /// Hands what came live to whoever follows a prefix of its room's name; not to those for whom
    /// more than `bound` bytes wait.
    pub(super) fn hand_to_followers(
        &mut self,
        frame: &Deliver,
        bound: usize,
        out: &mut impl HubOut<S>,
    ) {
        let (room, publication) = (&frame.room, &frame.publication);
        if self.prefixes.by_instance.is_empty() || !prefix::may_be_followed(&room.channel) {
            return;
        }
        let Some(prefixes) = self.prefixes.by_instance.get_mut(&room.instance) else {
            return;
        };
        let (mut handed, mut unwanted, mut dropped) = (0, 0, 0);
        let told = OnceCell::new();
        let mut frames: Option<PrefixFrames<'_>> = None;
        prefixes.for_each_of_mut(&room.channel, |followed| {
            if let Some(filters) = &mut followed.filters {
                filters.look_at(publication);
            }
            let frames = frames.get_or_insert_with(|| {
                out.of_room(room);
                let told = told.get_or_init(|| named(publication, &room.channel));
                PrefixFrames::new(Event::OfPrefix(told, &room.channel))
            });
            let mut made: OfPrefix = [None, None];
            for subscriber in followed.subscribers.values() {
                if !subscriber.following.is_open() {
                    continue;
                }
                let filters = followed.filters.as_deref();
                if (subscriber.special.as_ref()).is_some_and(|s| !s.wants(publication, filters)) {
                    unwanted += 1;
                    continue;
                }
                if bound < usize::MAX && out.backlog(&subscriber.handle) > bound {
                    dropped += 1;
                    continue;
                }
                let frame = frames.get(&mut made, subscriber.dialect, &followed.key.channel);
                out.deliver(&subscriber.handle, frame);
                handed += 1;
            }
        });
        self.counters.unwanted += unwanted;
        self.counters.signals_dropped += dropped;
        self.counters.prefix_fan_out += handed;
        self.counters.encoded += frames.map_or(0, |frames| frames.made());
    }

    /// The link is gone: what comes until there is another one is missed.
    pub(super) fn prefixes_link_down(&mut self) {
        self.prefixes.asked.clear();
        let mut missed = Vec::new();
        for prefixes in self.prefixes.by_instance.values_mut() {
            for (_, followed) in prefixes.iter_mut() {
                followed.request = None;
                if std::mem::take(&mut followed.confirmed) {
                    let sessions = followed.subscribers.keys();
                    missed.extend(sessions.map(|session| (*session, followed.key.clone())));
                }
            }
        }
        self.end_following(missed);
    }

    /// There is another placement: `shards` says which shards have rooms of an instance. A
    /// subscription that is in others has to begin anew. Costs a look at every one.
    pub fn placement_changed(&mut self, shards: impl Fn(&str) -> Option<Vec<ShardRef>>) {
        let mut moved = Vec::new();
        for (instance, prefixes) in &self.prefixes.by_instance {
            let Some(now) = shards(instance) else {
                continue;
            };
            for (_, followed) in prefixes.iter() {
                let subscribers = followed.subscribers.iter();
                let elsewhere = subscribers.filter(|(_, s)| s.following.shards() != now);
                moved.extend(elsewhere.map(|(session, _)| (*session, followed.key.clone())));
            }
        }
        self.end_following(moved);
    }

    /// The same for one session, which has followed something since: its request may have been made by
    /// another placement than the present one.
    pub fn placement_of(
        &mut self,
        session: SessionId,
        shards: impl Fn(&str) -> Option<Vec<ShardRef>>,
    ) {
        let first = (session, Arc::new(RoomRef::default()));
        let members = self.prefixes.members.range(first..);
        let members = members.take_while(|(of, _)| *of == session).cloned();
        let mut moved: Vec<_> = members.collect();
        moved.retain(|(_, key)| {
            let now = shards(&key.instance);
            let subscriber = self.prefixes.followed(key);
            let subscriber = subscriber.and_then(|f| f.subscribers.get(&session));
            let here = subscriber.map(|s| s.following.shards());
            now.is_some_and(|now| here.is_some_and(|here| here != now))
        });
        self.end_following(moved);
    }

    fn end_following(&mut self, which: Vec<(SessionId, Arc<RoomRef>)>) {
        for member in which {
            if let Some(gone) = self.prefixes.take(member.0, &member.1) {
                let ending = Ending {
                    handle: gone.handle,
                    token: gone.token,
                    following: gone.following,
                };
                self.prefixes.ending.insert(member, ending);
            }
        }
    }

    /// The owner accepted: it is asked for the prefixes of those that wait.
    pub(super) fn ask_for_prefixes(&mut self, out: &mut impl HubOut<S>) {
        let all = self.prefixes.by_instance.values();
        let all = all.flat_map(|prefixes| prefixes.iter().map(|(_, f)| f.key.clone()));
        let keys: Vec<Arc<RoomRef>> = all.collect();
        for key in keys {
            if !self.prefixes.drop_if_unused(&key) {
                self.ask_for_prefix(&key, out);
            }
        }
    }

    /// Gives up on what waits for too long, and ends what has to end.
    pub(super) fn tick_prefixes(&mut self, now: u64, out: &mut impl HubOut<S>) {
        if self.prefixes.is_empty() {
            // Those who waited have all gone.
            self.prefixes.waiting = VecDeque::new();
            return;
        }
        let answer_ms = self.config.answer_ms;
        let late = |(at, ..): &mut (u64, _, _, _)| now >= *at + answer_ms;
        let code = self.no_answer();
        while let Some((_, session, token, key)) = self.prefixes.waiting.pop_front_if(late) {
            let followed = self.prefixes.followed(&key).filter(|f| !f.confirmed);
            let subscriber = followed.and_then(|f| f.subscribers.get(&session));
            if subscriber.is_some_and(|s| s.token == token) {
                self.counters.timeouts += 1;
                self.fail_follower(session, &key, code, out);
                self.let_prefix_go(&key, out);
            }
        }
        // Each look takes one out or is the last, so that a tick costs what it ends, not what waits.
        while let Some(first) = self.prefixes.ending.first_entry() {
            // Only those that come back at once need a pace.
            if first.get().following.is_open() && !out.may_evict() {
                break;
            }
            let (member, ending) = first.remove_entry();
            match ending.following.end() {
                Ended::Before => {}
                Ended::Unanswered => {
                    let failed = Answer::Failed(ErrorCode::OwnerMoving);
                    out.complete(&ending.handle, ending.token, failed);
                }
                Ended::Open => {
                    self.counters.evicted += 1;
                    // The name came from a request, so it parses.
                    if let Ok(channel) = Channel::parse(&member.1.channel) {
                        let why = Unsubscribed::InsufficientState;
                        out.notice(&ending.handle, Notice::Unsubscribed { channel, why });
                    }
                }
            }
            self.let_prefix_go(&member.1, out);
        }
    }
}

/// The owner answers for a subscriber's prefix in this shard; the last shard answers the subscribe.
fn confirm<S>(subscriber: &Subscriber<S>, out: &mut impl HubOut<S>) {
    subscriber.following.confirmed(|| {
        let answer = SubscribeAnswer {
            epoch: Arc::from(""),
            offset: 0,
            recovered: false,
            publications: Vec::new(),
            number: 0,
        };
        out.complete(
            &subscriber.handle,
            subscriber.token,
            Answer::Subscribed(Box::new(answer)),
        );
    });
}

/// The publication with its channel among the tags.
fn named(publication: &Publication, channel: &str) -> Publication {
    let mut told = publication.clone();
    let tag = (CHANNEL_TAG.to_owned(), channel.to_owned());
    told.tags.extend([tag]);
    told
}

fn without_mark(key: &RoomRef) -> &str {
    key.channel.strip_suffix(MARK).unwrap_or(&key.channel)
}

fn reference(key: &RoomRef, request: u64) -> PrefixRef {
    PrefixRef {
        instance: key.instance.clone(),
        prefix: without_mark(key).to_owned(),
        request,
    }
}
