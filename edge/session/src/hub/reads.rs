//! Reads of the log on the catch-up stream: bounded in number, equal ones of sessions made once.
//!
//! The hub's own reads, on which live delivery and recovery wait, have places of their own and
//! never stand behind those of sessions. Among these instances take turns, and none has all
//! places.
//!
//! A read that takes long is one of the archive, most likely, which may be away while the log answers. It
//! gives its place up, so that others do not wait for the archive, up to a bound on all that are under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::{ErrorCode, Offset, Turns};
use gb6_core_wire::mesh::{Erased, HistoryPage, HistoryRequest, Publication, RoomRef};

use super::erase::ErasedMeanwhile;
use super::room::{Room, RoomId};
use super::{Asked, Hub, HubOut, Op};
use crate::request::{Answer, HistoryAnswer, HistoryQuery};

/// What the hub itself reads for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The gap between a room's position and its live publications.
    Fill(RoomId),
    /// Older publications for joiners of a room.
    Backfill(RoomId),
    /// Whether an offset exists that a joiner has and the room has not.
    Probe(RoomId),
}

/// How many reads may be under way for each place, with those that take long.
const UNDER_WAY: usize = 4;

/// How many reads are under way.
#[derive(Clone, Copy, Default)]
struct UnderWay {
    /// Those that have a place.
    placed: usize,
    all: usize,
}

impl UnderWay {
    /// Whether another one may begin where there are so many places.
    fn leaves_room(self, places: usize) -> bool {
        self.placed < places && self.all < places.saturating_mul(UNDER_WAY)
    }
}

/// A page that sessions wait for.
type PageKey = (RoomRef, HistoryQuery);

enum What {
    Internal(Purpose),
    Page(PageKey, Vec<u64>),
}

/// A read under way.
struct Read {
    /// When it was sent.
    sent: u64,
    room: RoomRef,
    what: What,
    erased: ErasedMeanwhile,
}

impl Read {
    /// Whether it is the hub's own.
    fn is_own(&self) -> bool {
        matches!(self.what, What::Internal(_))
    }
}

/// Reads under way and waiting.
#[derive(Default)]
pub(super) struct Reads {
    in_flight: BTreeMap<u64, Read>,
    /// At most one of each purpose for each room.
    internal: VecDeque<(HistoryRequest, Purpose)>,
    pages: Turns<PageKey>,
    /// The operations that wait for each page.
    waiting: BTreeMap<PageKey, Vec<u64>>,
    /// Rooms whose read failed, with when to look at them again.
    retries: VecDeque<(u64, RoomId)>,
}

impl Reads {
    /// Internal reads are forgotten: their rooms begin again. Pages are asked for again.
    pub(super) fn link_down(&mut self) {
        self.internal.clear();
        self.retries.clear();
        for read in std::mem::take(&mut self.in_flight).into_values() {
            if let What::Page(key, ops) = read.what {
                if !self.waiting.contains_key(&key) {
                    self.pages.push(&key.0.instance, key.clone());
                }
                self.waiting.entry(key).or_default().extend(ops);
            }
        }
    }

    /// A message was erased: pages under way may have been read before.
    pub(super) fn erased(&mut self, frame: &Erased) {
        for read in self.in_flight.values_mut() {
            if read.room == frame.room {
                read.erased.add(frame.offset);
            }
        }
    }

    /// How many reads are under way, of those that `which` picks; those sent before `slow` have no place.
    fn under_way(&self, slow: u64, which: impl Fn(&Read) -> bool) -> UnderWay {
        let mut under_way = UnderWay::default();
        for read in self.in_flight.values().filter(|read| which(read)) {
            under_way.all += 1;
            under_way.placed += usize::from(read.sent >= slow);
        }
        under_way
    }

    /// Takes the next of the hub's own reads; none for gaps unless `fills`.
    fn next_own(&mut self, fills: bool) -> Option<(HistoryRequest, Purpose)> {
        let may = |purpose: &Purpose| fills || !matches!(purpose, Purpose::Fill(_));
        let at = self.internal.iter().position(|(_, purpose)| may(purpose))?;
        self.internal.remove(at)
    }

    fn sent(&mut self, now: u64, request: &HistoryRequest, what: What) {
        let read = Read {
            sent: now,
            room: request.room.clone(),
            what,
            erased: ErasedMeanwhile::default(),
        };
        self.in_flight.insert(request.request, read);
    }
}

impl<S: Clone> Hub<S> {
    /// A session asks for a page: equal questions that have not been sent yet are asked once. One
    /// that has been sent may have been read before this session's own last publish.
    pub(super) fn history(
        &mut self,
        asked: Asked<S>,
        query: HistoryQuery,
        out: &mut impl HubOut<S>,
    ) {
        let key = (asked.room.clone(), query);
        let shared = self.reads.waiting.contains_key(&key);
        // Overflow policy of this queue: the newest is refused.
        let waiting = self.reads.pages.waiting(&key.0.instance);
        if !shared && waiting >= self.config.reads_waiting {
            let refused = Answer::Failed(ErrorCode::TooManyRequests);
            return out.complete(&asked.handle, asked.token, refused);
        }
        let op = self.wait(&asked, Op::History);
        if shared {
            self.counters.reads_shared += 1;
        } else {
            self.reads.pages.push(&key.0.instance, key.clone());
        }
        self.reads.waiting.entry(key).or_default().push(op);
        self.start_reads(asked.now, out);
    }

    /// Queues an internal read; `start_reads` must follow. Returns its number.
    pub(super) fn ask_internal(
        &mut self,
        room: &Room<S>,
        purpose: Purpose,
        since: Offset,
        limit: u32,
    ) -> u64 {
        let request = self.next_op;
        self.next_op += 1;
        self.counters.internal_reads += 1;
        let read = HistoryRequest {
            request,
            room: (*room.key).clone(),
            since,
            from_end: false,
            reverse: false,
            limit,
            bytes: gb6_core_model::limits::HISTORY_PAGE_BYTES_MAX as u64,
        };
        self.reads.internal.push_back((read, purpose));
        request
    }

    /// Looks at a room again after a while.
    pub(super) fn retry_later(&mut self, now: u64, id: RoomId) -> u64 {
        let at = now + self.config.fill_retry_ms;
        self.reads.retries.push_back((at, id));
        at
    }

    /// Sends what may be sent.
    pub(super) fn start_reads(&mut self, now: u64, out: &mut impl HubOut<S>) {
        if !self.lease.is_attached() {
            return;
        }
        let fills = self.ready_bytes < self.config.fill_ready_bytes.max(1);
        let slow = self.slow_before(now);
        let places = self.config.own_reads_in_flight.max(1);
        let mut own = self.reads.under_way(slow, Read::is_own);
        while own.leaves_room(places)
            && let Some((request, purpose)) = self.reads.next_own(fills)
        {
            own.placed += 1;
            own.all += 1;
            self.reads.sent(now, &request, What::Internal(purpose));
            out.to_history(request);
        }
        self.start_pages(now, out);
    }

    /// Reads that were sent before have given their places up.
    fn slow_before(&self, now: u64) -> u64 {
        (now + 1).saturating_sub(self.config.slow_read_ms)
    }

    fn start_pages(&mut self, now: u64, out: &mut impl HubOut<S>) {
        let slow = self.slow_before(now);
        let most = self.config.reads_in_flight.max(1);
        // The last quarter is left to other instances.
        let most_of_one = most.div_ceil(4).saturating_mul(3).min(most);
        let of_sessions = |read: &Read| !read.is_own();
        while self.reads.under_way(slow, of_sessions).leaves_room(most) {
            let mut pages = std::mem::take(&mut self.reads.pages);
            let next = pages.pop(|instance| {
                let its = |read: &Read| of_sessions(read) && read.room.instance == instance;
                self.reads.under_way(slow, its).leaves_room(most_of_one)
            });
            self.reads.pages = pages;
            let Some(key) = next else {
                return;
            };
            let mut ops = self.reads.waiting.remove(&key).unwrap_or_default();
            ops.retain(|op| self.ops.contains_key(op));
            if ops.is_empty() {
                continue;
            }
            let request = self.next_op;
            self.next_op += 1;
            let (room, query) = &key;
            let read = HistoryRequest {
                request,
                room: room.clone(),
                since: query.since.unwrap_or(0),
                from_end: query.since.is_none(),
                reverse: query.reverse,
                limit: query.limit,
                bytes: query.bytes,
            };
            self.reads.sent(now, &read, What::Page(key, ops));
            out.to_history(read);
        }
    }

    pub(super) fn page(&mut self, now: u64, mut page: HistoryPage, out: &mut impl HubOut<S>) {
        let Some(read) = self.reads.in_flight.remove(&page.request) else {
            self.counters.stray_frames += 1;
            return;
        };
        read.erased.apply(&mut page);
        match read.what {
            What::Page(_, ops) => self.answer_page(ops, page, out),
            What::Internal(purpose) => match purpose {
                Purpose::Fill(id) => self.fill_page(now, id, page, out),
                Purpose::Backfill(id) => self.backfill_page(now, id, page, out),
                Purpose::Probe(id) => self.probe_page(now, id, page, out),
            },
        }
    }

    fn answer_page(&mut self, ops: Vec<u64>, page: HistoryPage, out: &mut impl HubOut<S>) {
        let error = match page.error {
            0 => None,
            code => Some(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        let answer = match error {
            Some(code) if code != ErrorCode::UnrecoverablePosition => Answer::Failed(code),
            error => {
                let publications: Arc<[Publication]> = page.publications.into();
                Answer::History(Box::new(HistoryAnswer {
                    publications,
                    top: page.top,
                    first: page.first,
                    generation: page.generation,
                    error,
                }))
            }
        };
        for op in ops {
            if let Some(waiting) = self.ops.remove(&op) {
                out.complete(&waiting.handle, waiting.token, answer.clone());
            }
        }
    }

    /// Gives up on reads that take too long, and takes up rooms whose read failed.
    pub(super) fn tick_reads(&mut self, now: u64, out: &mut impl HubOut<S>) {
        let late = |sent: u64| now >= sent + self.config.fill_ms;
        let over: Vec<u64> = self
            .reads
            .in_flight
            .iter()
            .filter(|(_, read)| late(read.sent))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.counters.timeouts += 1;
            let late = self.reads.in_flight.remove(&id).map(|read| read.what);
            if let Some(What::Internal(purpose)) = late {
                let (Purpose::Fill(room) | Purpose::Backfill(room) | Purpose::Probe(room)) =
                    purpose;
                if let Some(room) = self.rooms.get_mut(room) {
                    room.forget_read(id);
                }
                self.retry_later(now, room);
            }
        }
        while let Some((at, id)) = self.reads.retries.front().copied() {
            if now < at {
                break;
            }
            self.reads.retries.pop_front();
            self.resume_room(now, id, out);
        }
        self.start_reads(now, out);
    }
}
