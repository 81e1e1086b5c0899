//! The machine of one shard at one edge: the rooms with subscribers here, the publishes without an
//! answer, and the attachment to the shard's owner.
//!
//! The one promise: a subscriber is handed every publication behind the position that its answer
//! named, in order and once, or is told that its subscription ended. All subscribers of a room
//! stand at the room's position, so a live publication costs one comparison for the room and one
//! hand-over per subscriber. Whoever is not there yet is a joiner, not a subscriber.

pub(crate) mod cost;
mod delta;
mod encode;
mod ends;
mod erase;
mod fill;
mod interest;
mod introduce;
mod join;
mod lease;
mod link;
mod live;
mod numbers;
mod out;
mod prefix;
mod publish;
mod query;
mod reads;
mod ring;
mod room;
mod select;
mod users;

use std::collections::{BTreeMap, VecDeque};

use gb6_core_model::{Channel, ErrorCode, Incarnation, SessionId, Unsubscribed};
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage, OwnerFrame, Presence};

pub use out::{Detach, HubConfig, HubCounters, HubGauges, HubOut};

use crate::request::{Answer, HubRequest, Notice, Request};
use ends::Ends;
use interest::{Interest, Interests};
use lease::Lease;
use numbers::Numbers;
use prefix::Prefixes;
use publish::{Doors, PendingPublish};
use query::Queries;
use reads::Reads;
use room::{Member, Room, RoomId, Rooms};
use users::Users;

/// The rooms of one shard that have subscribers at this edge. `S` is the driver's handle of a
/// session: cheap to clone.
pub struct Hub<S> {
    config: HubConfig,
    lease: Lease,
    rooms: Rooms<S>,
    interests: Interests,
    prefixes: Prefixes<S>,
    /// What each session is to each room.
    members: BTreeMap<(SessionId, RoomId), Member>,
    /// Requests without an answer, in the order in which they came: so their deadlines ascend.
    ops: BTreeMap<u64, Waiting<S>>,
    /// Numbers operations, publishes, queries and reads: never used twice.
    next_op: u64,
    doors: Doors,
    numbers: Numbers,
    reads: Reads,
    queries: Queries,
    users: Users<S>,
    ends: Ends,
    /// Ended at a pace ([`HubOut::may_evict`]), because the clients come back at once.
    evictions: BTreeMap<u64, Evicted<S>>,
    /// Rooms without members, with when they may go and which of their idle times is meant.
    idle: VecDeque<(u64, RoomId, u64)>,
    ring_bytes: usize,
    /// Of what deltas are made against.
    base_bytes: usize,
    /// Of tags filters.
    filter_bytes: usize,
    /// Of live publications that are kept behind gaps.
    ahead_bytes: usize,
    /// Of publications that were read to close gaps and are to be handed out.
    ready_bytes: usize,
    /// Rooms with a gap of which only a part was handed out.
    fills_paused: VecDeque<RoomId>,
    /// Where the search for ring bytes to give back goes on.
    ring_hand: RoomId,
    /// The time of the present input.
    now: u64,
    counters: HubCounters,
}

/// A request that waits for its answer.
struct Waiting<S> {
    /// When it came.
    at: u64,
    session: SessionId,
    handle: S,
    token: u64,
    op: Op,
}

/// What is waited for.
enum Op {
    /// A publish, at the door or sent.
    Publish(Box<PendingPublish>),
    /// A room to take in a joiner.
    Join(RoomId),
    /// An answer of the owner to a question.
    Query,
    /// A page of history.
    History,
}

/// A subscription that the log could not continue.
struct Evicted<S> {
    session: SessionId,
    room: RoomId,
    handle: S,
}

impl<S: Clone> Hub<S> {
    /// A hub that is attached to nobody.
    pub fn new(config: HubConfig) -> Self {
        Self {
            lease: Lease::default(),
            rooms: Rooms::new(),
            interests: Interests::default(),
            prefixes: Prefixes::default(),
            members: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            doors: Doors::default(),
            numbers: Numbers::new(config.numbered_rooms),
            reads: Reads::default(),
            queries: Queries::default(),
            users: Users::new(),
            ends: Ends::default(),
            evictions: BTreeMap::new(),
            idle: VecDeque::new(),
            ring_bytes: 0,
            base_bytes: 0,
            filter_bytes: 0,
            ahead_bytes: 0,
            ready_bytes: 0,
            fills_paused: VecDeque::new(),
            ring_hand: 0,
            now: 0,
            counters: HubCounters::default(),
            config,
        }
    }

    /// A session asks for something. Its requests must come in the order in which it made them.
    pub fn request(
        &mut self,
        now_ms: u64,
        from: &S,
        request: HubRequest,
        out: &mut impl HubOut<S>,
    ) {
        self.now = now_ms;
        let HubRequest {
            token,
            session,
            room,
            request,
        } = request;
        let asked = Asked {
            now: now_ms,
            session,
            handle: from.clone(),
            token,
            room,
        };
        match request {
            Request::Subscribe(query) => self.subscribe(asked, *query, out),
            Request::Unsubscribe => self.unsubscribe(asked, out),
            Request::Introduce(person) => self.introduce(asked, &person, out),
            Request::Follow(query) => self.follow(asked, *query, out),
            Request::Unfollow(following) => self.unfollow(asked, &following, out),
            Request::Publish(query) => self.publish(asked, *query, out),
            Request::Presence { entries } => self.presence(asked, entries, out),
            Request::History(query) => self.history(asked, query, out),
            Request::RemoveHistory {
                instance_epoch,
                first,
            } => self.remove_history(asked, instance_epoch, first, out),
            Request::Trace { offset } => self.trace(asked, offset, out),
            Request::EdgesOf { revision } => self.edges_of(asked, revision, out),
            Request::UserStatus {
                instance_epoch,
                wanted,
            } => self.user_status(asked, instance_epoch, wanted, out),
        }
    }

    /// A session has ended: its subscriptions end. Publishes that it made are still brought to an
    /// end; answers to what it waits for may still come and are to be passed over.
    pub fn session_closed(&mut self, now_ms: u64, session: SessionId, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        let rooms: Vec<RoomId> = self
            .members
            .range((session, 0)..=(session, RoomId::MAX))
            .map(|((_, room), _)| *room)
            .collect();
        for room in rooms {
            self.leave(session, room, out);
        }
        self.leave_prefixes(session, out);
        let ended = self.numbers.close(session);
        if ended {
            self.session_ended(session, out);
        }
    }

    /// A frame came on the shard stream.
    pub fn frame(&mut self, now_ms: u64, frame: EdgeFrame, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        match frame {
            EdgeFrame::Attached(f) => self.attached(now_ms, f, out),
            EdgeFrame::Refused(f) => self.refused(now_ms, f, out),
            _ if !self.lease.is_attached() => self.counters.stray_frames += 1,
            EdgeFrame::Published(f) => self.published(now_ms, f, out),
            EdgeFrame::Interested(f) => self.interested(now_ms, f, out),
            EdgeFrame::Deliver(f) => self.delivered(now_ms, f, out),
            EdgeFrame::Join(f) => self.joined_or_left(f, true, out),
            EdgeFrame::Leave(f) => self.joined_or_left(f, false, out),
            EdgeFrame::PresenceAnswer(f) => self.presence_answer(now_ms, f, out),
            EdgeFrame::Renewed(f) => self.renewed(f.sequence, out),
            EdgeFrame::Traced(f) => self.traced(now_ms, f, out),
            EdgeFrame::Erased(f) => self.erased(&f),
            EdgeFrame::HistoryRemoved(f) => self.history_removed(now_ms, &f, out),
            EdgeFrame::Signal(f) => self.signalled(f, out),
            EdgeFrame::UserAnswer(f) => self.edges_answered(now_ms, f, out),
            EdgeFrame::UserStatusAnswer(f) => self.status_answered(now_ms, f, out),
            EdgeFrame::PrefixFollowed(f) => self.prefix_followed(f, out),
            EdgeFrame::SessionsWritten(f) => self.sessions_written(&f),
        }
    }

    /// A page came on the catch-up stream.
    pub fn history_page(&mut self, now_ms: u64, page: HistoryPage, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        self.page(now_ms, page, out);
        self.start_reads(now_ms, out);
    }

    /// Time has passed: call it every 50 ms or so while the hub is in use.
    pub fn tick(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        // Before a renewal, which proves what was reported before it.
        self.tick_users(now_ms, out);
        self.report_sessions(now_ms, out);
        self.tick_lease(now_ms, out);
        self.tick_ops(now_ms, out);
        self.tick_queries(now_ms, out);
        self.tick_prefixes(now_ms, out);
        self.tick_evictions(out);
        self.tick_reads(now_ms, out);
        self.continue_fills(now_ms, out);
        self.tick_idle(now_ms, out);
    }

    /// What has happened.
    pub fn counters(&self) -> HubCounters {
        self.counters
    }

    /// How it stands. Costs a walk over the rooms.
    pub fn gauges(&self) -> HubGauges {
        HubGauges {
            attached: self.lease.is_attached(),
            shard_epoch: self.lease.shard_epoch(),
            rooms: self.rooms.len(),
            subscribers: self.rooms.iter().map(|(_, r)| r.subscribers.len()).sum(),
            prefixes: self.prefixes.len(),
            prefix_subscribers: self.prefixes.subscribers(),
            prefixes_waiting: self.prefixes.waiting(),
            interests_unanswered: self.interests.unanswered(),
            interests_waiting: self.interests.waiting(),
            joining: self.rooms.iter().map(|(_, r)| r.joiners.len()).sum(),
            unanswered: self
                .ops
                .values()
                .filter(|w| matches!(w.op, Op::Publish(_)))
                .count(),
            at_door: self.doors.waiting(),
            ring_bytes: self.ring_bytes,
            base_bytes: self.base_bytes,
            filter_bytes: self.filter_bytes + self.prefixes.filter_bytes(),
            ahead_bytes: self.ahead_bytes,
            ready_bytes: self.ready_bytes,
            evictions_waiting: self.evictions.len() + self.prefixes.ending(),
            users: self.users.len(),
            session_ends: self.ends.len(),
        }
    }

    /// The rooms of an instance that have subscribers here, by name, with how many. Costs a walk over
    /// the instance's rooms.
    pub fn subscribed<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = (&'a str, usize)> {
        let rooms = self.rooms.of_instance(instance);
        let rooms = rooms.filter(|room| !room.subscribers.is_empty());
        rooms.map(|room| (room.key.channel.as_str(), room.subscribers.len()))
    }

    /// Whether nothing is waited for: no room, no request, no publish, nobody who comes.
    pub fn is_idle(&self) -> bool {
        let asked = self.ops.is_empty() && !self.users.are_waited_for();
        self.rooms.len() == 0 && asked && self.prefixes.is_empty() && self.ends.len() == 0
    }

    fn wait(&mut self, asked: &Asked<S>, op: Op) -> u64 {
        let id = self.next_op;
        self.next_op += 1;
        self.ops.insert(
            id,
            Waiting {
                at: asked.now,
                session: asked.session,
                handle: asked.handle.clone(),
                token: asked.token,
                op,
            },
        );
        id
    }

    /// The code for a request that got no answer in time and changed nothing.
    fn no_answer(&self) -> ErrorCode {
        if self.lease.is_attached() {
            ErrorCode::Internal
        } else {
            ErrorCode::OwnerMoving
        }
    }

    /// Gives up on requests that wait for too long.
    fn tick_ops(&mut self, now: u64, out: &mut impl HubOut<S>) {
        while let Some(entry) = self.ops.first_entry() {
            if now < entry.get().at + self.config.answer_ms {
                return;
            }
            let id = *entry.key();
            let waiting = entry.remove();
            let code = match waiting.op {
                Op::Publish(publish) => self.give_up_publish(id, waiting.session, *publish, out),
                Op::Join(room) => {
                    self.counters.timeouts += 1;
                    self.forget_joiner(id, waiting.session, room);
                    self.no_answer()
                }
                Op::Query | Op::History => {
                    self.counters.timeouts += 1;
                    self.no_answer()
                }
            };
            out.complete(&waiting.handle, waiting.token, Answer::Failed(code));
        }
    }

    /// Ends every subscription of a room, as fast as they may be ended.
    fn evict_all(&mut self, id: RoomId, room: &mut Room<S>, out: &mut impl HubOut<S>) {
        room.filters = None;
        room.base = None;
        room.deltas = 0;
        for subscriber in std::mem::take(&mut room.subscribers) {
            let entry = self.next_op;
            self.next_op += 1;
            if let Some(person) = &subscriber.presence {
                self.tell_absent(room, person, out);
            }
            self.members
                .insert((subscriber.session, id), Member::Ending(entry));
            self.evictions.insert(
                entry,
                Evicted {
                    session: subscriber.session,
                    room: id,
                    handle: subscriber.handle,
                },
            );
        }
    }

    fn tick_evictions(&mut self, out: &mut impl HubOut<S>) {
        while !self.evictions.is_empty() && out.may_evict() {
            let Some((_, evicted)) = self.evictions.pop_first() else {
                return;
            };
            self.members.remove(&(evicted.session, evicted.room));
            self.counters.evicted += 1;
            if let Some(room) = self.rooms.get_mut(evicted.room) {
                // Names came from requests, so they parse.
                if let Ok(channel) = Channel::parse(&room.key.channel) {
                    out.notice(
                        &evicted.handle,
                        Notice::Unsubscribed {
                            channel,
                            why: Unsubscribed::InsufficientState,
                        },
                    );
                }
            }
            self.member_gone(evicted.room);
        }
    }

    /// A room has a member less; without any it may go after a while.
    fn member_gone(&mut self, id: RoomId) {
        if let Some(mut room) = self.rooms.take(id) {
            self.one_less(id, &mut room);
            self.rooms.put(id, room);
        }
    }

    fn one_less(&mut self, id: RoomId, room: &mut Room<S>) {
        room.members -= 1;
        if room.members == 0 {
            room.idle = self.next_op;
            self.next_op += 1;
            let at = self.now + self.config.linger_ms;
            self.idle.push_back((at, id, room.idle));
        }
    }

    fn tick_idle(&mut self, now: u64, out: &mut impl HubOut<S>) {
        while let Some((at, id, idle)) = self.idle.front().copied() {
            if now < at {
                return;
            }
            self.idle.pop_front();
            let ours = |r: &Room<S>| r.members == 0 && r.idle == idle;
            if self.rooms.get(id).is_some_and(ours) {
                self.remove_room(id, out);
            }
        }
    }

    fn remove_room(&mut self, id: RoomId, out: &mut impl HubOut<S>) {
        if let Some(room) = self.rooms.remove(id) {
            self.ring_bytes -= room.ring.bytes();
            self.ahead_bytes -= room.ahead_bytes();
            self.ready_bytes -= room.ready_bytes();
            match room.interest {
                Interest::Untold => {}
                Interest::Waiting(entry) => self.interests.withdraw(entry),
                Interest::Told => out.to_owner(OwnerFrame::Uninterest((*room.key).clone())),
            }
        }
    }

    fn tell_absent(
        &self,
        room: &Room<S>,
        person: &gb6_core_wire::mesh::Person,
        out: &mut impl HubOut<S>,
    ) {
        if self.lease.is_attached() {
            out.to_owner(OwnerFrame::Absent(Presence {
                room: (*room.key).clone(),
                person: person.clone(),
            }));
        }
    }
}

/// Who asked, for which room, when.
struct Asked<S> {
    now: u64,
    session: SessionId,
    handle: S,
    token: u64,
    room: gb6_core_wire::mesh::RoomRef,
}

/// A random number of the driver's as an incarnation: 0 means none on the wire.
fn never_zero(fresh: Incarnation) -> Incarnation {
    Incarnation(fresh.0.max(1))
}
