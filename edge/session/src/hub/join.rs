//! Becoming a subscriber: at the room's position, or from an older one whose publications are
//! remembered here or read from the log, once for all who wait for them.

use gb6_core_model::{ErrorCode, Offset, SessionId, limits};
use gb6_core_wire::mesh::{HistoryPage, OwnerFrame, Presence, Publication};

use super::encode::Form;
use super::reads::Purpose;
use super::ring::Ring;
use super::room::{Backfill, Follow, Joiner, Member, Room, RoomId, Subscriber};
use super::select::Special;
use super::{Asked, Hub, HubOut, Op};
use crate::request::{Answer, Delivery, RecoverFrom, SubscribeAnswer, SubscribeQuery};

/// What can be said to a joiner now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It becomes a subscriber; whether its position is continued.
    Now { recovered: bool },
    /// The room's own position is not known yet.
    Unknown,
    /// It has this offset, which has not come here yet, or does not exist.
    Ahead(Offset),
    /// What lies behind this offset must be read from the log.
    Read(Offset),
}

fn verdict<S>(room: &Room<S>, joiner: &Joiner<S>) -> Verdict {
    if !room.known {
        return Verdict::Unknown;
    }
    let fresh = Verdict::Now { recovered: false };
    let Some(from) = &joiner.recover else {
        return fresh;
    };
    let ours = from.epoch.is_empty() || *from.epoch == *room.epoch;
    if !ours && !from.newest_only {
        return fresh;
    }
    if ours && from.offset > room.position {
        return Verdict::Ahead(from.offset);
    }
    let Some(start) = start(room, from) else {
        return fresh;
    };
    let count = room.position - start;
    if count == 0 {
        return Verdict::Now { recovered: true };
    }
    let trimmed = start + 1 < room.first;
    let over =
        count > from.publications_max as u64 || room.ring.cost_after(start) > from.bytes_max as u64;
    if trimmed || over {
        fresh
    } else if start + 1 >= room.ring_start() {
        Verdict::Now { recovered: true }
    } else {
        Verdict::Read(start)
    }
}

/// The offset behind which publications are wanted, at most the room's position; `None`: there are
/// none.
fn start<S>(room: &Room<S>, from: &RecoverFrom) -> Option<Offset> {
    if !from.newest_only {
        return Some(from.offset.min(room.position));
    }
    // An empty room has no newest one.
    let newest = room.position.checked_sub(1)?;
    let has_it = from.offset == room.position && *from.epoch == *room.epoch;
    Some(match has_it {
        true => room.position,
        false => newest,
    })
}

/// The lower of two offsets, where there is one already.
fn lower(one: Option<Offset>, other: Offset) -> Option<Offset> {
    Some(one.map_or(other, |one| one.min(other)))
}

impl<S: Clone> Hub<S> {
    pub(super) fn subscribe(
        &mut self,
        asked: Asked<S>,
        query: SubscribeQuery,
        out: &mut impl HubOut<S>,
    ) {
        let id = match self.rooms.find(&asked.room) {
            Some(id) => id,
            None => {
                let id = self.rooms.insert(asked.room.clone());
                if self.lease.is_attached() {
                    self.want(id);
                    self.let_interest_out(out);
                }
                id
            }
        };
        match self.members.get(&(asked.session, id)) {
            None => {}
            // The session learns of the end it has not been told of by beginning anew.
            Some(Member::Ending(_)) => self.leave(asked.session, id, out),
            Some(Member::Live(_) | Member::Joining(_)) => {
                let refused = Answer::Failed(ErrorCode::AlreadySubscribed);
                return out.complete(&asked.handle, asked.token, refused);
            }
        }
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        room.members += 1;
        let joiner = Joiner {
            subscriber: Subscriber {
                session: asked.session,
                handle: asked.handle.clone(),
                form: Form::new(query.dialect, false),
                join_leave: query.join_leave,
                presence: query.presence,
                special: None,
            },
            delivery: query.delivery,
            token: asked.token,
            recover: query.recover,
        };
        let said = verdict(&room, &joiner);
        if let Verdict::Now { recovered } = said {
            if recovered {
                self.counters.recovered_here += 1;
            }
            self.admit(id, &mut room, joiner, recovered, out);
        } else {
            let op = self.wait(&asked, Op::Join(id));
            self.members
                .insert((asked.session, id), Member::Joining(op));
            room.joiners.insert(op, joiner);
            let mut from = None;
            match said {
                Verdict::Read(offset) => from = Some(offset),
                Verdict::Ahead(offset) => room.joiner_ahead = lower(room.joiner_ahead, offset),
                Verdict::Unknown | Verdict::Now { .. } => {}
            }
            self.ask_for_joiners(id, &mut room, from);
        }
        self.put_room(id, room);
        self.start_reads(asked.now, out);
    }

    /// The joiner is a subscriber from here on; its answer comes before anything delivered to it.
    fn admit(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        joiner: Joiner<S>,
        recovered: bool,
        out: &mut impl HubOut<S>,
    ) {
        let Joiner {
            mut subscriber,
            delivery,
            token,
            recover,
        } = joiner;
        if recover.is_some() && !recovered {
            self.counters.not_recovered += 1;
        }
        if !recovered && recover.as_ref().is_some_and(|from| from.or_fail) {
            let code = ErrorCode::UnrecoverablePosition;
            return self.turn_away(id, room, &subscriber, token, code, out);
        }
        let wanted = recover.as_ref().filter(|_| recovered);
        let start = wanted.and_then(|from| start(room, from));
        let mut publications = start.map_or_else(Vec::new, |start| room.ring.after(start));
        let offset = match wanted {
            Some(from) if !from.newest_only => from.offset,
            _ => room.position,
        };
        if let Some(filter) = &delivery.filter {
            publications.retain(|recent| filter.passes(&recent.publication.tags));
        }
        if delivery.compact {
            if room.number == 0 {
                room.number = out.channel_number(&room.key.instance);
            }
            let dialect = subscriber.form.dialect();
            subscriber.form = Form::new(dialect, room.number > 0);
        }
        let last = publications.last().map(|recent| &recent.publication);
        match self.special(room, delivery, last) {
            Ok(special) => subscriber.special = special,
            Err(code) => return self.turn_away(id, room, &subscriber, token, code, out),
        }
        let answer = Answer::Subscribed(Box::new(SubscribeAnswer {
            epoch: room.epoch.clone(),
            offset,
            recovered,
            publications,
            number: match subscriber.form.is_compact() {
                true => room.number,
                false => 0,
            },
        }));
        out.complete(&subscriber.handle, token, answer);
        if let Some(person) = &subscriber.presence
            && self.lease.is_attached()
        {
            out.to_owner(OwnerFrame::Present(Presence {
                room: (*room.key).clone(),
                person: (**person).clone(),
            }));
        }
        let place = Member::Live(room.subscribers.len() as u32);
        self.members.insert((subscriber.session, id), place);
        room.subscribers.push(subscriber);
    }

    /// A joiner does not become a subscriber.
    fn turn_away(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        joiner: &Subscriber<S>,
        token: u64,
        code: ErrorCode,
        out: &mut impl HubOut<S>,
    ) {
        out.complete(&joiner.handle, token, Answer::Failed(code));
        self.members.remove(&(joiner.session, id));
        self.one_less(id, room);
    }

    /// What is kept of a subscriber that is not handed everything whole; `last`: the last of the
    /// publications that it recovers.
    fn special(
        &mut self,
        room: &mut Room<S>,
        delivery: Delivery,
        last: Option<&Publication>,
    ) -> Result<Option<Box<Special>>, ErrorCode> {
        let Delivery {
            delta,
            filter,
            without_own: own,
            ..
        } = delivery;
        if !delta && filter.is_none() && own.is_none() {
            return Ok(None);
        }
        let filter = match filter {
            None => None,
            Some(filter) => {
                let left = self.filter_room();
                let filters = room.filters.get_or_insert_default();
                let left = left.saturating_sub(filters.bytes());
                let added = filters.add(filter, left);
                if added.is_none() {
                    self.counters.filters_refused += 1;
                }
                Some(added.ok_or(ErrorCode::LimitExceeded)?)
            }
        };
        let bytes = self.base_room();
        let delta = delta.then(|| {
            room.deltas += 1;
            room.base_of_recovered(last, bytes)
        });
        let special = Special { filter, own, delta };
        Ok(Some(Box::new(special)))
    }

    /// Answers every joiner that can be answered, and asks for what the others need.
    pub(super) fn serve_joiners(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        out: &mut impl HubOut<S>,
    ) {
        let mut from = None;
        room.joiner_ahead = None;
        for (op, joiner) in std::mem::take(&mut room.joiners) {
            match verdict(room, &joiner) {
                Verdict::Now { recovered } => {
                    self.ops.remove(&op);
                    if recovered {
                        self.counters.recovered_from_log += 1;
                    }
                    self.admit(id, room, joiner, recovered, out);
                    continue;
                }
                Verdict::Unknown => {}
                Verdict::Ahead(offset) => room.joiner_ahead = lower(room.joiner_ahead, offset),
                Verdict::Read(offset) => from = lower(from, offset),
            }
            room.joiners.insert(op, joiner);
        }
        if from.is_none() {
            room.backfill = None;
        }
        self.ask_for_joiners(id, room, from);
    }

    /// `from`: the offset behind which publications are needed; `None`: none are.
    fn ask_for_joiners(&mut self, id: RoomId, room: &mut Room<S>, from: Option<Offset>) {
        if !self.lease.is_attached() || matches!(room.follow, Follow::Asking) {
            return;
        }
        let ahead = room.joiner_ahead.is_some() && matches!(room.follow, Follow::Live);
        if ahead && room.probe.is_none() {
            let read = self.ask_internal(room, Purpose::Probe(id), room.position, 0);
            room.probe = Some(read);
        }
        let Some(from) = from else {
            return;
        };
        let mut backfill = room.backfill.take().unwrap_or_else(|| {
            Box::new(Backfill {
                from,
                read_so_far: Ring::default(),
                read: None,
                resting: false,
            })
        });
        if backfill.read.is_none() && !backfill.resting {
            backfill.read = Some(self.ask_backfill(id, room, &backfill));
        }
        room.backfill = Some(backfill);
    }

    fn ask_backfill(&mut self, id: RoomId, room: &Room<S>, backfill: &Backfill) -> u64 {
        let last = backfill.last();
        let missing = room.ring_start().saturating_sub(last + 1).max(1);
        let limit = missing.min(limits::HISTORY_PAGE_MAX as u64) as u32;
        self.ask_internal(room, Purpose::Backfill(id), last, limit)
    }

    pub(super) fn backfill_page(
        &mut self,
        now: u64,
        id: RoomId,
        page: HistoryPage,
        out: &mut impl HubOut<S>,
    ) {
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        match room.backfill.take() {
            Some(mut backfill) if backfill.read == Some(page.request) => {
                backfill.read = None;
                self.backfill(now, id, &mut room, backfill, page, out);
            }
            other => room.backfill = other,
        }
        self.put_room(id, room);
    }

    fn backfill(
        &mut self,
        now: u64,
        id: RoomId,
        room: &mut Room<S>,
        mut backfill: Box<Backfill>,
        page: HistoryPage,
        out: &mut impl HubOut<S>,
    ) {
        let last = backfill.last();
        let trimmed = page.error == ErrorCode::UnrecoverablePosition.code();
        let failed = page.error != 0 && !trimmed;
        if failed || page.generation != room.generation {
            // A new generation is the live stream's to announce.
            self.rest_backfill(now, id, room, backfill);
            return;
        }
        if trimmed || page.first > last + 1 {
            // The ones that wait for what is gone are told so; the others begin again.
            room.first = room.first.max(page.first).max(last + 2);
            return self.serve_joiners(id, room, out);
        }
        for publication in page.publications {
            if publication.offset == backfill.last() + 1 {
                let recent = crate::request::Recent::new(publication);
                backfill.read_so_far.push(std::sync::Arc::new(recent));
            }
        }
        let progress = backfill.last() > last;
        self.refuse_over_budget(id, room, &mut backfill, out);
        if backfill.last() + 1 >= room.ring_start() {
            room.ring.prepend(backfill.read_so_far, room.position);
            return self.serve_joiners(id, room, out);
        }
        let waited_for =
            |j: &Joiner<S>| matches!(&j.recover, Some(r) if start(room, r) >= Some(backfill.from));
        if !room.joiners.values().any(waited_for) {
            return self.serve_joiners(id, room, out);
        }
        if progress {
            backfill.read = Some(self.ask_backfill(id, room, &backfill));
            room.backfill = Some(backfill);
        } else {
            self.rest_backfill(now, id, room, backfill);
        }
    }

    fn rest_backfill(
        &mut self,
        now: u64,
        id: RoomId,
        room: &mut Room<S>,
        mut backfill: Box<Backfill>,
    ) {
        backfill.resting = true;
        room.backfill = Some(backfill);
        self.retry_later(now, id);
    }

    /// Joiners whose range is larger than their budget already go on without recovery, and what
    /// nobody waits for any more is dropped: so what is kept stays within one budget and a page.
    fn refuse_over_budget(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        backfill: &mut Backfill,
        out: &mut impl HubOut<S>,
    ) {
        let mut lowest = Offset::MAX;
        for (op, joiner) in std::mem::take(&mut room.joiners) {
            if let Some(from) = &joiner.recover
                && let Some(start) = start(room, from)
                && start >= backfill.from
                && (start == from.offset || from.newest_only)
            {
                let cost = backfill.read_so_far.cost_after(start);
                if cost > from.bytes_max as u64 {
                    self.ops.remove(&op);
                    self.admit(id, room, joiner, false, out);
                    continue;
                }
                lowest = lowest.min(start);
            }
            room.joiners.insert(op, joiner);
        }
        let lowest = lowest.min(backfill.last());
        if lowest > backfill.from {
            backfill.read_so_far.drop_through(lowest);
            backfill.from = lowest;
        }
    }

    /// The owner says how far the log goes: joiners that claim to be beyond it start at the top.
    pub(super) fn probe_page(
        &mut self,
        now: u64,
        id: RoomId,
        page: HistoryPage,
        out: &mut impl HubOut<S>,
    ) {
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        if room.probe == Some(page.request) {
            room.probe = None;
            let top = page.top.max(room.position);
            let valid = page.error == 0 && page.generation == room.generation;
            if !valid {
                self.retry_later(now, id);
            }
            let beyond = |j: &Joiner<S>| matches!(&j.recover, Some(r) if r.offset > top);
            let mut again = false;
            for (op, joiner) in std::mem::take(&mut room.joiners) {
                if valid && room.known && beyond(&joiner) {
                    // What came after the question may have an offset that is newer than the
                    // answer.
                    if op < page.request {
                        self.ops.remove(&op);
                        self.admit(id, &mut room, joiner, false, out);
                        continue;
                    }
                    again = true;
                }
                room.joiners.insert(op, joiner);
            }
            if again {
                self.ask_for_joiners(id, &mut room, None);
            }
        }
        self.put_room(id, room);
    }

    pub(super) fn unsubscribe(&mut self, asked: Asked<S>, out: &mut impl HubOut<S>) {
        if let Some(id) = self.rooms.find(&asked.room) {
            self.leave(asked.session, id, out);
        }
        out.complete(&asked.handle, asked.token, Answer::Unsubscribed);
    }

    /// A session is nothing to a room any more.
    pub(super) fn leave(&mut self, session: SessionId, id: RoomId, out: &mut impl HubOut<S>) {
        let Some(member) = self.members.remove(&(session, id)) else {
            return;
        };
        match member {
            Member::Ending(entry) => {
                self.evictions.remove(&entry);
            }
            Member::Joining(op) => {
                if let Some(room) = self.rooms.get_mut(id) {
                    room.joiners.remove(&op);
                }
                if let Some(waiting) = self.ops.remove(&op) {
                    let failed = Answer::Failed(ErrorCode::Internal);
                    out.complete(&waiting.handle, waiting.token, failed);
                }
            }
            Member::Live(place) => self.remove_subscriber(id, place, out),
        }
        self.member_gone(id);
    }

    fn remove_subscriber(&mut self, id: RoomId, place: u32, out: &mut impl HubOut<S>) {
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        let gone = room.subscribers.swap_remove(place as usize);
        if let Some(moved) = room.subscribers.get(place as usize) {
            self.members
                .insert((moved.session, id), Member::Live(place));
        }
        if let Some(special) = &gone.special {
            room.forget_special(special);
        }
        if let Some(person) = &gone.presence {
            self.tell_absent(&room, person, out);
        }
        self.put_room(id, room);
    }

    /// A joiner got no answer in time.
    pub(super) fn forget_joiner(&mut self, op: u64, session: SessionId, id: RoomId) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.joiners.remove(&op);
        }
        self.members.remove(&(session, id));
        self.member_gone(id);
    }
}
