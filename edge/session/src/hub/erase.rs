//! Erasing: what the owner says is erased goes from everything that the hub remembers and reads.
//!
//! The owner tells every edge with interest in the room, in order with the room's publications,
//! and says with every answer to interest how many of the room's messages it has erased in its
//! life: a hub that missed one while it had no link forgets what it remembers of that room.

use std::sync::Arc;

use gb6_core_model::Offset;
use gb6_core_wire::mesh::{Erased, HistoryPage, Interested};

use super::Hub;
use super::fill::erase_ahead;
use super::ring::Ring;
use super::room::Room;
use crate::request::Recent;

/// Erasures in the room of one read that are remembered while it is under way.
const WHILE_READ_MAX: usize = 1_024;

/// What is erased while a page of a room is read: the page may have been read before.
#[derive(Default)]
pub(super) struct ErasedMeanwhile {
    offsets: Vec<Offset>,
    /// There were too many: the page must not be used.
    spoilt: bool,
}

impl ErasedMeanwhile {
    // overflow: the page counts as failed, and is read again.
    pub(super) fn add(&mut self, offset: Offset) {
        if self.offsets.len() < WHILE_READ_MAX {
            self.offsets.push(offset);
        } else {
            self.spoilt = true;
        }
    }

    /// Takes out of the page what must not be shown any more.
    pub(super) fn apply(&self, page: &mut HistoryPage) {
        if self.spoilt {
            page.publications.clear();
            page.error = gb6_core_model::ErrorCode::Internal.code();
        }
        for publication in &mut page.publications {
            if self.offsets.contains(&publication.offset) {
                publication.erase();
            }
        }
    }
}

impl Ring {
    /// Takes the content of a publication away; it keeps its place and its cost.
    pub(super) fn erase(&mut self, offset: Offset) {
        if let Some(recent) = self.find_mut(offset) {
            let mut publication = recent.publication.clone();
            publication.erase();
            *recent = Arc::new(Recent {
                publication,
                cost: recent.cost,
            });
        }
    }
}

impl<S: Clone> Hub<S> {
    /// A message was erased.
    pub(super) fn erased(&mut self, frame: &Erased) {
        self.counters.erased += 1;
        self.reads.erased(frame);
        let found = self.rooms.find(&frame.room);
        let Some((id, mut room)) = found.and_then(|id| Some((id, self.take_room(id)?))) else {
            return;
        };
        if frame.offset == room.position {
            // It is what deltas would be made against.
            room.base = None;
        }
        room.ring.erase(frame.offset);
        erase_ahead(&mut room.follow, frame.offset);
        if let Some(backfill) = &mut room.backfill {
            backfill.read_so_far.erase(frame.offset);
        }
        if let Some((_, count)) = &mut room.erasures {
            *count = frame.erasures.max(*count);
        }
        self.put_room(id, room);
    }

    /// The owner says where the room stands: forgets what is remembered of it, if something may
    /// have been erased since the owner was last heard of it.
    pub(super) fn forget_unless_current(&self, room: &mut Room<S>, frame: &Interested) {
        let erasures = (self.lease.owner_incarnation(), frame.erasures);
        if room.erasures.replace(erasures) != Some(erasures) {
            room.ring.clear();
            room.base = None;
            room.backfill = None;
        }
    }
}
