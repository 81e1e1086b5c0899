//! One room at an edge: its position, its subscribers, and who waits to become one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::{InstanceId, Offset, SessionId, hash};
use gb6_core_wire::mesh::{Person, Publication, RoomRef};

use super::delta::Base;
use super::encode::Form;
use super::interest::Interest;
use super::ring::Ring;
use super::select::{Filters, Special};
use crate::request::{Delivery, RecoverFrom};

/// A room's index in [`Rooms`]; used again when the room is gone.
pub(super) type RoomId = u32;

/// How a room follows its log.
pub(super) enum Follow {
    /// The owner has not said (again) where the room stands. What subscribers have ends at the
    /// room's position; nothing is delivered.
    Asking,
    /// Every publication behind the position comes as it is committed.
    Live,
    /// Publications between the position and the live ones are being read from the log.
    Filling(Box<Filling>),
}

/// The state of filling a gap.
pub(super) struct Filling {
    /// The highest offset known to exist.
    pub(super) target: Offset,
    /// Live publications that came meanwhile, ascending.
    pub(super) ahead: VecDeque<Publication>,
    /// Their bytes.
    pub(super) ahead_bytes: usize,
    /// The read under way or waiting its turn.
    pub(super) read: Option<u64>,
    /// When to read again after a failure.
    pub(super) retry_at: u64,
    /// What has been read and is to be handed out, ascending.
    pub(super) ready: VecDeque<Publication>,
    /// Its bytes.
    pub(super) ready_bytes: usize,
    /// Whether there is more to hand out than was handed out at once.
    pub(super) paused: bool,
    /// Whether the last read brought anything.
    pub(super) progress: bool,
    /// Since when subscribers are waited for whose queues are long.
    pub(super) waits_since: Option<u64>,
    /// Subscribers that have been waited for long enough.
    pub(super) too_slow: Vec<SessionId>,
}

/// A read of older publications for subscribers that wait.
pub(super) struct Backfill {
    /// Where it began: publications behind this offset.
    pub(super) from: Offset,
    /// What has been read.
    pub(super) read_so_far: Ring,
    /// The read under way or waiting its turn.
    pub(super) read: Option<u64>,
    /// The last read failed; the next one comes after a while.
    pub(super) resting: bool,
}

impl Backfill {
    /// The last offset that has been read.
    pub(super) fn last(&self) -> Offset {
        self.read_so_far.last().unwrap_or(self.from)
    }
}

/// A subscriber: everything up to the room's position has been handed to it.
pub(super) struct Subscriber<S> {
    pub(super) session: SessionId,
    pub(super) handle: S,
    pub(super) form: Form,
    pub(super) join_leave: bool,
    pub(super) presence: Option<Arc<Person>>,
    /// Where it is not handed everything whole.
    pub(super) special: Option<Box<Special>>,
}

/// A session that waits to become a subscriber.
pub(super) struct Joiner<S> {
    pub(super) subscriber: Subscriber<S>,
    pub(super) delivery: Delivery,
    pub(super) token: u64,
    pub(super) recover: Option<RecoverFrom>,
}

/// One room.
pub(super) struct Room<S> {
    pub(super) key: Arc<RoomRef>,
    pub(super) follow: Follow,
    pub(super) interest: Interest,
    /// Whether position, generation and epoch are known.
    pub(super) known: bool,
    /// Everything up to here has been handed to every subscriber.
    pub(super) position: Offset,
    /// The highest offset that came live before the owner said where the room stands.
    pub(super) seen: Offset,
    /// The oldest kept offset, as last heard; it only grows.
    pub(super) first: Offset,
    pub(super) generation: u32,
    /// The owner's life, and how many of the room's messages it has erased in it, as last heard.
    pub(super) erasures: Option<(u64, u64)>,
    pub(super) epoch: Arc<str>,
    pub(super) subscribers: Vec<Subscriber<S>>,
    /// The channel's number in pushes, the same for all subscribers of this edge; 0: none yet.
    pub(super) number: i64,
    /// Counts publications that were handed out, from 1.
    pub(super) sent: u64,
    /// Subscribers with deltas.
    pub(super) deltas: usize,
    /// What they were handed last.
    pub(super) base: Option<Box<Base>>,
    /// Filters of subscribers, if any has one.
    pub(super) filters: Option<Box<Filters>>,
    /// By operation, so in the order of arrival.
    pub(super) joiners: BTreeMap<u64, Joiner<S>>,
    /// The lowest offset above the position that a joiner already has.
    pub(super) joiner_ahead: Option<Offset>,
    /// The read that asks whether such an offset exists.
    pub(super) probe: Option<u64>,
    pub(super) ring: Ring,
    pub(super) backfill: Option<Box<Backfill>>,
    /// Subscribers, joiners and subscriptions that wait to be ended.
    pub(super) members: usize,
    /// A new number whenever the room loses its last member: names one wait for its end.
    pub(super) idle: u64,
}

impl<S> Room<S> {
    pub(super) fn new(key: RoomRef) -> Self {
        Self {
            key: Arc::new(key),
            follow: Follow::Asking,
            interest: Interest::Untold,
            known: false,
            position: 0,
            seen: 0,
            first: 0,
            generation: 0,
            erasures: None,
            epoch: Arc::from(""),
            subscribers: Vec::new(),
            number: 0,
            sent: 1,
            deltas: 0,
            base: None,
            filters: None,
            joiners: BTreeMap::new(),
            joiner_ahead: None,
            probe: None,
            ring: Ring::default(),
            backfill: None,
            members: 0,
            idle: 0,
        }
    }

    /// Takes over a position that nothing before has to be delivered for.
    pub(super) fn stand_at(&mut self, position: Offset, generation: u32) {
        if !self.known || generation != self.generation {
            self.generation = generation;
            self.epoch = Arc::from(hash::stream_epoch(
                &InstanceId::from(self.key.instance.as_str()),
                &self.key.channel,
                generation,
            ));
            self.first = 0;
            self.ring.clear();
        }
        if self.ring.last().is_some_and(|last| last != position) {
            self.ring.clear();
        }
        self.known = true;
        self.position = position;
    }

    /// Bytes of live publications kept behind a gap.
    pub(super) fn ahead_bytes(&self) -> usize {
        match &self.follow {
            Follow::Filling(filling) => filling.ahead_bytes,
            Follow::Asking | Follow::Live => 0,
        }
    }

    /// Bytes that have been read to close a gap and are to be handed out.
    pub(super) fn ready_bytes(&self) -> usize {
        match &self.follow {
            Follow::Filling(filling) => filling.ready_bytes,
            Follow::Asking | Follow::Live => 0,
        }
    }

    /// The first offset that the ring holds, or the one behind the position.
    pub(super) fn ring_start(&self) -> Offset {
        self.ring.first().unwrap_or(self.position + 1)
    }
}

/// What a session is to a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Member {
    /// A subscriber, at this place of the room's list.
    Live(u32),
    /// A joiner, under this operation.
    Joining(u64),
    /// Its subscription ends with this entry of the list of evictions.
    Ending(u64),
}

/// The rooms of a hub, by name and by index. Iteration follows the index, so that equal histories
/// give equal outputs.
pub(super) struct Rooms<S> {
    by_name: BTreeMap<Arc<RoomRef>, RoomId>,
    slots: Vec<Option<Box<Room<S>>>>,
    free: Vec<RoomId>,
}

impl<S> Rooms<S> {
    pub(super) fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The rooms of an instance, by name.
    pub(super) fn of_instance<'a>(
        &'a self,
        instance: &'a str,
    ) -> impl Iterator<Item = &'a Room<S>> {
        let first = RoomRef {
            instance: instance.to_owned(),
            channel: String::new(),
        };
        let rooms = self.by_name.range(first..);
        rooms
            .take_while(move |(key, _)| key.instance == instance)
            .filter_map(|(_, id)| self.get(*id))
    }

    pub(super) fn find(&self, key: &RoomRef) -> Option<RoomId> {
        self.by_name.get(key).copied()
    }

    pub(super) fn insert(&mut self, key: RoomRef) -> RoomId {
        let room = Box::new(Room::new(key));
        let name = Arc::clone(&room.key);
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(room);
                id
            }
            None => {
                self.slots.push(Some(room));
                (self.slots.len() - 1) as RoomId
            }
        };
        self.by_name.insert(name, id);
        id
    }

    pub(super) fn get(&self, id: RoomId) -> Option<&Room<S>> {
        self.slots.get(id as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: RoomId) -> Option<&mut Room<S>> {
        self.slots.get_mut(id as usize)?.as_deref_mut()
    }

    /// Takes a room out to work on it; it must be put back or removed.
    pub(super) fn take(&mut self, id: RoomId) -> Option<Box<Room<S>>> {
        self.slots.get_mut(id as usize)?.take()
    }

    pub(super) fn put(&mut self, id: RoomId, room: Box<Room<S>>) {
        self.slots[id as usize] = Some(room);
    }

    pub(super) fn remove(&mut self, id: RoomId) -> Option<Box<Room<S>>> {
        let room = self.take(id)?;
        self.by_name.remove(&room.key);
        self.free.push(id);
        Some(room)
    }

    /// One past the highest index in use.
    pub(super) fn bound(&self) -> RoomId {
        self.slots.len() as RoomId
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RoomId, &Room<S>)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(id, room)| Some((id as RoomId, room.as_deref()?)))
    }
}
