//! The streams to relays: one task for each relay of the placement keeps one open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{Backoff, Dialer, FrameReceiver, FrameSender, OpenError};
use gb6_core_model::NodeId;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{
    EdgeAnswer, EdgeQuestion, FromRelay, Purpose, RelayAnswer, RelayAsked, RelayEdges, RelayFrame,
    RelayOpen, RelayOutcome, RelayRequest, StreamOpen, ToRelay,
};
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answer::Answering;
use super::{Attached, EDGES_MAX, LATER_MAX, QUEUE, relays_of};
use crate::shared::Shared;

/// Waits between attachments to one relay; the link below has waits of its own. A region that knows
/// no relays ends the stream at once.
const BACKOFF: Backoff = Backoff {
    first: std::time::Duration::from_millis(50),
    longest: std::time::Duration::from_secs(5),
    settled: std::time::Duration::from_secs(5),
};

/// Follows the placement until `stop` says so.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut followed: BTreeMap<NodeId, Task> = BTreeMap::new();
    loop {
        let wanted = relays_of(&snapshots.borrow_and_update());
        followed.retain(|name, _| wanted.contains(name));
        for name in wanted {
            followed.entry(name.clone()).or_insert_with(|| {
                Task(tokio::spawn(keep_attached(shared.clone(), name)).abort_handle())
            });
        }
        let changed = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = snapshots.changed() => changed,
        };
        if changed.is_err() {
            // Nobody will send a newer one: the last one stays.
            let _ = stop.wait_for(|stop| *stop).await;
            return;
        }
    }
}

/// A task that ends with its handle.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_attached(shared: Arc<Shared>, relay: NodeId) {
    let dialer = shared.shards.dialer(&shared, &relay);
    let mut failures = 0;
    loop {
        let begin = Instant::now();
        if let Err(error) = attach(&shared, &dialer).await {
            tracing::debug!(relay = %relay, %error, "relay stream not opened");
        }
        failures = match begin.elapsed() >= BACKOFF.settled {
            true => 1,
            false => failures + 1,
        };
        let wait = rand::rng().random_range(0.0..=1.0);
        tokio::time::sleep(BACKOFF.bound(failures).mul_f64(wait)).await;
    }
}

/// Opens a stream once there is a link, and serves it until it ends.
async fn attach(shared: &Arc<Shared>, dialer: &Dialer) -> Result<(), OpenError> {
    let mut links = dialer.links();
    let link = match links.wait_for(Option::is_some).await {
        Ok(link) => link.clone(),
        Err(_) => None,
    };
    let Some(link) = link else { return Ok(()) };
    let open = StreamOpen {
        purpose: Some(Purpose::Relay(RelayOpen {})),
    };
    let (sender, receiver) = link.open(open).await?.split::<ToRelay, FromRelay>(QUEUE);
    serve(shared, dialer.node(), Arc::new(sender), receiver).await;
    Ok(())
}

/// Forgets an attachment when its stream, or its task, has ended.
struct Serving<'a> {
    shared: &'a Shared,
    relay: &'a NodeId,
    attachment: u64,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.relays.state.lock();
        state.detach(self.relay, self.attachment);
    }
}

async fn serve(
    shared: &Arc<Shared>,
    relay: &NodeId,
    sender: Arc<FrameSender<ToRelay>>,
    mut receiver: FrameReceiver<FromRelay>,
) {
    // The first frame says that the relay took the stream: nothing is asked before it.
    let mut serving = None;
    loop {
        let frame = match receiver.recv().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(relay = %relay, %error, "relay stream ended");
                break;
            }
        };
        match frame.frame {
            Some(RelayFrame::Edges(change)) => {
                let serving = serving.get_or_insert_with(|| {
                    tracing::info!(relay = %relay, "attached to a relay");
                    begin(shared, relay, &sender)
                });
                if !changed(serving, change) {
                    tracing::error!(relay = %relay, max = EDGES_MAX, "a relay reaches more edges than can be remembered: its stream is ended");
                    break;
                }
            }
            Some(RelayFrame::Asked(asked)) => asked_by(shared, &sender, asked),
            Some(RelayFrame::Answered(answered)) => {
                if !shared.relays.answered(relay, answered) {
                    shared.metrics.relay_stray.inc();
                }
            }
            // Of a later version.
            None => shared.metrics.relay_stray.inc(),
        }
    }
    if serving.is_some() {
        tracing::info!(relay = %relay, "detached from a relay");
    }
}

fn begin<'a>(
    shared: &'a Arc<Shared>,
    relay: &'a NodeId,
    sender: &Arc<FrameSender<ToRelay>>,
) -> Serving<'a> {
    let mut state = shared.relays.state.lock();
    state.attachments += 1;
    let attachment = state.attachments;
    let attached = Attached {
        attachment,
        sender: sender.clone(),
        edges: BTreeSet::new(),
    };
    state.attached.insert(relay.clone(), attached);
    Serving {
        shared,
        relay,
        attachment,
    }
}

fn changed(serving: &Serving<'_>, change: RelayEdges) -> bool {
    let mut state = serving.shared.relays.state.lock();
    let Some(attached) = state.attached.get_mut(serving.relay) else {
        return false;
    };
    for name in change.down {
        attached.edges.remove(&NodeId::from(name));
    }
    let up = change.up.into_iter().map(NodeId::from);
    attached.edges.extend(up);
    attached.edges.len() <= EDGES_MAX
}

fn asked_by(shared: &Arc<Shared>, sender: &Arc<FrameSender<ToRelay>>, asked: RelayAsked) {
    let (to, request) = (asked.from, asked.request);
    let question = EdgeQuestion::from_bytes(asked.question);
    let answering = question.and_then(|question| super::answer::answer(shared, &question));
    let later = match answering {
        None => {
            let outcome = RelayOutcome::Unsupported;
            return say(shared, sender, (to, request), outcome, None);
        }
        Some(Answering::Now(answer)) => {
            let outcome = RelayOutcome::Answered;
            return say(shared, sender, (to, request), outcome, Some(answer));
        }
        Some(Answering::Later(later)) => later,
    };
    // Overflow: the question is answered `Full`.
    let Ok(place) = shared.relays.later.clone().try_acquire_owned() else {
        return say(shared, sender, (to, request), RelayOutcome::Full, None);
    };
    let patience = Duration::from_millis(u64::from(asked.within_ms)).min(LATER_MAX);
    let (shared, sender) = (shared.clone(), sender.clone());
    tokio::spawn(async move {
        // Who asked has given up by then.
        if let Ok(Some(answer)) = tokio::time::timeout(patience, later).await {
            let outcome = RelayOutcome::Answered;
            say(&shared, &sender, (to, request), outcome, Some(answer));
        }
        drop(place);
    });
}

/// Answers the question with this number of another edge.
fn say(
    shared: &Shared,
    sender: &FrameSender<ToRelay>,
    (to, request): (String, u64),
    outcome: RelayOutcome,
    answer: Option<EdgeAnswer>,
) {
    let answer = ToRelay {
        frame: Some(RelayRequest::Answer(RelayAnswer {
            to,
            request,
            outcome: outcome.into(),
            answer: answer.map(|a| a.to_bytes()).unwrap_or_default(),
        })),
    };
    match sender.try_send(answer.class(), answer) {
        Ok(()) => shared.metrics.relay_answers.with(&["sent"]).inc(),
        // Who asked gives up at its deadline.
        Err(error) => {
            tracing::debug!(error = %error, "an answer to another edge was dropped");
            shared.metrics.relay_answers.with(&["dropped"]).inc();
        }
    }
}
