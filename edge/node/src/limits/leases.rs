//! Asking owners for shares: a task looks at all limits several times a second, and one for each
//! owner has a stream to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{Dialer, FrameReceiver, FrameSender, Link, QueueLimits};
use gb6_core_model::limits::LIMITS_ENTRIES_MAX;
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_wire::mesh::{
    Class, LimitWanted, LimitsOpen, LimitsShared, LimitsWanted, Purpose, StreamOpen,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::LimitName;
use crate::shared::Shared;

/// How often limits are looked at: so long may an edge have the whole of a limit that it begins
/// to use.
const EVERY: Duration = Duration::from_millis(250);
/// Questions that wait for one owner.
const QUESTIONS_MAX: usize = 8;
/// How long an owner may take to be reached.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before a stream that ended is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// The task of one owner; it ends with this.
struct Peer {
    questions: mpsc::Sender<LimitsWanted>,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the shares of this edge until `stop` says so.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut peers: HashMap<NodeId, Peer> = HashMap::new();
    let mut placed = Arc::default();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = every.tick() => {}
        }
        let snapshot = shared.snapshot.load_full();
        if !Arc::ptr_eq(&placed, &snapshot) {
            placed = snapshot.clone();
            let homes = snapshot.instances.keys();
            let homes: HashSet<NodeId> = homes
                .filter_map(|i| Some(snapshot.home(i)?.owner))
                .collect();
            peers.retain(|node, _| homes.contains(node));
        }
        let mut wanted: HashMap<NodeId, Vec<LimitWanted>> = HashMap::new();
        for (name, demand) in shared.limits.reports(shared.clock.now_ms()) {
            // Without a home nobody can be asked: the edge goes on with what it has.
            if let Some(home) = snapshot.home(&name.instance) {
                wanted.entry(home.owner).or_default().push(LimitWanted {
                    instance: name.instance.to_string(),
                    user: name.user.into(),
                    demand,
                });
            }
        }
        for (node, limits) in wanted {
            let peer = peers.entry(node.clone()).or_insert_with(|| {
                // overflow: what finds no place is not asked now, and is due again soon.
                let (questions, waiting) = mpsc::channel(QUESTIONS_MAX);
                let dialer = shared.shards.dialer(&shared, &node);
                let task = tokio::spawn(follow(shared.clone(), dialer, waiting));
                Peer { questions, task }
            });
            for part in limits.chunks(LIMITS_ENTRIES_MAX) {
                let question = LimitsWanted {
                    limits: part.to_vec(),
                };
                let _ = peer.questions.try_send(question);
            }
        }
    }
}

/// Has a stream to one owner for as long as there are questions for it.
async fn follow(
    shared: Arc<Shared>,
    dialer: Arc<Dialer>,
    mut questions: mpsc::Receiver<LimitsWanted>,
) {
    loop {
        if let Some(link) = reach(&dialer).await {
            let open = StreamOpen {
                purpose: Some(Purpose::Limits(LimitsOpen {})),
            };
            if let Ok(stream) = link.open(open).await {
                let (out, answers) = stream.split(QueueLimits::default());
                converse(&shared, &out, answers, &mut questions).await;
            }
        }
        // What was asked meanwhile is old.
        while questions.try_recv().is_ok() {}
        if questions.is_closed() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn reach(dialer: &Dialer) -> Option<Link> {
    let mut links = dialer.links();
    let found = tokio::time::timeout(REACH_TIMEOUT, links.wait_for(Option::is_some)).await;
    found.ok()?.ok()?.clone()
}

/// Asks and takes answers until the stream ends.
async fn converse(
    shared: &Shared,
    out: &FrameSender<LimitsWanted>,
    mut answers: FrameReceiver<LimitsShared>,
    questions: &mut mpsc::Receiver<LimitsWanted>,
) {
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(question) = question else { return };
                if out.send(Class::Control, question).await.is_err() {
                    return;
                }
            }
            answer = answers.recv() => {
                let Ok(Some(answer)) = answer else { return };
                take(shared, answer);
            }
        }
    }
}

fn take(shared: &Shared, answer: LimitsShared) {
    let now_ms = shared.clock.now_ms();
    for limit in answer.limits {
        let name = LimitName {
            instance: InstanceId::from(limit.instance.as_str()),
            user: limit.user.into(),
        };
        let (valid, renew) = (u64::from(limit.valid_ms), u64::from(limit.renew_ms));
        shared
            .limits
            .shared(&name, now_ms, limit.parts, valid, renew);
    }
}
