//! Links and streams from edges: each stream is handed to the actor of its shard, or to the relay.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use gb6_core_mesh::{Endpoint, FrameReceiver, FrameSender, Link, QueueLimits, Stream};
use gb6_core_model::{NodeId, Role};
use gb6_core_obs::metrics::Counter;
use gb6_core_ports::StoreError;
use gb6_core_wire::mesh::{
    Class, EdgeFrame, HistoryPage, HistoryRequest, LimitsShared, LimitsWanted, OwnerFrame,
    OwnersNow, OwnersOpen, Purpose, Refused, RefusedReason, ShardRef, StreamOpen, ToEdge, ToOwner,
};
use gb6_region_shard::LinkId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::limits::Limits;
use crate::panics::{Guard, Panics};
use crate::relay::Relay;
use crate::table::{Owners, ShardTable};
use crate::worker::Input;

/// Frames taken from a stream at once.
const FRAMES_MAX: usize = 1024;
/// History pages of one edge and shard that may be on their way: as many as an edge asks for at
/// once, its own reads and those of its sessions.
const PAGES_MAX: usize = 16;
/// Requests of one edge and shard that are worked on, those among them that wait for the index.
const REQUESTS_MAX: usize = 256;

/// Streams that may wait for a shard which is on its way here. Overflow: a further one is refused, and
/// its edge comes back.
const HELD_MAX: usize = 16 * 1024;
/// What may wait for an edge that is told of owners: the newest alone matters. Overflow: it waits.
const OWNERS_QUEUE: QueueLimits = QueueLimits {
    frames: 2,
    bytes: 1024 * 1024,
};

/// An acceptor that has waited for so long without a panic works.
const SETTLED: Duration = Duration::from_millis(500);

/// The inboxes of the shards that this node owns.
pub(crate) type Shards = Arc<ShardTable>;

/// What streams are handed to.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) shards: Shards,
    pub(crate) relay: Arc<Relay>,
    pub(crate) limits: Limits,
    /// Places for streams that wait for their shard.
    held: Arc<Semaphore>,
}

impl Served {
    pub(crate) fn new(shards: Shards, relay: Arc<Relay>, limits: Limits) -> Self {
        Self {
            shards,
            relay,
            limits,
            held: Arc::new(Semaphore::new(HELD_MAX)),
        }
    }

    /// The inbox of a shard, once it is here where it is on its way.
    async fn come(&self, shard: &ShardRef) -> Option<mpsc::Sender<Input>> {
        let _held = self.held.try_acquire().ok()?;
        self.shards.come(shard).await
    }
}

/// Accepts links until the endpoint is closed.
pub(crate) async fn run(endpoint: Endpoint, served: Served, refused: Counter, panics: Panics) {
    let next_link = Arc::new(AtomicU64::new(1));
    let guard = panics.guard("links", "acceptor of links".to_owned());
    let take = |link: Link| {
        let node = link.peer().node.clone();
        let streams = streams(link, served.clone(), next_link.clone(), refused.clone());
        let panics = panics.clone();
        tokio::spawn(async move {
            if AssertUnwindSafe(streams).catch_unwind().await.is_err() {
                // The link ends with what served it, and its peer dials again.
                panics.count("links");
                tracing::error!(%node, "what takes the streams of a link panicked, which is a defect; the link is ended");
            }
        });
    };
    let accept = || {
        let endpoint = endpoint.clone();
        async move { endpoint.accept().await }
    };
    accept_all(accept, take, guard).await;
}

/// Hands on what `accept` gives until it gives nothing more. A panic costs the link that it was about.
async fn accept_all<L, F>(accept: impl Fn() -> F, take: impl Fn(L), guard: Guard)
where
    F: Future<Output = Option<L>>,
{
    loop {
        let accepting = async {
            // Nobody need dial for the acceptor to be well.
            while let Ok(accepted) = tokio::time::timeout(SETTLED, accept()).await {
                let Some(link) = accepted else {
                    return Ok(false);
                };
                take(link);
                guard.works();
            }
            Ok::<_, StoreError>(true)
        };
        match guard.run_async(accepting).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => tokio::time::sleep(guard.pause()).await,
        }
    }
}

async fn streams(link: Link, served: Served, next_link: Arc<AtomicU64>, refused: Counter) {
    let peer = link.peer().clone();
    tracing::info!(node = %peer.node, "link up");
    loop {
        match link.accept_stream().await {
            Ok((open, stream)) => {
                let id = LinkId(next_link.fetch_add(1, Ordering::Relaxed));
                if !peer.has_role(Role::Edge) {
                    refused.inc();
                    tracing::warn!(node = %peer.node, "a node without the role edge opened a stream: refused");
                    continue;
                }
                if let Some(Purpose::Relay(_)) = open.purpose {
                    served.relay.serve(&peer.node, stream);
                } else {
                    serve(&peer.node, open, stream, id, &served);
                }
            }
            Err(reason) => {
                tracing::info!(node = %peer.node, %reason, "link down");
                return;
            }
        }
    }
}

fn serve(edge: &NodeId, open: StreamOpen, stream: Stream, id: LinkId, served: &Served) {
    match open.purpose {
        Some(Purpose::Shard(shard)) => {
            let (sender, receiver) = stream.split::<ToEdge, ToOwner>(QueueLimits::default());
            let edge = edge.clone();
            match served.shards.get(&shard) {
                Some(inbox) => {
                    tokio::spawn(shard_stream(id, edge, sender, receiver, inbox));
                }
                None if served.shards.is_expected(&shard) => {
                    let served = served.clone();
                    tokio::spawn(async move {
                        match served.come(&shard).await {
                            Some(inbox) => shard_stream(id, edge, sender, receiver, inbox).await,
                            None => refuse(&sender, served.shards.owner(&shard)),
                        }
                    });
                }
                None => refuse(&sender, served.shards.owner(&shard)),
            }
        }
        Some(Purpose::CatchUp(shard)) => {
            let (sender, receiver) =
                stream.split::<HistoryPage, HistoryRequest>(QueueLimits::default());
            if let Some(inbox) = served.shards.get(&shard) {
                tokio::spawn(catch_up(id, sender, receiver, inbox));
            } else if served.shards.is_expected(&shard) {
                let served = served.clone();
                tokio::spawn(async move {
                    if let Some(inbox) = served.come(&shard).await {
                        catch_up(id, sender, receiver, inbox).await;
                    }
                });
            }
        }
        Some(Purpose::Owners(open)) => {
            let (sender, receiver) = stream.split::<OwnersNow, OwnersOpen>(OWNERS_QUEUE);
            tokio::spawn(tell_owners(open, sender, receiver, served.shards.owners()));
        }
        Some(Purpose::Limits(_)) => {
            let (sender, receiver) =
                stream.split::<LimitsShared, LimitsWanted>(QueueLimits::default());
            let limits = served.limits.clone();
            tokio::spawn(limits.serve(edge.clone(), served.shards.clone(), sender, receiver));
        }
        // Dropping the stream refuses it: snapshots are geo's, and what a newer peer asks for is
        // not offered here.
        Some(Purpose::Snapshot(_) | Purpose::Relay(_)) | None => drop(stream),
    }
}

/// Tells an edge who owns what, now and whenever that changes, until the stream ends.
async fn tell_owners(
    open: OwnersOpen,
    sender: FrameSender<OwnersNow>,
    mut receiver: FrameReceiver<OwnersOpen>,
    mut owners: watch::Receiver<Arc<Owners>>,
) {
    loop {
        let now = owners.borrow_and_update().clone();
        // Nothing is known of other regions, nor of one whose owners the placement names.
        if now.region == open.region && sender.send(Class::Control, now.now()).await.is_err() {
            return;
        }
        tokio::select! {
            changed = owners.changed() => if changed.is_err() { return },
            // The edge says nothing: it has gone.
            _ = receiver.recv() => return,
        }
    }
}

fn refuse(sender: &FrameSender<ToEdge>, owner: String) {
    let refused = ToEdge {
        frame: Some(EdgeFrame::Refused(Refused {
            reason: RefusedReason::NotOwner.into(),
            owner,
            text: "this node does not own the shard".to_owned(),
        })),
    };
    // A peer that is gone already needs no answer.
    let _ = sender.try_send(Class::Control, refused);
}

async fn shard_stream(
    link: LinkId,
    edge: NodeId,
    sender: FrameSender<ToEdge>,
    mut receiver: FrameReceiver<ToOwner>,
    inbox: mpsc::Sender<Input>,
) {
    if inbox.send(Input::Link { link, sender }).await.is_err() {
        return;
    }
    loop {
        let mut frames = Vec::new();
        let more = match receiver.recv_many(&mut frames, FRAMES_MAX).await {
            Ok(count) => count > 0,
            Err(error) => {
                tracing::debug!(link = link.0, %error, "shard stream ended");
                false
            }
        };
        for frame in &mut frames {
            // Who it is follows from its certificate, and from nothing that it says.
            if let Some(OwnerFrame::UsersHere(report)) = &mut frame.frame {
                report.node = edge.as_str().to_owned();
            }
        }
        if !frames.is_empty() && inbox.send(Input::Frames { link, frames }).await.is_err() {
            return;
        }
        if !more {
            // The actor outlives its streams, or nobody is left to tell.
            let _ = inbox.send(Input::LinkClosed { link }).await;
            return;
        }
    }
}

async fn catch_up(
    link: LinkId,
    sender: FrameSender<HistoryPage>,
    mut receiver: FrameReceiver<HistoryRequest>,
    inbox: mpsc::Sender<Input>,
) {
    // Overflow policy of both: further requests stay in the stream, which the edge then finds full.
    let pages = Arc::new(Semaphore::new(PAGES_MAX));
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let sender = Arc::new(sender);
    while let Ok(Some(request)) = receiver.recv().await {
        let (Ok(worked_on), Ok(place)) = (
            requests.clone().acquire_owned().await,
            pages.clone().acquire_owned().await,
        ) else {
            return;
        };
        let input = Input::History {
            link,
            request,
            reply: PageReply {
                sender: sender.clone(),
                pages: pages.clone(),
                place: Some(place),
                _worked_on: worked_on,
            },
        };
        if inbox.send(input).await.is_err() {
            return;
        }
    }
}

/// Where a page goes; one of the stream's places until it is queued.
pub(crate) struct PageReply {
    sender: Arc<FrameSender<HistoryPage>>,
    pages: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    _worked_on: OwnedSemaphorePermit,
}

impl PageReply {
    /// Leaves its place to others while there is nothing to read: what waits for the index must
    /// not keep reads from memory waiting.
    pub(crate) fn leave_place(&mut self) {
        self.place = None;
    }

    /// Takes a place again.
    pub(crate) async fn take_place(&mut self) {
        if self.place.is_none() {
            // It is never closed.
            self.place = self.pages.clone().acquire_owned().await.ok();
        }
    }

    /// Queues the page behind those that wait; slow readers of history wait for themselves.
    pub(crate) async fn send(self, page: HistoryPage) {
        if let Err(error) = self.sender.send(Class::CatchUp, page).await {
            tracing::debug!(%error, "a history page found nobody");
        }
    }

    /// Queues the page, or leaves it to a task where the stream is full.
    pub(crate) fn send_soon(self, page: HistoryPage) {
        use gb6_core_mesh::TrySendError;
        match self.sender.try_send(Class::CatchUp, page) {
            Ok(()) => {}
            Err(TrySendError::Full(page)) => {
                tokio::spawn(self.send(page));
            }
            Err(error) => tracing::debug!(%error, "a history page found nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use gb6_core_obs::{Health, Metrics};
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    #[allow(clippy::panic, reason = "panics are what is looked after")]
    async fn an_acceptor_that_panics_goes_on_and_takes_the_next_link() {
        let (metrics, health) = (Metrics::bare(), Health::new());
        let other = health.register("other");
        other.ready();
        let guard = Panics::new(&metrics, &health).guard("links", "acceptor of links".to_owned());
        let (dial, dialled) = mpsc::unbounded_channel();
        let dialled = tokio::sync::Mutex::new(dialled);
        let accept = || async {
            match dialled.lock().await.recv().await {
                Some(0) => panic!("a defect of what accepts"),
                link => link,
            }
        };
        let (taken, told) = (Mutex::new(Vec::new()), watch::channel(0).0);
        let take = |link| {
            assert_ne!(link, 1, "a defect of what takes links");
            taken.lock().push(link);
            told.send_modify(|count| *count += 1);
        };
        let mut seen = told.subscribe();
        let dials = async {
            for link in [0, 2, 1, 3] {
                assert!(dial.send(link).is_ok());
            }
            assert!(seen.wait_for(|count| *count == 2).await.is_ok());
            // Nobody dials, and it waits for who does.
            while !health.now().is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(dial.send(0).is_ok());
            while health.now().is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(dial);
        };
        let both = async { tokio::join!(accept_all(accept, take, guard), dials) };
        let ended = tokio::time::timeout(Duration::from_secs(20), both).await;
        assert!(ended.is_ok(), "{}", metrics.text());
        assert_eq!(*taken.lock(), [2, 3]);
        let panics = r#"gb6_region_panics_total{part="links"} 3"#;
        assert!(metrics.text().contains(panics), "{}", metrics.text());
    }
}
