//! Publishes on their way: the door, the credit, the answers, the resends.
//!
//! A publish waits at its instance's door until the owner's credit lets it out. After a break all
//! that is unanswered stands at the door again, in its old order and with its old number.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::{ErrorCode, SessionId};
use gb6_core_wire::mesh::{OwnerFrame, Publish, Published, RoomRef, SessionEnded, SignalPublish};

use super::{Asked, Hub, HubOut, Op, Waiting};
use crate::request::{Answer, PublishAnswer, PublishQuery};

/// A publish without an answer.
pub(super) struct PendingPublish {
    pub(super) room: Arc<RoomRef>,
    query: PublishQuery,
    /// Its number once it was sent, else 0.
    number: u64,
    /// Whether it was sent on the present attachment.
    in_flight: bool,
}

impl PendingPublish {
    /// Whether the owner may know of it.
    fn was_sent(&self) -> bool {
        self.number > 0 || (self.query.signal && self.in_flight)
    }
}

/// The doors of all instances with something waiting or unanswered.
#[derive(Default)]
pub(super) struct Doors {
    by_instance: BTreeMap<String, Door>,
    /// Whose turn it was last, when the way to the owner was too narrow for all.
    last: String,
    /// Publishes given up here that the owner still counts, by request.
    given_up: BTreeMap<u64, GivenUp>,
}

/// A publish that was sent and given up, and whose answer may still come on this attachment.
struct GivenUp {
    /// Whose numbers it holds; a signal has none.
    session: Option<SessionId>,
    instance: String,
    bytes: usize,
}

#[derive(Default)]
struct Door {
    /// Operations in order; ones that were given up are passed over.
    queue: VecDeque<u64>,
    waiting: usize,
    waiting_bytes: usize,
    in_flight: u32,
    in_flight_bytes: u64,
}

impl Door {
    fn is_unused(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0
    }

    fn arrive(&mut self, id: u64, bytes: usize) {
        self.queue.push_back(id);
        self.waiting += 1;
        self.waiting_bytes += bytes;
    }

    fn left_unsent(&mut self, bytes: usize) {
        self.waiting -= 1;
        self.waiting_bytes -= bytes;
    }

    fn answered(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes as u64);
    }
}

impl Doors {
    pub(super) fn waiting(&self) -> usize {
        self.by_instance.values().map(|d| d.waiting).sum()
    }

    /// Nothing is in flight any more. Returns the sessions of what was given up: no answer comes.
    fn link_down(&mut self) -> Vec<SessionId> {
        for door in self.by_instance.values_mut() {
            door.in_flight = 0;
            door.in_flight_bytes = 0;
        }
        let given_up = std::mem::take(&mut self.given_up);
        given_up.into_values().filter_map(|g| g.session).collect()
    }
}

impl<S: Clone> Hub<S> {
    pub(super) fn publish(
        &mut self,
        mut asked: Asked<S>,
        query: PublishQuery,
        out: &mut impl HubOut<S>,
    ) {
        let bytes = query.data.len();
        let doors = &mut self.doors.by_instance;
        if !doors.contains_key(&asked.room.instance) {
            doors.insert(asked.room.instance.clone(), Door::default());
        }
        let Some(door) = doors.get_mut(&asked.room.instance) else {
            return;
        };
        // Overflow policy of this queue: the newest is refused, by instance.
        let full = door.waiting >= self.config.door_max
            || (door.waiting > 0 && door.waiting_bytes + bytes > self.config.door_bytes_max);
        if full {
            self.counters.door_refused += 1;
            let refused = Answer::Failed(ErrorCode::TooManyRequests);
            return out.complete(&asked.handle, asked.token, refused);
        }
        door.arrive(self.next_op, bytes);
        let room = Arc::new(std::mem::take(&mut asked.room));
        if !query.signal {
            self.numbers.arrive(asked.session, &room);
        }
        self.wait(
            &asked,
            Op::Publish(Box::new(PendingPublish {
                room: Arc::clone(&room),
                query,
                number: 0,
                in_flight: false,
            })),
        );
        self.let_out(&room.instance, out);
    }

    /// Sends what the credit allows.
    fn let_out(&mut self, instance: &str, out: &mut impl HubOut<S>) {
        if !self.lease.is_attached() {
            return;
        }
        let (credit, credit_bytes) = self.lease.credit();
        let Some(door) = self.doors.by_instance.get_mut(instance) else {
            return;
        };
        while let Some(id) = door.queue.front().copied() {
            let waiting = self.ops.get_mut(&id);
            let Some(Waiting {
                op: Op::Publish(publish),
                session,
                ..
            }) = waiting
            else {
                door.queue.pop_front();
                continue;
            };
            let bytes = publish.query.data.len();
            // One is always let out, however large it is.
            let fits = door.in_flight == 0
                || (door.in_flight < credit && door.in_flight_bytes + bytes as u64 <= credit_bytes);
            if !fits || out.owner_full() {
                return;
            }
            door.queue.pop_front();
            door.left_unsent(bytes);
            door.in_flight += 1;
            door.in_flight_bytes += bytes as u64;
            publish.in_flight = true;
            if publish.query.signal {
                self.counters.published += 1;
                out.to_owner(OwnerFrame::Signal(signal_frame(id, publish)));
                continue;
            }
            if publish.number == 0 {
                publish.number = self.numbers.number(*session, &publish.room);
                self.counters.published += 1;
            } else {
                self.counters.resent += 1;
            }
            let settled_below = self.numbers.settled_below(*session, &publish.room);
            out.to_owner(OwnerFrame::Publish(frame(
                id,
                *session,
                publish,
                settled_below,
            )));
        }
        if door.is_unused() {
            self.doors.by_instance.remove(instance);
        }
    }

    /// After attaching: everything unanswered stands at its door again, in order, and goes out as
    /// the credit allows.
    pub(super) fn resend_publishes(&mut self, out: &mut impl HubOut<S>) {
        self.doors.by_instance.clear();
        for (id, waiting) in &mut self.ops {
            if let Op::Publish(publish) = &mut waiting.op {
                publish.in_flight = false;
                let instance = publish.room.instance.clone();
                let door = self.doors.by_instance.entry(instance).or_default();
                door.arrive(*id, publish.query.data.len());
            }
        }
        self.let_all_out(out);
    }

    /// Sends what the credit of every instance allows, in turn: each begins where the last one
    /// that found the way to the owner full left off.
    pub(super) fn let_all_out(&mut self, out: &mut impl HubOut<S>) {
        let mut turns: Vec<String> = self.doors.by_instance.keys().cloned().collect();
        let next = turns.partition_point(|name| *name <= self.doors.last);
        turns.rotate_left(next);
        for instance in turns {
            if out.owner_full() {
                return;
            }
            self.let_out(&instance, out);
            self.doors.last = instance;
        }
    }

    pub(super) fn published(&mut self, _now: u64, frame: Published, out: &mut impl HubOut<S>) {
        if let Some(given_up) = self.doors.given_up.remove(&frame.request) {
            if let Some(session) = given_up.session
                && self.numbers.late_answer(session)
            {
                self.session_ended(session, out);
            }
            self.credit_back(&given_up.instance, given_up.bytes, out);
            return;
        }
        let ours = |w: &Waiting<S>| matches!(&w.op, Op::Publish(p) if p.in_flight);
        if !self.ops.get(&frame.request).is_some_and(ours) {
            self.counters.stray_frames += 1;
            return;
        }
        let Some(waiting) = self.ops.remove(&frame.request) else {
            return;
        };
        let answer = match (frame.error, frame.offset) {
            (0, 1..) => Answer::Published(PublishAnswer {
                offset: frame.offset,
                generation: frame.generation,
                time: frame.time,
                duplicate: frame.duplicate,
            }),
            (0, 0) if is_signal(&waiting) => Answer::Published(PublishAnswer::default()),
            // An owner that says neither that it was written nor why not has not said anything.
            (0, 0) => Answer::Failed(ErrorCode::OutcomeUnknown),
            (code, _) => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        out.complete(&waiting.handle, waiting.token, answer);
        if let Op::Publish(publish) = waiting.op {
            self.settle(waiting.session, &publish, out);
            self.credit_back(&publish.room.instance, publish.query.data.len(), out);
        }
    }

    /// No answer in time. Returns the code for the client.
    pub(super) fn give_up_publish(
        &mut self,
        id: u64,
        session: SessionId,
        publish: PendingPublish,
        out: &mut impl HubOut<S>,
    ) -> ErrorCode {
        let instance = &publish.room.instance;
        let bytes = publish.query.data.len();
        if publish.in_flight && self.lease.is_attached() {
            let signal = publish.query.signal;
            let given_up = GivenUp {
                session: (!signal).then_some(session),
                instance: instance.clone(),
                bytes,
            };
            self.doors.given_up.insert(id, given_up);
            if !signal {
                // The owner may still write it: until it has answered, the end of the session
                // would make it forget a number that it has yet to use.
                self.numbers.expect_late_answer(session);
            }
        } else if !publish.in_flight
            && let Some(door) = self.doors.by_instance.get_mut(instance)
        {
            door.left_unsent(bytes);
            // The oldest goes first, so that nothing given up stays in the queue.
            if door.queue.front() == Some(&id) {
                door.queue.pop_front();
            }
        }
        self.settle(session, &publish, out);
        if publish.was_sent() {
            self.counters.outcome_unknown += 1;
            return ErrorCode::OutcomeUnknown;
        }
        // It was never sent, so its outcome is known: nothing was written.
        self.counters.door_refused += 1;
        if self.lease.is_attached() {
            ErrorCode::TooManyRequests
        } else {
            ErrorCode::OwnerMoving
        }
    }

    /// The lease has ended: what was ever sent is answered 1003 and never sent again.
    pub(super) fn give_up_sent(&mut self, out: &mut impl HubOut<S>) {
        let sent: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, w)| matches!(&w.op, Op::Publish(p) if p.was_sent()))
            .map(|(id, _)| *id)
            .collect();
        self.give_up(sent, out);
    }

    fn give_up(&mut self, publishes: Vec<u64>, out: &mut impl HubOut<S>) {
        for id in publishes {
            if let Some(waiting) = self.ops.remove(&id)
                && let Op::Publish(publish) = waiting.op
            {
                let code = self.give_up_publish(id, waiting.session, *publish, out);
                out.complete(&waiting.handle, waiting.token, Answer::Failed(code));
            }
        }
    }

    /// Tells the owner, now or after attaching, that a session has ended.
    pub(super) fn session_ended(&mut self, session: SessionId, out: &mut impl HubOut<S>) {
        // An incarnation that has ended, or has yet to begin, has told the owner nothing of it.
        if self.lease.has_incarnation() {
            self.numbers.tell(session, self.lease.sequence());
        }
        if self.lease.is_attached() {
            out.to_owner(OwnerFrame::SessionEnded(SessionEnded {
                session: session.0,
            }));
        }
    }

    /// The link is down: nothing sent on it is answered any more.
    pub(super) fn publishes_link_down(&mut self, out: &mut impl HubOut<S>) {
        // A signal is sent at most once.
        let sent =
            |w: &Waiting<S>| matches!(&w.op, Op::Publish(p) if p.in_flight && p.query.signal);
        let ops = self.ops.iter().filter(|(_, waiting)| sent(waiting));
        let sent: Vec<u64> = ops.map(|(id, _)| *id).collect();
        self.give_up(sent, out);
        for session in self.doors.link_down() {
            if self.numbers.late_answer(session) {
                self.session_ended(session, out);
            }
        }
    }

    fn settle(&mut self, session: SessionId, publish: &PendingPublish, out: &mut impl HubOut<S>) {
        if publish.query.signal {
            return;
        }
        if self.numbers.settle(session, &publish.room, publish.number) {
            self.session_ended(session, out);
        }
    }

    fn credit_back(&mut self, instance: &str, bytes: usize, out: &mut impl HubOut<S>) {
        if let Some(door) = self.doors.by_instance.get_mut(instance) {
            door.answered(bytes);
        }
        self.let_out(instance, out);
    }
}

fn frame(id: u64, session: SessionId, publish: &PendingPublish, settled_below: u64) -> Publish {
    let query = &publish.query;
    Publish {
        request: id,
        room: (*publish.room).clone(),
        instance_epoch: query.instance_epoch.0,
        session: session.0,
        number: publish.number,
        settled_below,
        from: (*query.from).clone(),
        id: query.id.clone(),
        data: query.data.clone(),
        content_type: query.content_type.into(),
        tags: query.tags.clone(),
        traceparent: query.traceparent.clone(),
        next_after: query.after.map_or(0, |after| after + 1),
        version: query.version.as_ref().map_or(0, |v| v.number),
        version_epoch: query
            .version
            .as_ref()
            .map_or_else(String::new, |v| v.epoch.clone()),
    }
}

fn is_signal<S>(waiting: &Waiting<S>) -> bool {
    matches!(&waiting.op, Op::Publish(publish) if publish.query.signal)
}

fn signal_frame(id: u64, publish: &PendingPublish) -> SignalPublish {
    let query = &publish.query;
    SignalPublish {
        request: id,
        room: (*publish.room).clone(),
        instance_epoch: query.instance_epoch.0,
        from: (*query.from).clone(),
        data: query.data.clone(),
        content_type: query.content_type.into(),
        tags: query.tags.clone(),
        unkept: query.unkept,
    }
}
