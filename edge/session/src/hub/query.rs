//! Questions that the owner answers once: presence, traces, removals of history, a user's edges and its
//! status; and its pushes of joins and leaves.
//!
//! A question is asked once for all who wait for it, a bounded number of questions is under way,
//! and instances take turns. Who asks while an equal question is under way waits for the next one:
//! that one may have been answered before the asker itself came into the room.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::{ErrorCode, InstanceEpoch, Offset, Turns};
use gb6_core_wire::client::Event;
use gb6_core_wire::mesh::{
    HistoryRemoved, OwnerFrame, Presence, PresenceQuery, RemoveHistory, RoomRef, TraceQuery,
    Traced, UserAnswer, UserQuery, UserStatusAction, UserStatusAnswer, UserStatusQuery,
};

use super::encode::{Frames, Told};
use super::{Asked, Hub, HubOut, Op};
use crate::request::{
    Answer, EdgesAnswer, PresenceAnswer, StatusAnswer, StatusWanted, TraceAnswer,
};

/// What is asked about a room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum About {
    /// Who is present, or only how many.
    Presence { entries: bool },
    /// Where the record at this offset lies.
    Trace(Offset),
    /// Which edges have sessions of the user whose own channel it is, by this snapshot revision.
    Edges(u64),
    /// That it has no history any more, or none below an offset. Asking twice removes what came
    /// between, as if the first had taken so long.
    Removal(InstanceEpoch, Option<Offset>),
    /// The status of the user whose own channel it is, or a change of it. Each change has a number of its
    /// own: of two equal ones the second may undo what came between.
    Status(InstanceEpoch, StatusWanted, u64),
}

type Question = (RoomRef, About);

/// A question that the owner was asked.
struct UnderWay {
    /// When.
    at: u64,
    question: Question,
    /// The operations that its answer ends.
    ops: Vec<u64>,
    /// Operations that came since: they end with the answer to the next one.
    next: Vec<u64>,
}

/// Questions under way and waiting.
#[derive(Default)]
pub(super) struct Queries {
    /// By their numbers on the wire.
    under_way: BTreeMap<u64, UnderWay>,
    numbers: BTreeMap<Question, u64>,
    /// Questions that wait, each with the operations that wait for it.
    waiting: BTreeMap<Question, Vec<u64>>,
    turns: Turns<Question>,
}

impl Queries {
    /// An operation waits for this question; `true`: together with others.
    fn add(&mut self, question: &Question, op: u64) -> bool {
        let number = self.numbers.get(question);
        let shared = match number.and_then(|number| self.under_way.get_mut(number)) {
            Some(under_way) => &mut under_way.next,
            None => self.waiting.entry(question.clone()).or_default(),
        };
        shared.push(op);
        let first = number.is_none() && shared.len() == 1;
        if first {
            self.turns.push(&question.0.instance, question.clone());
        }
        !first
    }

    /// Whether an equal question waits or is under way.
    fn knows(&self, question: &Question) -> bool {
        self.numbers.contains_key(question) || self.waiting.contains_key(question)
    }

    /// No longer under way. Operations that came since wait for the next one.
    fn end(&mut self, number: u64) -> Vec<u64> {
        let Some(ended) = self.under_way.remove(&number) else {
            return Vec::new();
        };
        self.numbers.remove(&ended.question);
        for op in ended.next {
            self.add(&ended.question, op);
        }
        ended.ops
    }

    /// What is under way gets no answer: it is asked again. Answers with the operations that can not be: the
    /// owner may have made their change, and again behind those that wait it would undo them.
    fn link_down(&mut self) -> Vec<u64> {
        self.numbers.clear();
        let mut unknown = Vec::new();
        for ended in std::mem::take(&mut self.under_way).into_values() {
            match &ended.question.1 {
                About::Status(_, wanted, _) if *wanted != StatusWanted::Get => {
                    unknown.extend(ended.ops);
                }
                _ => {
                    for op in ended.ops.into_iter().chain(ended.next) {
                        self.add(&ended.question, op);
                    }
                }
            }
        }
        unknown
    }
}

impl<S: Clone> Hub<S> {
    pub(super) fn queries_link_down(&mut self, out: &mut impl HubOut<S>) {
        for op in self.queries.link_down() {
            if let Some(waiting) = self.ops.remove(&op) {
                let unknown = Answer::Failed(ErrorCode::Internal);
                out.complete(&waiting.handle, waiting.token, unknown);
            }
        }
    }

    pub(super) fn presence(&mut self, asked: Asked<S>, entries: bool, out: &mut impl HubOut<S>) {
        self.query(asked, About::Presence { entries }, out);
    }

    pub(super) fn trace(&mut self, asked: Asked<S>, offset: Offset, out: &mut impl HubOut<S>) {
        self.query(asked, About::Trace(offset), out);
    }

    pub(super) fn edges_of(&mut self, asked: Asked<S>, revision: u64, out: &mut impl HubOut<S>) {
        self.query(asked, About::Edges(revision), out);
    }

    pub(super) fn user_status(
        &mut self,
        asked: Asked<S>,
        instance_epoch: InstanceEpoch,
        wanted: StatusWanted,
        out: &mut impl HubOut<S>,
    ) {
        let number = match wanted {
            StatusWanted::Get => 0,
            StatusWanted::Update { .. } | StatusWanted::Delete => self.next_op,
        };
        self.query(asked, About::Status(instance_epoch, wanted, number), out);
    }

    pub(super) fn remove_history(
        &mut self,
        asked: Asked<S>,
        instance_epoch: InstanceEpoch,
        first: Option<Offset>,
        out: &mut impl HubOut<S>,
    ) {
        self.query(asked, About::Removal(instance_epoch, first), out);
    }

    fn query(&mut self, asked: Asked<S>, about: About, out: &mut impl HubOut<S>) {
        let question = (asked.room.clone(), about);
        let waiting = self.queries.turns.waiting(&question.0.instance);
        // Overflow policy of this queue: the newest is refused.
        if !self.queries.knows(&question) && waiting >= self.config.queries_waiting {
            self.counters.queries_refused += 1;
            let refused = Answer::Failed(ErrorCode::TooManyRequests);
            return out.complete(&asked.handle, asked.token, refused);
        }
        let op = self.wait(&asked, Op::Query);
        if self.queries.add(&question, op) {
            self.counters.queries_shared += 1;
        }
        self.start_queries(asked.now, out);
    }

    /// Asks what may be asked now.
    pub(super) fn start_queries(&mut self, now: u64, out: &mut impl HubOut<S>) {
        if !self.lease.is_attached() {
            return;
        }
        while self.queries.under_way.len() < self.config.queries_in_flight.max(1)
            && !out.owner_full()
            && let Some(question) = self.queries.turns.pop(|_| true)
        {
            let mut ops = self.queries.waiting.remove(&question).unwrap_or_default();
            ops.retain(|op| self.ops.contains_key(op));
            if ops.is_empty() {
                continue;
            }
            let request = self.next_op;
            self.next_op += 1;
            let room = question.0.clone();
            out.to_owner(match question.1 {
                About::Presence { entries } => OwnerFrame::PresenceQuery(PresenceQuery {
                    request,
                    room,
                    entries,
                }),
                About::Removal(epoch, first) => OwnerFrame::RemoveHistory(RemoveHistory {
                    request,
                    room,
                    instance_epoch: epoch.0,
                    first: first.unwrap_or(0),
                }),
                About::Status(epoch, ref wanted, _) => {
                    let (action, state) = match wanted {
                        StatusWanted::Get => (UserStatusAction::Get, String::new()),
                        StatusWanted::Update { state } => (UserStatusAction::Update, state.clone()),
                        StatusWanted::Delete => (UserStatusAction::Delete, String::new()),
                    };
                    OwnerFrame::UserStatus(UserStatusQuery {
                        request,
                        room,
                        instance_epoch: epoch.0,
                        action: action.into(),
                        state,
                    })
                }
                About::Edges(revision) => OwnerFrame::UserQuery(UserQuery {
                    request,
                    user: room
                        .channel
                        .strip_prefix('#')
                        .unwrap_or_default()
                        .to_owned(),
                    instance: room.instance,
                    revision,
                }),
                About::Trace(offset) => OwnerFrame::Trace(TraceQuery {
                    request,
                    room,
                    offset,
                }),
            });
            self.queries.numbers.insert(question.clone(), request);
            let under_way = UnderWay {
                at: now,
                question,
                ops,
                next: Vec::new(),
            };
            self.queries.under_way.insert(request, under_way);
        }
    }

    /// Questions without an answer make place for others; who waited for them has been told.
    pub(super) fn tick_queries(&mut self, now: u64, out: &mut impl HubOut<S>) {
        // Numbers ascend with time.
        while let Some((number, first)) = self.queries.under_way.first_key_value()
            && now >= first.at + self.config.answer_ms
        {
            let number = *number;
            self.queries.end(number);
        }
        self.start_queries(now, out);
    }

    pub(super) fn presence_answer(
        &mut self,
        now: u64,
        frame: gb6_core_wire::mesh::PresenceAnswer,
        out: &mut impl HubOut<S>,
    ) {
        let asked = |about: &About| matches!(about, About::Presence { .. });
        let answer = match frame.error {
            0 => Answer::Presence(Box::new(PresenceAnswer {
                entries: frame.entries.into(),
                clients: frame.clients,
                users: frame.users,
            })),
            code => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        self.answer_query(now, frame.request, asked, answer, out);
    }

    pub(super) fn traced(&mut self, now: u64, frame: Traced, out: &mut impl HubOut<S>) {
        let asked = |about: &About| matches!(about, About::Trace(_));
        let answer = match frame.error {
            0 => Answer::Traced(TraceAnswer {
                shard: frame.shard,
                shard_epoch: frame.shard_epoch,
                sync_us: frame.sync_us,
                batch: frame.batch,
            }),
            code => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        self.answer_query(now, frame.request, asked, answer, out);
    }

    pub(super) fn edges_answered(&mut self, now: u64, frame: UserAnswer, out: &mut impl HubOut<S>) {
        let asked = |about: &About| matches!(about, About::Edges(_));
        let answer = Answer::EdgesOf(Arc::new(EdgesAnswer {
            edges: frame.edges,
            reported: frame.reported,
            reported_sum: frame.reported_sum,
        }));
        self.answer_query(now, frame.request, asked, answer, out);
    }

    pub(super) fn status_answered(
        &mut self,
        now: u64,
        frame: UserStatusAnswer,
        out: &mut impl HubOut<S>,
    ) {
        let asked = |about: &About| matches!(about, About::Status(..));
        let answer = match frame.error {
            0 => Answer::UserStatus(Arc::new(StatusAnswer {
                active: frame.active,
                online: frame.online,
                state: frame.state,
            })),
            code => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        self.answer_query(now, frame.request, asked, answer, out);
    }

    /// Nothing of a room below an offset is shown any more: it goes from what is remembered here,
    /// whoever asked for it.
    pub(super) fn history_removed(
        &mut self,
        now: u64,
        frame: &HistoryRemoved,
        out: &mut impl HubOut<S>,
    ) {
        if let Some(id) = self.rooms.find(&frame.room)
            && let Some(mut room) = self.take_room(id)
        {
            room.first = room.first.max(frame.first);
            room.ring.drop_through(room.first.saturating_sub(1));
            if room.first > room.position {
                // It is what deltas would be made against.
                room.base = None;
            }
            if let Some(backfill) = &mut room.backfill {
                backfill
                    .read_so_far
                    .drop_through(room.first.saturating_sub(1));
            }
            self.put_room(id, room);
        }
        if frame.request == 0 {
            return;
        }
        let asked = |about: &About| matches!(about, About::Removal(..));
        let answer = match frame.error {
            0 => Answer::HistoryRemoved,
            code => Answer::Failed(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)),
        };
        self.answer_query(now, frame.request, asked, answer, out);
    }

    fn answer_query(
        &mut self,
        now: u64,
        request: u64,
        asked: impl Fn(&About) -> bool,
        answer: Answer,
        out: &mut impl HubOut<S>,
    ) {
        let under_way = self.queries.under_way.get(&request);
        if !under_way.is_some_and(|u| asked(&u.question.1)) {
            self.counters.stray_frames += 1;
            return;
        }
        for op in self.queries.end(request) {
            if let Some(waiting) = self.ops.remove(&op) {
                out.complete(&waiting.handle, waiting.token, answer.clone());
            }
        }
        self.start_queries(now, out);
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
        let mut frames = Frames::new(&room.key.channel, room.number);
        out.of_room(&room.key);
        let event = match joined {
            true => Event::Join(&frame.person),
            false => Event::Leave(&frame.person),
        };
        for subscriber in room.subscribers.iter().filter(|s| s.join_leave) {
            out.deliver(
                &subscriber.handle,
                frames.get(subscriber.form, Told::Plain, || event),
            );
        }
    }
}
