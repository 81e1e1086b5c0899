//! Answers that may be large (history, recovery, presence): begun only while the client's queue is short, so
//! that nothing but live publications can overflow it.
//!
//! One page at a time, of history or of people. Several recoveries, because together they stay within one
//! budget; they are counted for each shard, so that one whose owner does not answer delays its own
//! rooms only. A page does not wait for them, nor they for it: one that has come is put behind
//! them where both together would not fit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::Person;

use super::live::{Live, RecoveryBudget};
use super::reply::Turn;
use crate::hub::cost;
use crate::request::{Answer, HubRequest, Request};

/// Recoveries of one session under way at once in one shard.
const RECOVERIES_MAX: usize = 16;
/// Bytes that a page may bring the client's queue to, with all that may still be recovered: the
/// rest of the queue is left to live publications.
const QUEUE_BYTES_MAX: usize = limits::CLIENT_FRAME_OUT_BYTES_MAX;

/// How often a recovered byte counts: JSON inside a JSON string is up to twice as long.
pub(super) fn weight(as_text: bool) -> usize {
    if as_text { 2 } else { 1 }
}

/// Region and shard of a room; `None` where the placement names none.
type Place = Option<(String, u32)>;

/// The bulk requests of one session; it exists while there are any.
#[derive(Default)]
pub(super) struct Bulk {
    /// Recovering subscribes: bounded by the subscriptions.
    recoveries: BTreeMap<Place, Recoveries>,
    /// Pages of history and of people that wait.
    pages: VecDeque<HubRequest>,
    /// The token of the page under way.
    page: Option<u64>,
    /// Its answer, which waits for room in the client's queue.
    held: Option<Answer>,
}

/// Recovering subscribes to rooms of one shard.
#[derive(Default)]
struct Recoveries {
    waiting: VecDeque<HubRequest>,
    /// The tokens of those that the hub works on.
    running: Vec<u64>,
}

impl Recoveries {
    fn may_begin(&self) -> bool {
        self.running.len() < RECOVERIES_MAX && !self.waiting.is_empty()
    }
}

impl Bulk {
    fn may_begin(&self) -> bool {
        let page = self.page.is_none() && !self.pages.is_empty();
        page || self.recoveries.values().any(Recoveries::may_begin)
    }

    /// Takes what may begin next.
    fn begin(&mut self) -> Option<HubRequest> {
        if self.page.is_none()
            && let Some(page) = self.pages.pop_front()
        {
            self.page = Some(page.token);
            return Some(page);
        }
        let shard = self.recoveries.values_mut().find(|r| r.may_begin())?;
        let next = shard.waiting.pop_front()?;
        shard.running.push(next.token);
        Some(next)
    }

    fn is_recovering(&self) -> bool {
        self.recoveries.values().any(|r| !r.running.is_empty())
    }

    /// A request was answered.
    fn end(&mut self, token: u64) {
        if self.page == Some(token) {
            self.page = None;
        }
        for shard in self.recoveries.values_mut() {
            shard.running.retain(|t| *t != token);
        }
        self.recoveries
            .retain(|_, r| !(r.running.is_empty() && r.waiting.is_empty()));
    }

    fn is_over(&self) -> bool {
        self.recoveries.is_empty() && self.pages.is_empty() && self.page.is_none()
    }
}

impl Live {
    /// Whether another page may wait.
    pub(super) fn may_wait(&self, max: usize) -> Result<(), ErrorCode> {
        // Overflow policy of this queue: the newest is refused.
        match &self.bulk {
            Some(bulk) if bulk.pages.len() >= max => Err(ErrorCode::TooManyRequests),
            _ => Ok(()),
        }
    }

    /// A room opened long after the client came back begins a budget of its own: nothing is being
    /// recovered, and what was has left the queue. The rest between keeps the subscribes of one
    /// attempt together that come in frames of their own, each behind the answer to the last.
    fn refill_recovery(&mut self, turn: &Turn<'_>) {
        let (now, config) = (turn.cx.now_ms, turn.cx.config);
        let recovers = self.bulk.as_ref().is_some_and(|b| !b.recoveries.is_empty());
        let rested = now >= self.recovered_at.saturating_add(config.recovery_rest_ms);
        if !recovers && rested && turn.outbox_bytes() <= config.bulk_low_water_bytes {
            self.recovery = RecoveryBudget::WHOLE;
        }
        self.recovered_at = now;
    }

    /// Does a bulk request in its turn.
    pub(super) fn bulk(&mut self, turn: &mut Turn<'_>, request: HubRequest) {
        let placed = turn
            .cx
            .snapshot
            .shard_of(self.instance(), &request.room.channel);
        let place = placed.map(|(region, shard)| (region.to_owned(), shard.0));
        if matches!(request.request, Request::Subscribe(_)) {
            self.refill_recovery(turn);
            let bulk = self.bulk.get_or_insert_default();
            let shard = bulk.recoveries.entry(place).or_default();
            shard.waiting.push_back(request);
        } else {
            let bulk = self.bulk.get_or_insert_default();
            bulk.pages.push_back(request);
        }
        self.next_bulk(turn);
    }

    /// Whether something waits for the client's queue to become short.
    pub(super) fn wants_drain(&self) -> bool {
        self.bulk
            .as_deref()
            .is_some_and(|bulk| bulk.may_begin() || (bulk.held.is_some() && !bulk.is_recovering()))
    }

    /// Begins what may begin while the client's queue is short.
    pub(super) fn next_bulk(&mut self, turn: &mut Turn<'_>) {
        self.release_page(turn);
        let left = self.recovery;
        let Some(bulk) = &mut self.bulk else {
            return;
        };
        while turn.outbox_bytes() <= turn.cx.config.bulk_low_water_bytes {
            let Some(mut next) = bulk.begin() else {
                break;
            };
            if let Request::Subscribe(query) = &mut next.request
                && let Some(from) = &mut query.recover
            {
                // What answered ones have left over; the answer is checked against the rest then.
                from.publications_max = left.publications as usize;
                let as_text = query.delivery.delta && query.dialect == Dialect::Json;
                from.bytes_max = left.bytes as usize / weight(as_text);
            }
            turn.hub(next);
        }
        if bulk.is_over() {
            self.bulk = None;
        }
    }

    /// Keeps the answer to a page back where the client's queue could not take it beside what is
    /// being recovered. Returns an answer that need not wait.
    pub(super) fn hold_page(
        &mut self,
        turn: &Turn<'_>,
        token: u64,
        answer: Answer,
    ) -> Option<Answer> {
        if !self.fits(turn, &answer)
            && let Some(bulk) = &mut self.bulk
            && bulk.page == Some(token)
        {
            bulk.held = Some(answer);
            return None;
        }
        Some(answer)
    }

    fn fits(&self, turn: &Turn<'_>, answer: &Answer) -> bool {
        let recovering = self.bulk.as_deref().is_some_and(Bulk::is_recovering);
        let queued = turn.outbox_bytes();
        if !recovering && queued <= turn.cx.config.bulk_low_water_bytes {
            return true;
        }
        let bytes: usize = match answer {
            Answer::History(page) => page.publications.iter().map(cost::publication).sum(),
            Answer::Presence(who) => who.entries.iter().map(cost::entry).sum(),
            _ => return true,
        };
        let recovered = match recovering {
            true => cost::shown_at_most(self.recovery.publications, self.recovery.bytes),
            false => 0,
        };
        queued + bytes + recovered <= QUEUE_BYTES_MAX
    }

    /// Answers a page that waited, if it fits now.
    fn release_page(&mut self, turn: &mut Turn<'_>) {
        let Some(bulk) = &mut self.bulk else {
            return;
        };
        let (Some(answer), Some(token)) = (bulk.held.take(), bulk.page) else {
            return;
        };
        if let Some(answer) = self.hold_page(turn, token, answer) {
            self.put(turn, token, answer);
            if let Some(bulk) = &mut self.bulk {
                bulk.end(token);
            }
        }
    }

    /// A request was answered: if it was a bulk one, the next may begin.
    pub(super) fn bulk_done(&mut self, turn: &mut Turn<'_>, token: u64) {
        if let Some(bulk) = &mut self.bulk {
            bulk.end(token);
            self.next_bulk(turn);
        }
    }

    /// Changes who will be present by a subscribe that has not begun; `false`: it has.
    pub(super) fn rename_waiting(&mut self, token: u64, person: &Arc<Person>) -> bool {
        let shards = self.bulk.iter_mut().flat_map(|b| b.recoveries.values_mut());
        let mut waiting = shards.flat_map(|shard| &mut shard.waiting);
        let Some(found) = waiting.find(|r| r.token == token) else {
            return false;
        };
        if let Request::Subscribe(query) = &mut found.request
            && let Some(present) = &mut query.presence
        {
            *present = person.clone();
        }
        true
    }

    /// Takes a request back that has not begun.
    pub(super) fn withdraw(&mut self, token: u64) -> bool {
        let Some(bulk) = &mut self.bulk else {
            return false;
        };
        for shard in bulk.recoveries.values_mut() {
            if let Some(at) = shard.waiting.iter().position(|r| r.token == token) {
                shard.waiting.remove(at);
                bulk.end(token);
                return true;
            }
        }
        false
    }
}
