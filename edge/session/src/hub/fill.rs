//! Filling a gap: publications between a room's position and its live ones are read from the log
//! before anything newer is delivered.
//!
//! Only live publications may overflow the queue of a session that reads. So a gap is closed in
//! steps, page by page: the next step of a room waits until its subscribers have taken most of the
//! last one, and is no longer than what is left of their queues. A subscriber that does not read
//! holds the others up for a moment and is not waited for again.

use std::collections::VecDeque;

use gb6_core_model::{ErrorCode, Offset, limits};
use gb6_core_wire::mesh::{HistoryPage, Publication};

use super::reads::Purpose;
use super::room::{Filling, Follow, Room, RoomId, Subscriber};
use super::{Hub, HubOut};

/// Frames handed to subscribers after which the rest of the gaps waits for the next round.
const ROUND_FRAMES: u64 = 16 * 1024;

impl Filling {
    /// A live publication came: kept if it follows the ones kept and fits, else read later.
    /// Returns `false` where it is one to be read later.
    pub(super) fn arrived(
        &mut self,
        publication: Publication,
        position: Offset,
        bound: usize,
    ) -> bool {
        let offset = publication.offset;
        self.target = self.target.max(offset);
        let last = self.ahead.back().map(|last| last.offset);
        let newer = offset > last.unwrap_or(position);
        let follows = newer && last.is_none_or(|last| offset == last + 1);
        let bytes = publication.size();
        let kept = follows && self.ahead_bytes + bytes <= bound;
        if kept {
            self.ahead_bytes += bytes;
            self.ahead.push_back(publication);
        }
        kept || !newer
    }

    /// The publication that follows `position`, as far as it has been read or kept.
    fn next(&mut self, position: Offset) -> Option<Publication> {
        while let Some(publication) = self.ready.pop_front() {
            self.ready_bytes -= publication.size();
            if publication.offset == position + 1 {
                return Some(publication);
            }
        }
        self.next_kept(position)
    }

    /// The kept publication that follows `position`; older ones are dropped.
    fn next_kept(&mut self, position: Offset) -> Option<Publication> {
        while self.ahead.front()?.offset <= position + 1 {
            let publication = self.ahead.pop_front()?;
            self.ahead_bytes -= publication.size();
            if publication.offset == position + 1 {
                return Some(publication);
            }
        }
        None
    }
}

/// Takes the content of a publication away that closes a gap or is kept behind one.
pub(super) fn erase_ahead(follow: &mut Follow, offset: Offset) {
    let Follow::Filling(filling) = follow else {
        return;
    };
    let filling = &mut **filling;
    for (list, bytes) in [
        (&mut filling.ahead, &mut filling.ahead_bytes),
        (&mut filling.ready, &mut filling.ready_bytes),
    ] {
        if let Some(kept) = list.iter_mut().find(|p| p.offset == offset) {
            *bytes -= kept.size();
            kept.erase();
            *bytes += kept.size();
        }
    }
}

impl<S: Clone> Hub<S> {
    /// A gap: the room's next publications are read, up to `target` at least.
    pub(super) fn start_filling(
        &mut self,
        id: RoomId,
        room: &mut Room<S>,
        target: Offset,
        live: Option<Publication>,
    ) {
        self.counters.gaps += 1;
        let mut filling = Filling {
            target,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            read: None,
            retry_at: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            paused: false,
            progress: false,
            waits_since: None,
            too_slow: Vec::new(),
        };
        if let Some(publication) = live {
            self.keep_ahead(&mut filling, publication, room.position);
        }
        filling.read = Some(self.ask_fill(id, room));
        room.follow = Follow::Filling(Box::new(filling));
    }

    /// Keeps a live publication behind a gap, within the bounds of the room and of the hub.
    // overflow: it is not kept, and read from the log when the gap before it is closed.
    pub(super) fn keep_ahead(
        &mut self,
        filling: &mut Filling,
        publication: Publication,
        position: Offset,
    ) {
        // What this room keeps is not in the sum while the room is worked on.
        let left = self.config.ahead_total_bytes;
        let bound = left.saturating_sub(self.ahead_bytes);
        let bound = bound.min(self.config.ahead_bytes);
        if !filling.arrived(publication, position, bound) {
            self.counters.ahead_dropped += 1;
        }
    }

    fn ask_fill(&mut self, id: RoomId, room: &Room<S>) -> u64 {
        let limit = limits::HISTORY_PAGE_MAX as u32;
        self.ask_internal(room, Purpose::Fill(id), room.position, limit)
    }

    pub(super) fn fill_page(
        &mut self,
        now: u64,
        id: RoomId,
        page: HistoryPage,
        out: &mut impl HubOut<S>,
    ) {
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        // Taken out while it is worked on; put back unless the gap is closed.
        match std::mem::replace(&mut room.follow, Follow::Live) {
            Follow::Filling(mut filling) if filling.read == Some(page.request) => {
                filling.read = None;
                self.fill(now, id, &mut room, filling, page, out);
                self.serve_joiners(id, &mut room, out);
            }
            other => room.follow = other,
        }
        self.put_room(id, room);
    }

    fn fill(
        &mut self,
        now: u64,
        id: RoomId,
        room: &mut Room<S>,
        mut filling: Box<Filling>,
        page: HistoryPage,
        out: &mut impl HubOut<S>,
    ) {
        let trimmed = page.error == ErrorCode::UnrecoverablePosition.code();
        if page.error != 0 && !trimmed {
            filling.retry_at = self.retry_later(now, id);
            room.follow = Follow::Filling(filling);
            return;
        }
        if page.generation != room.generation || trimmed || page.first > room.position + 1 {
            // A read that says 112 below its own first offset has moved on since.
            let same = page.generation == room.generation;
            let top = page.top.max(if same { room.position } else { 0 });
            self.restart(id, room, top, page.generation, out);
            if !same {
                filling.ahead.clear();
                filling.ahead_bytes = 0;
                filling.target = top;
            }
        }
        room.first = room.first.max(page.first);
        filling.progress = false;
        filling.ready_bytes = page.publications.iter().map(Publication::size).sum();
        filling.ready = page.publications.into();
        self.step(now, id, room, filling, out);
    }

    /// Hands out the next publications of a gap, as many as are good at once; at the end of what
    /// is here the gap is closed, or the log is read again.
    fn step(
        &mut self,
        now: u64,
        id: RoomId,
        room: &mut Room<S>,
        mut filling: Box<Filling>,
        out: &mut impl HubOut<S>,
    ) {
        let mut left = self.config.fill_step_bytes.max(1);
        filling.paused = !self.have_room(now, room, &mut filling, out);
        while !filling.paused
            && let Some(publication) = filling.next(room.position)
        {
            let bytes = self.fan_out(room, publication, out);
            filling.progress = true;
            left = left.saturating_sub(bytes);
            filling.paused = left == 0;
        }
        if filling.paused {
            self.fills_paused.push_back(id);
        } else if filling.ahead.is_empty() && room.position >= filling.target {
            room.follow = Follow::Live;
            return;
        } else if filling.progress {
            filling.read = Some(self.ask_fill(id, room));
        } else {
            // The log does not show yet what is known to exist.
            filling.retry_at = self.retry_later(now, id);
        }
        room.follow = Follow::Filling(filling);
    }

    /// Whether every subscriber that is worth waiting for has taken most of what it was sent.
    fn have_room(
        &self,
        now: u64,
        room: &Room<S>,
        filling: &mut Filling,
        out: &impl HubOut<S>,
    ) -> bool {
        let most = self.config.fill_backlog_bytes;
        let is_long = |s: &&Subscriber<S>| {
            out.backlog(&s.handle) > most && !filling.too_slow.contains(&s.session)
        };
        let mut long = room.subscribers.iter().filter(is_long).peekable();
        if long.peek().is_none() {
            filling.waits_since = None;
            return true;
        }
        let since = filling.waits_since.unwrap_or(now);
        if now < since.saturating_add(self.config.fill_patience_ms) {
            filling.waits_since = Some(since);
            return false;
        }
        let too_slow: Vec<_> = long.map(|s| s.session).collect();
        filling.too_slow.extend(too_slow);
        filling.waits_since = None;
        true
    }

    /// Whether gaps wait for [`Hub::continue_fills`].
    pub fn fills_wait(&self) -> bool {
        !self.fills_paused.is_empty()
    }

    /// Goes on with gaps of which only a part was handed out: call it after sessions had a chance
    /// to write, every few ms while [`Hub::fills_wait`].
    pub fn continue_fills(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        let until = self.counters.fan_out + ROUND_FRAMES;
        for _ in 0..self.fills_paused.len() {
            if self.counters.fan_out >= until {
                break;
            }
            let Some(id) = self.fills_paused.pop_front() else {
                break;
            };
            let Some(mut room) = self.take_room(id) else {
                continue;
            };
            match std::mem::replace(&mut room.follow, Follow::Live) {
                Follow::Filling(filling) if filling.paused => {
                    self.step(now_ms, id, &mut room, filling, out);
                    self.serve_joiners(id, &mut room, out);
                }
                other => room.follow = other,
            }
            self.put_room(id, room);
        }
        self.start_reads(now_ms, out);
    }

    /// A room's failed read is due again.
    pub(super) fn resume_room(&mut self, now: u64, id: RoomId, out: &mut impl HubOut<S>) {
        let Some(mut room) = self.take_room(id) else {
            return;
        };
        if let Follow::Filling(filling) = &room.follow
            && filling.read.is_none()
            && !filling.paused
            && filling.retry_at <= now
        {
            let read = self.ask_fill(id, &room);
            if let Follow::Filling(filling) = &mut room.follow {
                filling.read = Some(read);
            }
        }
        if let Some(backfill) = &mut room.backfill {
            backfill.resting = false;
        }
        self.serve_joiners(id, &mut room, out);
        self.put_room(id, room);
    }
}

impl<S> Room<S> {
    /// This read will not be answered.
    pub(super) fn forget_read(&mut self, read: u64) {
        if let Follow::Filling(filling) = &mut self.follow
            && filling.read == Some(read)
        {
            filling.read = None;
            filling.retry_at = 0;
        }
        if let Some(backfill) = &mut self.backfill
            && backfill.read == Some(read)
        {
            backfill.read = None;
            backfill.resting = true;
        }
        if self.probe == Some(read) {
            self.probe = None;
        }
    }
}
