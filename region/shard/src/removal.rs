//! Removing a room's history: the first kept offset moves behind the newest, and the stream goes on.

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{EdgeFrame, HistoryRemoved, RemoveHistory, RoomRef};
use gb6_core_wire::record::Kind;

use crate::batch::{Forming, RECORD_OVERHEAD};
use crate::machine::{LinkId, Shard};
use crate::room::RoomIx;

/// Removals that may wait for the next batch of one shard.
pub(crate) const REMOVALS_MAX: usize = 1_024;

impl Shard {
    /// An edge asks for a removal: it becomes a record of the next batch.
    // overflow: the newest is refused with 111.
    pub(crate) fn remove_history(&mut self, link: LinkId, wanted: RemoveHistory) {
        if self.removals.len() >= REMOVALS_MAX {
            let full = ErrorCode::TooManyRequests;
            return self.answer_removal(link, wanted.request, &wanted.room, Err(full));
        }
        self.removals.push_back((link, wanted));
    }

    /// Takes in the removals that wait, before the publishes of the batch: what was published
    /// before them is durable.
    pub(crate) fn form_removals(&mut self, forming: &mut Forming, unix_ms: i64) {
        while let Some((_, next)) = self.removals.front() {
            let cost = RECORD_OVERHEAD + next.room.instance.len() + next.room.channel.len();
            if !self.fits(forming, cost, 1) {
                return;
            }
            let Some((link, wanted)) = self.removals.pop_front() else {
                return;
            };
            self.form_removal(forming, link, &wanted, unix_ms);
        }
    }

    fn form_removal(
        &mut self,
        forming: &mut Forming,
        link: LinkId,
        wanted: &RemoveHistory,
        unix_ms: i64,
    ) {
        let room_ix = self.rooms.ensure(&wanted.room);
        if let Err(code) = self.may_write(room_ix, wanted.instance_epoch) {
            self.answer_removal(link, wanted.request, &wanted.room, Err(code));
            return self.rooms.drop_if_unused(room_ix);
        }
        let (first, head) = (self.rooms.get(room_ix).first, self.rooms.get(room_ix).head);
        let below = match wanted.first {
            0 => head + 1,
            wanted => wanted.min(head + 1),
        };
        if first >= below {
            // Nothing is there to be removed.
            self.answer_removal(link, wanted.request, &wanted.room, Ok(first));
            return self.rooms.drop_if_unused(room_ix);
        }
        if !forming.is_removed(room_ix, below) {
            let record = self.pointer(Kind::Trim, room_ix, below, unix_ms);
            self.push_record(forming, record, Some(room_ix));
        }
        forming.removals.push((link, wanted.request, room_ix));
    }

    /// A removal is durable: who asked for it is answered, and every edge with interest in the room
    /// forgets what it remembers of it.
    pub(crate) fn history_removed(&mut self, link: LinkId, request: u64, room_ix: RoomIx) {
        let room = self.rooms.get(room_ix);
        let (key, first) = (room.key.clone(), room.first);
        let others = room.edges.iter().filter_map(|ix| self.edges.list[*ix].link);
        let others: Vec<LinkId> = others.collect();
        self.answer_removal(link, request, &key, Ok(first));
        for other in others {
            self.answer_removal(other, 0, &key, Ok(first));
        }
    }

    /// The batch of a removal was not written.
    pub(crate) fn removal_failed(
        &mut self,
        link: LinkId,
        request: u64,
        room_ix: RoomIx,
        code: ErrorCode,
    ) {
        let key = self.rooms.get(room_ix).key.clone();
        self.answer_removal(link, request, &key, Err(code));
    }

    fn answer_removal(
        &mut self,
        link: LinkId,
        request: u64,
        room: &RoomRef,
        outcome: Result<u64, ErrorCode>,
    ) {
        // Where the link is gone, its edge asks again.
        if self.edges.by_link(link).is_none() {
            return;
        }
        let removed = HistoryRemoved {
            request,
            room: room.clone(),
            first: outcome.unwrap_or(0),
            error: outcome.err().map_or(0, ErrorCode::code),
        };
        self.send(link, EdgeFrame::HistoryRemoved(removed));
    }
}
