//! History: which offsets a request is about. Reading them is the driver's work.

use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{HistoryPage, HistoryRequest, RoomRef};

use crate::machine::{LinkId, Output, Shard};
use crate::room::RoomIx;

/// Offsets to read for a page of history.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryRead {
    /// The link that asked; the page goes back on its catch-up stream.
    pub link: LinkId,
    /// The room.
    pub room: RoomRef,
    /// The lowest offset.
    pub low: u64,
    /// The highest offset; committed. At most 300 ([`limits::HISTORY_PAGE_MAX`]) from the lowest on.
    pub high: u64,
    /// Newest first.
    pub reverse: bool,
    /// Stop before the page has more bytes than this; its first publication always fits.
    pub bytes: u64,
    /// The page to fill: everything but its publications is set.
    pub page: HistoryPage,
}

impl Shard {
    /// A request on a link's catch-up stream: becomes [`Output::Read`] or [`Output::Page`].
    pub fn history(&mut self, now_ms: u64, link: LinkId, request: HistoryRequest) {
        self.advance(now_ms);
        let mut page = HistoryPage {
            request: request.request,
            first: 1,
            ..HistoryPage::default()
        };
        if self.serving.is_none() {
            page.error = ErrorCode::OwnerMoving.code();
            return self.out.push_back(Output::Page { link, page });
        }
        let Some(ix) = self.rooms.find(&request.room) else {
            return self.out.push_back(Output::Page { link, page });
        };
        let room = self.rooms.get(ix);
        let first = self.first_kept(ix);
        page.top = room.head;
        page.first = first;
        page.generation = room.generation;
        let forward = !request.reverse;
        // Forwards the first one wanted is not kept any more; backwards none is of what there was
        // before. A room of which nothing is gone ends in an empty page.
        let gone = match forward {
            true => request.since.saturating_add(1) < first,
            false => (1..first).contains(&request.since.saturating_sub(1).min(room.head)),
        };
        let below = gone && !request.from_end;
        if below && request.limit > 0 {
            page.error = ErrorCode::UnrecoverablePosition.code();
            return self.out.push_back(Output::Page { link, page });
        }
        // An edge asks for no more; whatever it asks for, a page stays small.
        let limit = u64::from(request.limit).min(limits::HISTORY_PAGE_MAX as u64);
        let (low, high) = if forward {
            let after = if request.from_end { 0 } else { request.since };
            let low = after.saturating_add(1).max(first);
            (
                low,
                room.head.min(low.saturating_add(limit).saturating_sub(1)),
            )
        } else {
            let before = if request.from_end {
                room.head
            } else {
                request.since.saturating_sub(1).min(room.head)
            };
            (first.max((before + 1).saturating_sub(limit)), before)
        };
        if limit == 0 || low > high {
            return self.out.push_back(Output::Page { link, page });
        }
        self.out.push_back(Output::Read(HistoryRead {
            link,
            room: request.room,
            low,
            high,
            reverse: request.reverse,
            bytes: request.bytes.min(limits::HISTORY_PAGE_BYTES_MAX as u64),
            page,
        }));
    }

    /// The first offset of a room that is still shown: what was trimmed, or would be by the
    /// namespace's history size, is not.
    pub(crate) fn first_kept(&self, ix: RoomIx) -> u64 {
        let room = self.rooms.get(ix);
        let size = self.rules(&room.key).map_or(0, |r| r.history_size);
        match size {
            0 => room.first,
            size => room.first.max((room.head + 1).saturating_sub(size)),
        }
    }
}
