//! Statuses of users on their way through a shard's actor: who is here, and questions, to the task that
//! keeps them in the engines, and its answers back. Engines block, so the actor never waits for one.

mod board;
#[cfg(test)]
mod board_tests;
#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::{ErrorCode, Turns};
use gb6_core_ports::memory::{MemoryPeople, MemoryTemporary};
use gb6_core_ports::{PeopleStatus, PersonKey, Temporary};
use gb6_core_wire::mesh::UserStatusAnswer;
use gb6_region_shard::{LinkId, StatusAsked};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::metrics::RegionMetrics;
use crate::panics::Panics;
use board::Board;

/// Questions of one shard that may wait. An instance may have as many waiting as there is room left: half of
/// it where it is the only one, so that there is always some for the others.
const ASKED_MAX: usize = 8_192;
/// Questions that are answered together.
const TOGETHER_MAX: usize = 256;
/// How often it is looked whose holds are to be renewed, and who has been away for long enough: the shortest
/// leases are a second, and are renewed in the middle.
const TICK: Duration = Duration::from_millis(200);

/// The engines in which a region keeps statuses of users.
#[derive(Clone)]
pub struct StatusEngines {
    /// Who is online, under leases.
    pub people: Arc<dyn PeopleStatus>,
    /// What remains behind that for a while.
    pub values: Arc<dyn Temporary>,
}

impl StatusEngines {
    /// In the memory of this process: nothing of it is left after a restart, or known to other nodes.
    pub fn in_memory() -> Self {
        Self {
            people: Arc::new(MemoryPeople::default()),
            values: Arc::new(MemoryTemporary::default()),
        }
    }
}

impl std::fmt::Debug for StatusEngines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusEngines").finish_non_exhaustive()
    }
}

/// A user has come or gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Presence {
    here: bool,
    /// When.
    at: Instant,
    /// When, in Unix seconds.
    unix_s: i64,
    /// How long the instance keeps statuses.
    ttl: Duration,
}

/// A question.
struct Question {
    asked: StatusAsked,
    at: Instant,
    /// When, in Unix seconds.
    unix_s: i64,
}

impl Question {
    fn instance(&self) -> &str {
        &self.asked.query.room.instance
    }
}

/// An answer, and the link on which it goes.
type Answered = (LinkId, UserStatusAnswer);

/// What is to be done in one round.
#[derive(Default)]
struct Work {
    presences: HashMap<PersonKey, Presence>,
    questions: Vec<Question>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.presences.is_empty() && self.questions.is_empty()
    }
}

/// Between a shard's actor and its task.
struct Waiting {
    state: Mutex<State>,
    /// For the task.
    filled: Notify,
    /// For the actor.
    answered: Notify,
}

#[derive(Default)]
struct State {
    /// The newest of each user: bounded by the users of the shard and those that left since the last round.
    presences: HashMap<PersonKey, Presence>,
    // overflow: the newest question of an instance that has its share waiting is answered 111.
    questions: Turns<Question>,
    /// Bounded by the questions.
    answers: Vec<Answered>,
}

/// The statuses of one shard. Its task ends with it.
pub(crate) struct ShardStatuses {
    waiting: Arc<Waiting>,
    metrics: RegionMetrics,
    task: JoinHandle<()>,
}

impl Drop for ShardStatuses {
    fn drop(&mut self) {
        // What is held ends with its lease, unless the next owner holds it.
        self.task.abort();
    }
}

impl ShardStatuses {
    /// For a shard in which nobody is yet. `holder` is no other shard's of any node.
    pub(crate) fn start(
        engines: &StatusEngines,
        holder: String,
        metrics: RegionMetrics,
        panics: Panics,
    ) -> Self {
        let waiting = Arc::new(Waiting {
            state: Mutex::default(),
            filled: Notify::new(),
            answered: Notify::new(),
        });
        let board = Board::new(engines.clone(), holder, metrics.clone(), panics);
        let task = tokio::spawn(keep(waiting.clone(), board));
        Self {
            waiting,
            metrics,
            task,
        }
    }

    /// A user has come or gone.
    pub(crate) fn here(&self, person: PersonKey, here: bool, ttl_ms: u64, unix_ms: i64) {
        let presence = Presence {
            here,
            at: Instant::now(),
            unix_s: unix_ms / 1_000,
            ttl: Duration::from_millis(ttl_ms),
        };
        self.waiting.state.lock().presences.insert(person, presence);
        self.waiting.filled.notify_one();
    }

    /// Asks; the answer comes later, or at once where too many of its instance wait.
    pub(crate) fn ask(&self, asked: StatusAsked, unix_ms: i64) -> Option<Answered> {
        let mut state = self.waiting.state.lock();
        let instance = asked.query.room.instance.clone();
        let room = ASKED_MAX - state.questions.len();
        if state.questions.waiting(&instance) >= room {
            drop(state);
            self.metrics.status_questions.with(&["refused"]).inc();
            return Some(refused(&asked, ErrorCode::TooManyRequests));
        }
        let question = Question {
            asked,
            at: Instant::now(),
            unix_s: unix_ms / 1_000,
        };
        state.questions.push(&instance, question);
        drop(state);
        self.waiting.filled.notify_one();
        None
    }

    /// What has been answered.
    pub(crate) fn answers(&self) -> Vec<Answered> {
        std::mem::take(&mut self.waiting.state.lock().answers)
    }

    /// Waits until something has been. Safe to cancel.
    pub(crate) async fn answered(&self) {
        self.waiting.answered.notified().await;
    }
}

/// An answer that says what went wrong.
fn refused(asked: &StatusAsked, code: ErrorCode) -> Answered {
    not_done((asked.link, asked.query.request), code)
}

fn not_done((link, request): (LinkId, u64), code: ErrorCode) -> Answered {
    let answer = UserStatusAnswer {
        request,
        error: code.code(),
        ..UserStatusAnswer::default()
    };
    (link, answer)
}

/// Does what waits, round by round, off the async threads.
async fn keep(waiting: Arc<Waiting>, mut board: Board) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = waiting.filled.notified() => {}
            _ = tick.tick() => {}
        }
        let mut more = true;
        while more {
            let (work, left) = take(&waiting);
            if work.is_empty() && !board.is_due(Instant::now()) {
                break;
            }
            let round = tokio::task::spawn_blocking(move || {
                let (answers, more) = board.round(work, Instant::now());
                (board, answers, more)
            });
            // A round does not panic: the runtime ends.
            let Ok((back, answers, not_done)) = round.await else {
                return;
            };
            board = back;
            more = not_done || left;
            if !answers.is_empty() {
                waiting.state.lock().answers.extend(answers);
                waiting.answered.notify_one();
            }
        }
    }
}

/// The work of one round, and whether questions are left.
fn take(waiting: &Waiting) -> (Work, bool) {
    let mut state = waiting.state.lock();
    let turns = std::iter::from_fn(|| state.questions.pop(|_| true));
    let mut questions: Vec<Question> = turns.take(TOGETHER_MAX).collect();
    let left = !state.questions.is_empty();
    let presences = std::mem::take(&mut state.presences);
    drop(state);
    // Equal ones that follow each other are asked together: those of one instance stay in their order, and
    // mix with no other's.
    questions.sort_by(|a, b| a.instance().cmp(b.instance()));
    let work = Work {
        presences,
        questions,
    };
    (work, left)
}
