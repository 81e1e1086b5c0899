//! Questions that the owner answers once: presence and traces; and its pushes of joins and leaves.

use gb6_core_model::{ErrorCode, Offset};
use gb6_core_wire::mesh::{OwnerFrame, Presence, PresenceQuery, TraceQuery, Traced};

use super::encode::{self, Frames};
use super::{Asked, Hub, HubOut, Op};
use crate::request::{Answer, PresenceAnswer, TraceAnswer};

impl<S: Clone> Hub<S> {
    pub(super) fn presence(&mut self, asked: Asked<S>, entries: bool, out: &mut impl HubOut<S>) {
        let query = PresenceQuery {
            request: self.next_op,
            room: asked.room.clone(),
            entries,
        };
        self.query(asked, OwnerFrame::PresenceQuery(query), out);
    }

    pub(super) fn trace(&mut self, asked: Asked<S>, offset: Offset, out: &mut impl HubOut<S>) {
        let query = TraceQuery {
            request: self.next_op,
            room: asked.room.clone(),
            offset,
        };
        self.query(asked, OwnerFrame::Trace(query), out);
    }

    /// Asks now or after attaching; a question may be asked again, it changes nothing.
    fn query(&mut self, asked: Asked<S>, frame: OwnerFrame, out: &mut impl HubOut<S>) {
        if self.lease.is_attached() {
            out.to_owner(frame.clone());
        }
        self.wait(&asked, Op::Query(Box::new(frame)));
    }

    pub(super) fn presence_answer(
        &mut self,
        frame: gb6_core_wire::mesh::PresenceAnswer,
        out: &mut impl HubOut<S>,
    ) {
        let asked = |frame: &OwnerFrame| matches!(frame, OwnerFrame::PresenceQuery(_));
        let answer = Answer::Presence(Box::new(PresenceAnswer {
            entries: frame.entries,
            clients: frame.clients,
            users: frame.users,
        }));
        self.answer_query(frame.request, asked, answer, out);
    }

    pub(super) fn traced(&mut self, frame: Traced, out: &mut impl HubOut<S>) {
        let asked = |frame: &OwnerFrame| matches!(frame, OwnerFrame::Trace(_));
        let answer = match frame.error {
            0 => Answer::Traced(TraceAnswer {
                shard: frame.shard,
                shard_epoch: frame.shard_epoch,
                sync_us: frame.sync_us,
                batch: frame.batch,
            }),
            code => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        self.answer_query(frame.request, asked, answer, out);
    }

    fn answer_query(
        &mut self,
        request: u64,
        asked: impl Fn(&OwnerFrame) -> bool,
        answer: Answer,
        out: &mut impl HubOut<S>,
    ) {
        let ours = |op: &Op| matches!(op, Op::Query(frame) if asked(frame));
        if self.ops.get(&request).is_some_and(|w| ours(&w.op))
            && let Some(waiting) = self.ops.remove(&request)
        {
            out.complete(&waiting.handle, waiting.token, answer);
        } else {
            self.counters.stray_frames += 1;
        }
    }

    /// Pushes to the subscribers that want to know of joins and leaves.
    pub(super) fn joined_or_left(
        &mut self,
        frame: Presence,
        joined: bool,
        out: &mut impl HubOut<S>,
    ) {
        let id = self.rooms.find(&frame.room);
        let Some(room) = id.and_then(|id| self.rooms.get(id)) else {
            return;
        };
        let mut frames = Frames::default();
        let channel = room.key.channel.as_str();
        for subscriber in room.subscribers.iter().filter(|s| s.join_leave) {
            let bytes = frames.get(subscriber.dialect, |dialect| {
                encode::joined_or_left(channel, &frame.person, joined, dialect)
            });
            out.deliver(&subscriber.handle, bytes);
        }
    }
}
