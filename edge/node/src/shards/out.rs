//! Where a hub's outputs go: to sessions at once, to the owner when the hub has finished.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame};
use gb6_edge_session::{Answer, Detach, HubOut, Notice};

use crate::ws::connection::{Event, SessionHandle};

/// What a hub wants sent, and whether it wants its link closed.
#[derive(Default)]
pub(super) struct Outputs {
    /// Frames for the shard stream, in order. Bounded by the hub: publishes by credit, the rest by
    /// its rooms and people.
    pub(super) to_owner: VecDeque<OwnerFrame>,
    /// Requests for the catch-up stream; bounded by the reads that a hub has under way.
    pub(super) to_history: VecDeque<HistoryRequest>,
    /// Why the link is to be closed.
    pub(super) detach: Option<Detach>,
    /// Frames handed to sessions since the last look.
    pub(super) handed: usize,
}

impl HubOut<Arc<SessionHandle>> for Outputs {
    fn deliver(&mut self, to: &Arc<SessionHandle>, frame: Bytes) {
        self.handed += 1;
        // A session that overflowed or ended says so to the hub itself.
        let _ = to.outbox.push(frame);
    }

    fn complete(&mut self, to: &Arc<SessionHandle>, token: u64, answer: Answer) {
        self.handed += 1;
        let _ = to.outbox.event(Event::Complete(token, Box::new(answer)));
    }

    fn notice(&mut self, to: &Arc<SessionHandle>, notice: Notice) {
        let _ = to.outbox.event(Event::Notice(Box::new(notice)));
    }

    fn to_owner(&mut self, frame: OwnerFrame) {
        self.to_owner.push_back(frame);
    }

    fn to_history(&mut self, request: HistoryRequest) {
        self.to_history.push_back(request);
    }

    fn detach(&mut self, why: Detach) {
        // What was meant for the link that ends must not go to the next one.
        self.to_owner.clear();
        self.to_history.clear();
        self.detach = Some(why);
    }
}
