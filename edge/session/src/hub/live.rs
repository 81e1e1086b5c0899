//! Following a room's log: where it stands, what comes live, and handing it to every subscriber.

use std::sync::Arc;

use gb6_core_model::Offset;
use gb6_core_wire::client::{Event, PublicationData};
use gb6_core_wire::mesh::{Deliver, Interested, Publication};

use super::delta::Deltas;
use super::encode::{Frames, Told};
use super::room::{Follow, Room, RoomId};
use super::{Hub, HubOut};
use crate::request::Recent;

impl<S: Clone> Hub<S> {
    /// The owner says where a room stands, after interest was shown.
    pub(super) fn interested(&mut self, now: u64, frame: Interested, out: &mut impl HubOut<S>) {
        self.interest_answered(out);
        let found = self.rooms.find(&frame.room);
        let Some((id, mut room)) = found.and_then(|id| Some((id, self.take_room(id)?))) else {
            return;
        };
        self.forget_unless_current(&mut room, &frame);
        let asking = matches!(room.follow, Follow::Asking);
        let generation = frame.generation;
        let top = frame.top.max(std::mem::take(&mut room.seen));
        if !room.known {
            room.stand_at(top, generation);
            room.follow = Follow::Live;
        } else if generation != room.generation || (asking && top < room.position) {
            // Another stream under the same name, or a log that lost what had been delivered:
            // neither can be continued.
            self.restart(id, &mut room, top, generation, out);
        } else if let Follow::Filling(filling) = &mut room.follow {
            filling.target = filling.target.max(top);
        } else if top > room.position {
            if room.subscribers.is_empty() {
                room.stand_at(top, generation);
                room.follow = Follow::Live;
            } else {
                self.start_filling(id, &mut room, top, None);
            }
        } else {
            room.follow = Follow::Live;
        }
        room.first = room.first.max(frame.first);
        self.serve_joiners(id, &mut room, out);
        self.put_room(id, room);
        self.start_reads(now, out);
    }

    /// A publication came live.
    pub(super) fn delivered(&mut self, now: u64, frame: Deliver, out: &mut impl HubOut<S>) {
        self.counters.delivers += 1;
        self.hand_to_followers(&frame, usize::MAX, out);
        let found = self.rooms.find(&frame.room);
        let Some((id, mut room)) = found.and_then(|id| Some((id, self.take_room(id)?))) else {
            // Interest was withdrawn and the owner does not know it yet.
            return;
        };
        let publication = frame.publication;
        match &mut room.follow {
            // The answer to our interest is on its way and may not name this one.
            Follow::Asking => room.seen = room.seen.max(publication.offset),
            Follow::Filling(filling) => self.keep_ahead(filling, publication, room.position),
            Follow::Live if publication.generation != room.generation => {
                let (offset, generation) = (publication.offset, publication.generation);
                self.restart(id, &mut room, offset, generation, out);
                self.serve_joiners(id, &mut room, out);
            }
            Follow::Live if publication.offset <= room.position => self.counters.repeated += 1,
            Follow::Live if publication.offset == room.position + 1 => {
                self.fan_out(&mut room, publication, out);
                if room
                    .joiner_ahead
                    .is_some_and(|ahead| ahead <= room.position)
                {
                    self.serve_joiners(id, &mut room, out);
                }
            }
            Follow::Live => {
                let target = publication.offset;
                self.start_filling(id, &mut room, target, Some(publication));
            }
        }
        self.put_room(id, room);
        self.start_reads(now, out);
    }

    /// A signal came: it is handed to whoever is there, and remembered nowhere. It does not matter
    /// whether the room's position is known.
    pub(super) fn signalled(&mut self, frame: Deliver, out: &mut impl HubOut<S>) {
        self.counters.signals += 1;
        let bound = self.config.signal_backlog_bytes;
        self.hand_to_followers(&frame, bound, out);
        let found = self.rooms.find(&frame.room);
        if let Some((id, mut room)) = found.and_then(|id| Some((id, self.take_room(id)?))) {
            self.hand_out(&mut room, &frame.publication, bound, out);
            self.put_room(id, room);
        }
    }

    /// Hands the publication behind the position to every subscriber. Returns the bytes that each
    /// got at most.
    pub(super) fn fan_out(
        &mut self,
        room: &mut Room<S>,
        publication: Publication,
        out: &mut impl HubOut<S>,
    ) -> usize {
        debug_assert_eq!(publication.offset, room.position + 1);
        room.position = publication.offset;
        let longest = self.hand_out(room, &publication, usize::MAX, out);
        room.ring.push(Arc::new(Recent::new(publication)));
        longest
    }

    /// Hands a publication to every subscriber that wants it, in its form; not to those for whom
    /// more than `bound` bytes wait.
    fn hand_out(
        &mut self,
        room: &mut Room<S>,
        publication: &Publication,
        bound: usize,
        out: &mut impl HubOut<S>,
    ) -> usize {
        room.sent += 1;
        let sent = room.sent;
        out.of_room(&room.key);
        // What a stream does not keep is told whole and is no base: who subscribes later recovers
        // nothing of it, and stands at the position all the same.
        let unkept = publication.offset == 0 && room.position > 0;
        let key = Arc::clone(&room.key);
        let mut frames = Frames::new(&key.channel, room.number);
        let base = room.base.as_deref().filter(|_| !unkept);
        let mut deltas = (room.deltas > 0).then(|| Deltas::new(base, sent, publication));
        if let Some(filters) = &mut room.filters {
            filters.look_at(publication);
        }
        let (mut unwanted, mut dropped) = (0, 0);
        for subscriber in &mut room.subscribers {
            if bound == usize::MAX && subscriber.special.is_none() {
                let event = || Event::Publication(publication, PublicationData::Plain);
                let frame = frames.get(subscriber.form, Told::Plain, event);
                out.deliver(&subscriber.handle, frame);
                continue;
            }
            if bound < usize::MAX && out.backlog(&subscriber.handle) > bound {
                dropped += 1;
                if let Some(special) = &mut subscriber.special {
                    special.delta = special.delta.map(|_| sent);
                }
                continue;
            }
            let delta;
            let (mut data, mut told) = (PublicationData::Plain, Told::Plain);
            if let Some(special) = &mut subscriber.special {
                if !special.wants(publication, room.filters.as_deref()) {
                    unwanted += 1;
                    special.delta = special.delta.map(|_| sent);
                    continue;
                }
                if let (Some(since), Some(deltas)) = (special.delta, &mut deltas) {
                    delta = deltas.get(subscriber.form.dialect(), since);
                    (data, told) = match &delta {
                        Some(delta) => (PublicationData::Delta(delta), Told::Delta),
                        None => (PublicationData::Whole(deltas.text()), Told::Whole),
                    };
                    if unkept {
                        special.delta = Some(sent);
                    }
                }
            }
            let event = || Event::Publication(publication, data);
            out.deliver(&subscriber.handle, frames.get(subscriber.form, told, event));
        }
        self.counters.unwanted += unwanted;
        self.counters.signals_dropped += dropped;
        self.counters.fan_out += room.subscribers.len() as u64 - unwanted - dropped;
        self.counters.encoded += frames.made();
        let longest = frames.longest();
        if let Some(deltas) = deltas {
            self.counters.deltas += deltas.made();
            let base = (!unkept).then(|| deltas.into_base());
            room.keep_base(base, self.base_room());
        }
        longest
    }

    /// Bytes that the base of a room which was taken out may have.
    pub(super) fn base_room(&self) -> usize {
        self.config.base_bytes.saturating_sub(self.base_bytes)
    }

    /// The log can not continue what the subscribers have: they are told to begin again, and the
    /// room stands at the log's top.
    pub(super) fn restart(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        top: Offset,
        generation: u32,
        out: &mut impl HubOut<S>,
    ) {
        self.evict_all(id, room, out);
        room.backfill = None;
        room.stand_at(top, generation);
        room.follow = Follow::Live;
    }

    /// Takes a room out of the table; `put_room` must follow.
    pub(super) fn take_room(&mut self, id: RoomId) -> Option<Box<Room<S>>> {
        let room = self.rooms.take(id)?;
        self.ring_bytes -= room.ring.bytes();
        self.base_bytes -= room.base_bytes();
        self.filter_bytes -= room.filter_bytes();
        self.ahead_bytes -= room.ahead_bytes();
        self.ready_bytes -= room.ready_bytes();
        Some(room)
    }

    /// Puts it back, and keeps the bounds of what is remembered.
    pub(super) fn put_room(&mut self, id: RoomId, mut room: Box<Room<S>>) {
        room.ring.trim_to(self.config.ring_room_bytes);
        self.ring_bytes += room.ring.bytes();
        self.base_bytes += room.base_bytes();
        self.filter_bytes += room.filter_bytes();
        self.ahead_bytes += room.ahead_bytes();
        self.ready_bytes += room.ready_bytes();
        self.rooms.put(id, room);
        // The hand goes round the rooms and takes half of what each remembers.
        while self.ring_bytes > self.config.ring_bytes {
            self.ring_hand = (self.ring_hand + 1) % self.rooms.bound();
            if let Some(room) = self.rooms.get_mut(self.ring_hand) {
                let before = room.ring.bytes();
                room.ring.trim_to(before / 2);
                self.ring_bytes -= before - room.ring.bytes();
            }
        }
    }
}
