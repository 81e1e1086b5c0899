//! What this edge asks other edges, through relays at regions: edges do not dial each other.
//!
//! [`Relays::ask`] asks one edge by its node id, [`Relays::ask_some`] several, [`Relays::ask_all`]
//! every edge there is. All count this edge as one of them, have a deadline, never wait for room, and say of each edge that
//! did not answer why. A question without an answer may have been carried out there.

mod answer;
mod link;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{FrameSender, QueueLimits};
use gb6_core_model::hash::stable_hash64;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{
    EdgeAnswer, EdgeQuestion, RELAY_TARGETS_MAX, RelayAnswered, RelayAsk, RelayOutcome,
    RelayRequest, ToRelay,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use answer::Answering;
pub(crate) use link::run;

use crate::shared::Shared;

/// Questions of this edge that may be unanswered, and the bytes of them. Overflow: a further one is
/// refused ([`AskError::Full`]).
const UNANSWERED_MAX: usize = 4096;
const UNANSWERED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What may wait for one relay, in each class. Overflow: a question is refused, an answer dropped.
const QUEUE: QueueLimits = QueueLimits {
    frames: 4096,
    bytes: 8 * 1024 * 1024,
};
/// Nodes of each region that relay: the first of them by name, the same for every edge, so that
/// any two edges share them. The second is there for the time in which the first is not.
const RELAYS_PER_REGION: usize = 2;
/// Answers that wait for what others say, and for how long they may.
const LATER_AT_ONCE: usize = 16;
const LATER_MAX: Duration = Duration::from_secs(5);
/// How long this edge's own answer may still take when all others have answered or failed.
const LATER_LEAST: Duration = Duration::from_millis(100);
/// Edges that are remembered of one relay.
const EDGES_MAX: usize = 65_536;

/// Why an edge gave no answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// This edge has no relay: it just started, or no region can be reached.
    #[error("this edge is attached to no relay")]
    NoRelay,
    /// No relay reaches an edge of this name.
    #[error("no relay reaches the edge")]
    Unknown,
    /// Too much is on its way to that edge, or from this one.
    #[error("too many questions are on their way")]
    Full,
    /// The other edge does not know this kind of question: it is of an older version.
    #[error("the edge does not know the question")]
    Unsupported,
    /// The deadline has passed. The question may have been carried out.
    #[error("the edge did not answer in time")]
    Silent,
    /// The way to it was lost. The question may have been carried out.
    #[error("the way to the edge was lost")]
    Lost,
}

impl AskError {
    /// Its name in metrics.
    fn name(self) -> &'static str {
        match self {
            AskError::NoRelay => "no_relay",
            AskError::Unknown => "unknown",
            AskError::Full => "full",
            AskError::Unsupported => "unsupported",
            AskError::Silent => "silent",
            AskError::Lost => "lost",
        }
    }
}

/// The answers of several edges.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// What was answered, by node id.
    pub(crate) answers: BTreeMap<NodeId, EdgeAnswer>,
    /// Who did not answer, and why.
    pub(crate) failed: BTreeMap<NodeId, AskError>,
}

type Told = (NodeId, Result<EdgeAnswer, AskError>);

/// The relays that this edge is attached to, and its unanswered questions.
pub(crate) struct Relays {
    /// This edge.
    local: NodeId,
    /// Answers that wait for what others say.
    later: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    attached: BTreeMap<NodeId, Attached>,
    attachments: u64,
    unanswered: HashMap<u64, Unanswered>,
    unanswered_bytes: usize,
    questions: u64,
}

/// A relay.
struct Attached {
    attachment: u64,
    sender: Arc<FrameSender<ToRelay>>,
    edges: BTreeSet<NodeId>,
}

/// A question.
struct Unanswered {
    /// Who was asked, by which relay, and has not answered.
    asked: BTreeMap<NodeId, NodeId>,
    /// Has room for everybody who was asked.
    told: mpsc::Sender<Told>,
    bytes: usize,
}

/// Ends a question when nobody waits for its answers any more.
struct Asking<'a> {
    relays: &'a Relays,
    request: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.relays.state.lock();
        if let Some(ended) = state.unanswered.remove(&self.request) {
            state.unanswered_bytes -= ended.bytes;
        }
    }
}

impl Relays {
    /// No relays yet; `local` is this edge.
    pub(crate) fn new(local: NodeId) -> Self {
        Self {
            local,
            later: Arc::new(Semaphore::new(LATER_AT_ONCE)),
            state: Mutex::default(),
        }
    }

    /// Asks one edge, which may be this one.
    ///
    /// # Errors
    /// There is no answer: why.
    pub(crate) async fn ask(
        &self,
        shared: &Arc<Shared>,
        to: &NodeId,
        question: EdgeQuestion,
        within: Duration,
    ) -> Result<EdgeAnswer, AskError> {
        let mut gathered = self
            .gather(shared, [to.clone()].into(), &question, within)
            .await;
        match gathered.answers.remove(to) {
            Some(answer) => Ok(answer),
            None => Err(gathered.failed.remove(to).unwrap_or(AskError::Silent)),
        }
    }

    /// Asks this edge, every edge that a relay reaches, and every one that the placement names:
    /// of those that no relay reaches the result says so.
    pub(crate) async fn ask_all(
        &self,
        shared: &Arc<Shared>,
        question: EdgeQuestion,
        within: Duration,
    ) -> Gathered {
        let mut to = self.reached();
        let snapshot = shared.snapshot.load_full();
        let placed = snapshot.nodes.iter();
        to.extend(
            placed
                .filter(|(_, node)| node.roles.contains(&Role::Edge))
                .map(|(name, _)| name.clone()),
        );
        self.gather(shared, to, &question, within).await
    }

    /// Asks these edges.
    pub(crate) async fn ask_some(
        &self,
        shared: &Arc<Shared>,
        to: BTreeSet<NodeId>,
        question: EdgeQuestion,
        within: Duration,
    ) -> Gathered {
        self.gather(shared, to, &question, within).await
    }

    /// This edge and those that a relay reaches.
    pub(crate) fn reached(&self) -> BTreeSet<NodeId> {
        let mut reached = BTreeSet::from([self.local.clone()]);
        for relay in self.state.lock().attached.values() {
            reached.extend(relay.edges.iter().cloned());
        }
        reached
    }

    async fn gather(
        &self,
        shared: &Arc<Shared>,
        mut to: BTreeSet<NodeId>,
        question: &EdgeQuestion,
        within: Duration,
    ) -> Gathered {
        let until = Instant::now() + within;
        let mut gathered = Gathered::default();
        // Others begin meanwhile.
        let local = match to.remove(&self.local) {
            true => answer::answer(shared, question)
                .ok_or(AskError::Unsupported)
                .map(Some),
            false => Ok(None),
        };
        if !to.is_empty() {
            // overflow: none. One outcome of everybody who is asked has room.
            let (told, mut answers) = mpsc::channel(to.len());
            let mut left = to.clone();
            // Dropped behind the last answer, or with this future.
            let _asking = self.begin(&to, question, within, &told);
            drop(told);
            while !left.is_empty() {
                let Ok(Some((from, answer))) = tokio::time::timeout_at(until, answers.recv()).await
                else {
                    break;
                };
                if left.remove(&from) {
                    match answer {
                        Ok(answer) => drop(gathered.answers.insert(from, answer)),
                        Err(error) => drop(gathered.failed.insert(from, error)),
                    }
                }
            }
            gathered
                .failed
                .extend(left.into_iter().map(|name| (name, AskError::Silent)));
        }
        match self.answer_here(local, until).await {
            Ok(None) => {}
            Ok(Some(answer)) => drop(gathered.answers.insert(self.local.clone(), answer)),
            Err(error) => drop(gathered.failed.insert(self.local.clone(), error)),
        }
        let counted = &shared.metrics.relay_questions;
        counted
            .with(&["answered"])
            .inc_by(gathered.answers.len() as u64);
        for error in gathered.failed.values() {
            counted.with(&[error.name()]).inc();
        }
        gathered
    }

    /// This edge's own answer, which was begun before the others'.
    async fn answer_here(
        &self,
        begun: Result<Option<Answering>, AskError>,
        until: Instant,
    ) -> Result<Option<EdgeAnswer>, AskError> {
        let later = match begun? {
            None => return Ok(None),
            Some(Answering::Now(answer)) => return Ok(Some(answer)),
            Some(Answering::Later(later)) => later,
        };
        // What it waits for has been asked already: the others' time was its time too.
        let until = until.max(Instant::now() + LATER_LEAST);
        let answer = tokio::time::timeout_at(until, later).await;
        answer.ok().flatten().map(Some).ok_or(AskError::Silent)
    }

    /// Sends a question to everybody by the relays that reach them, and tells at once of those to
    /// whom it can not be sent.
    fn begin(
        &self,
        to: &BTreeSet<NodeId>,
        question: &EdgeQuestion,
        within: Duration,
        told: &mpsc::Sender<Told>,
    ) -> Option<Asking<'_>> {
        // The channel has room for one outcome of each.
        let tell = |name: &NodeId, error| drop(told.try_send((name.clone(), Err(error))));
        let question = question.to_bytes();
        let mut state = self.state.lock();
        let full = state.unanswered.len() >= UNANSWERED_MAX
            || state.unanswered_bytes + question.len() > UNANSWERED_BYTES_MAX;
        if full {
            to.iter().for_each(|name| tell(name, AskError::Full));
            return None;
        }
        state.questions += 1;
        let request = state.questions;
        let mut by_relay: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for name in to {
            match state.relay_to(name) {
                Ok(relay) => by_relay.entry(relay).or_default().push(name.clone()),
                Err(error) => tell(name, error),
            }
        }
        let mut asked = BTreeMap::new();
        for (relay, names) in by_relay {
            let Some(attached) = state.attached.get(&relay) else {
                continue;
            };
            for names in names.chunks(RELAY_TARGETS_MAX) {
                let ask = ToRelay {
                    frame: Some(RelayRequest::Ask(RelayAsk {
                        request,
                        to: names.iter().map(|name| name.as_str().to_owned()).collect(),
                        within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
                        question: question.clone(),
                    })),
                };
                match attached.sender.try_send(ask.class(), ask) {
                    Ok(()) => {
                        asked.extend(names.iter().map(|name| (name.clone(), relay.clone())));
                    }
                    Err(gb6_core_mesh::TrySendError::Closed) => {
                        names.iter().for_each(|name| tell(name, AskError::Lost));
                    }
                    Err(_) => names.iter().for_each(|name| tell(name, AskError::Full)),
                }
            }
        }
        if asked.is_empty() {
            return None;
        }
        let bytes = question.len();
        state.unanswered_bytes += bytes;
        let told = told.clone();
        let unanswered = Unanswered { asked, told, bytes };
        state.unanswered.insert(request, unanswered);
        Some(Asking {
            relays: self,
            request,
        })
    }

    /// An edge answered, as the relay says. `false`: it was not asked, or not by this relay.
    fn answered(&self, relay: &NodeId, answered: RelayAnswered) -> bool {
        let from = NodeId::from(answered.from.as_str());
        let result = match answered.outcome() {
            RelayOutcome::Answered => {
                EdgeAnswer::from_bytes(answered.answer).ok_or(AskError::Unsupported)
            }
            RelayOutcome::Unknown => Err(AskError::Unknown),
            RelayOutcome::Full => Err(AskError::Full),
            RelayOutcome::Unsupported | RelayOutcome::Unspecified => Err(AskError::Unsupported),
        };
        let mut state = self.state.lock();
        let Some(unanswered) = state.unanswered.get_mut(&answered.request) else {
            return false;
        };
        if unanswered.asked.get(&from) != Some(relay) {
            return false;
        }
        unanswered.asked.remove(&from);
        // It has room for everybody who was asked.
        let _ = unanswered.told.try_send((from, result));
        true
    }

    /// Questions without an answer, relays, and edges that they reach.
    pub(crate) fn gauges(&self) -> (usize, usize, usize) {
        let state = self.state.lock();
        let edges: BTreeSet<&NodeId> = state.attached.values().flat_map(|r| &r.edges).collect();
        (state.unanswered.len(), state.attached.len(), edges.len())
    }
}

impl State {
    /// By which relay an edge is asked: always the same while the same ones reach it, so that
    /// questions keep their order, and another one for another edge.
    fn relay_to(&self, edge: &NodeId) -> Result<NodeId, AskError> {
        if self.attached.is_empty() {
            return Err(AskError::NoRelay);
        }
        let reaching = self.attached.iter().filter(|(_, r)| r.edges.contains(edge));
        reaching
            .map(|(name, _)| name)
            .max_by_key(|name| stable_hash64(&[name.as_str().as_bytes(), edge.as_str().as_bytes()]))
            .cloned()
            .ok_or(AskError::Unknown)
    }

    fn detach(&mut self, relay: &NodeId, attachment: u64) {
        let is_it = |attached: &Attached| attached.attachment == attachment;
        if !self.attached.get(relay).is_some_and(is_it) {
            return;
        }
        self.attached.remove(relay);
        for unanswered in self.unanswered.values_mut() {
            let lost: Vec<NodeId> = unanswered
                .asked
                .iter()
                .filter(|(_, by)| *by == relay)
                .map(|(name, _)| name.clone())
                .collect();
            for name in lost {
                unanswered.asked.remove(&name);
                let _ = unanswered.told.try_send((name, Err(AskError::Lost)));
            }
        }
    }
}

/// The nodes that relay between edges under a placement.
fn relays_of(snapshot: &Snapshot) -> BTreeSet<NodeId> {
    let first = |owners: &[NodeId]| {
        let owners: BTreeSet<NodeId> = owners.iter().cloned().collect();
        owners.into_iter().take(RELAYS_PER_REGION)
    };
    snapshot
        .regions
        .values()
        .flat_map(|region| first(&region.owners))
        .collect()
}
