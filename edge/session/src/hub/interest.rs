//! Telling the owner which rooms have subscribers here: in order, a bounded number at a time.
//!
//! After every break an edge says all of it again. The owner answers each room, so that tens of
//! thousands at once would stand before everything else on both sides.

use std::collections::BTreeMap;

use gb6_core_wire::mesh::OwnerFrame;

use super::room::RoomId;
use super::{Hub, HubOut};

/// Whether the owner knows that a room has subscribers here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Interest {
    /// It does not: there is no link.
    #[default]
    Untold,
    /// It will, when this entry of [`Interests`] has its turn.
    Waiting(u64),
    /// It was told on the present attachment.
    Told,
}

/// Interest on its way to the owner.
#[derive(Default)]
pub(super) struct Interests {
    /// Rooms that it has not been told of, in order: at most all rooms.
    waiting: BTreeMap<u64, RoomId>,
    /// The number of the last entry.
    last: u64,
    /// Said on the present attachment and not answered.
    unanswered: usize,
}

impl Interests {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Nothing said is answered any more; after attaching all of it is said again.
    pub(super) fn link_down(&mut self) {
        self.waiting.clear();
        self.unanswered = 0;
    }

    /// The room is gone before its turn came.
    pub(super) fn withdraw(&mut self, entry: u64) {
        self.waiting.remove(&entry);
    }
}

impl<S: Clone> Hub<S> {
    /// The owner is to be told of this room; `let_interest_out` must follow.
    pub(super) fn want(&mut self, id: RoomId) {
        if let Some(room) = self.rooms.get_mut(id) {
            self.interests.last += 1;
            let entry = self.interests.last;
            room.interest = Interest::Waiting(entry);
            self.interests.waiting.insert(entry, id);
        }
    }

    /// After attaching: the owner is to be told of every room.
    pub(super) fn want_all(&mut self, out: &mut impl HubOut<S>) {
        for id in 0..self.rooms.bound() {
            self.want(id);
        }
        self.let_interest_out(out);
    }

    /// The owner has answered one.
    pub(super) fn interest_answered(&mut self, out: &mut impl HubOut<S>) {
        self.interests.unanswered = self.interests.unanswered.saturating_sub(1);
        self.let_interest_out(out);
    }

    /// Says what may be said now.
    pub(super) fn let_interest_out(&mut self, out: &mut impl HubOut<S>) {
        let most = self.config.interests_in_flight.max(1);
        while self.interests.unanswered < most && self.lease.is_attached() && !out.owner_full() {
            let Some((_, id)) = self.interests.waiting.pop_first() else {
                return;
            };
            if let Some(room) = self.rooms.get_mut(id) {
                room.interest = Interest::Told;
                self.interests.unanswered += 1;
                out.to_owner(OwnerFrame::Interest((*room.key).clone()));
            }
        }
    }
}
