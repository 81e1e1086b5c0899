//! Answers that may be large (history, recovery): begun only while the client's queue is short, so
//! that nothing but live publications can overflow it. One page of history at a time; several
//! recoveries, because together they stay within one budget, and a room whose shard is not reached
//! must not hold up the others.

use std::collections::VecDeque;

use gb6_core_model::ErrorCode;

use super::live::Live;
use super::reply::Turn;
use crate::request::{HubRequest, Request};

/// Recoveries of one session under way at once.
const RECOVERIES_MAX: usize = 16;

/// The bulk requests of one session; it exists while there are any.
#[derive(Default)]
pub(super) struct Bulk {
    waiting: VecDeque<HubRequest>,
    /// Pages of history among them: recovering subscribes are bounded by the subscriptions.
    pages: usize,
    /// The tokens of those that hubs work on: one page, or recoveries.
    running: Vec<u64>,
    /// Whether it is a page.
    page_running: bool,
}

impl Bulk {
    fn may_begin(&self) -> bool {
        match self.waiting.front() {
            Some(next) if is_page(next) => self.running.is_empty(),
            Some(_) => !self.page_running && self.running.len() < RECOVERIES_MAX,
            None => false,
        }
    }
}

impl Live {
    /// Whether another page of history may wait.
    pub(super) fn may_wait(&self, max: usize) -> Result<(), ErrorCode> {
        // Overflow policy of this queue: the newest is refused.
        match &self.bulk {
            Some(bulk) if bulk.pages >= max => Err(ErrorCode::TooManyRequests),
            _ => Ok(()),
        }
    }

    /// Does a bulk request in its turn.
    pub(super) fn bulk(&mut self, turn: &mut Turn<'_>, request: HubRequest) {
        let bulk = self.bulk.get_or_insert_default();
        bulk.pages += usize::from(is_page(&request));
        bulk.waiting.push_back(request);
        self.next_bulk(turn);
    }

    pub(super) fn wants_drain(&self) -> bool {
        self.bulk.as_deref().is_some_and(Bulk::may_begin)
    }

    /// Begins what may begin while the client's queue is short.
    pub(super) fn next_bulk(&mut self, turn: &mut Turn<'_>) {
        let left = self.recovery;
        let Some(bulk) = &mut self.bulk else {
            return;
        };
        while bulk.may_begin() && turn.outbox_bytes() <= turn.cx.config.bulk_low_water_bytes {
            let Some(mut next) = bulk.waiting.pop_front() else {
                return;
            };
            bulk.page_running = is_page(&next);
            bulk.pages -= usize::from(bulk.page_running);
            bulk.running.push(next.token);
            if let Request::Subscribe(query) = &mut next.request
                && let Some(from) = &mut query.recover
            {
                // What answered ones have left over; the answer is checked against the rest then.
                from.publications_max = left.publications as usize;
                from.bytes_max = left.bytes as usize;
            }
            turn.hub(next);
        }
        if bulk.waiting.is_empty() && bulk.running.is_empty() {
            self.bulk = None;
        }
    }

    /// A request was answered: if it was a bulk one, the next may begin.
    pub(super) fn bulk_done(&mut self, turn: &mut Turn<'_>, token: u64) {
        if let Some(bulk) = &mut self.bulk
            && let Some(at) = bulk.running.iter().position(|t| *t == token)
        {
            bulk.running.swap_remove(at);
            bulk.page_running = false;
            self.next_bulk(turn);
        }
    }

    /// Takes a request back that has not begun.
    pub(super) fn withdraw(&mut self, token: u64) -> bool {
        let Some(bulk) = &mut self.bulk else {
            return false;
        };
        let Some(at) = bulk.waiting.iter().position(|r| r.token == token) else {
            return false;
        };
        bulk.waiting.remove(at);
        true
    }
}

fn is_page(request: &HubRequest) -> bool {
    matches!(request.request, Request::History(_))
}
