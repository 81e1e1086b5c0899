//! Links within a process: no sockets, no certificates, frames moved as values; the same hello
//! checks, bounds and errors as over QUIC.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use gb6_core_model::NodeId;
use gb6_core_wire::mesh::StreamOpen;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::close::{CloseCell, CloseCode, Closed};
use crate::endpoint::{BindError, DialError, Endpoint};
use crate::hello::{HelloError, LocalNode, PeerInfo};
use crate::lanes::{Lanes, QueueLimits};
use crate::link::{Inner, Link, Opened, Transport};
use crate::stats::{FailureReason, MeshStats};
use crate::stream::RawStream;
use crate::transport::{DATAGRAM_BACKLOG, LINK_BACKLOG, STREAM_BACKLOG, STREAMS_MAX, Timing};

/// Two ends of a link in memory, `a`'s first; `a` is the side that dialled.
///
/// # Errors
/// One does not accept the other's hello.
pub fn memory_pair(a: &LocalNode, b: &LocalNode) -> Result<(Link, Link), HelloError> {
    let a_sees = a.check(&b.identity, &b.hello())?;
    let b_sees = b.check(&a.identity, &a.hello())?;
    let timing = Timing::default();
    let side = |peer| Side {
        peer,
        stats: Arc::default(),
        timing,
        ended: Arc::default(),
    };
    Ok(connect(side(a_sees), side(b_sees)))
}

/// One side of a link that is about to be.
struct Side {
    peer: PeerInfo,
    stats: Arc<MeshStats>,
    timing: Timing,
    ended: Arc<CloseCell>,
}

fn connect(dialler: Side, listener: Side) -> (Link, Link) {
    let (open_tx, open_rx) = mpsc::channel(STREAM_BACKLOG);
    let (_, unused_rx) = mpsc::channel(1);
    let (to_listener, at_listener) = mpsc::channel(DATAGRAM_BACKLOG);
    let (to_dialler, at_dialler) = mpsc::channel(DATAGRAM_BACKLOG);
    let streams = Arc::new(Semaphore::new(STREAMS_MAX as usize));
    let transport = |to_peer, out, inc, peer: &Side| {
        Transport::Memory(MemoryTransport {
            to_peer,
            datagrams_out: out,
            datagrams_in: tokio::sync::Mutex::new(inc),
            peer_ended: Arc::clone(&peer.ended),
            peer_stats: Arc::clone(&peer.stats),
            streams: Arc::clone(&streams),
        })
    };
    let at_dialler = transport(Some(open_tx), to_listener, at_dialler, &listener);
    let at_listener = transport(None, to_dialler, at_listener, &dialler);
    let link = |side: Side, dialled, transport, opened| {
        Link::new(Inner {
            peer: side.peer,
            dialled,
            ended: side.ended,
            stats: side.stats,
            timing: side.timing,
            transport,
            opened: tokio::sync::Mutex::new(opened),
        })
    };
    (
        link(dialler, true, at_dialler, unused_rx),
        link(listener, false, at_listener, open_rx),
    )
}

/// One side's way to the other.
#[derive(Debug)]
pub(crate) struct MemoryTransport {
    /// `None` at the side that accepted: it opens no streams.
    to_peer: Option<mpsc::Sender<Opened>>,
    datagrams_out: mpsc::Sender<Bytes>,
    datagrams_in: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    peer_ended: Arc<CloseCell>,
    peer_stats: Arc<MeshStats>,
    streams: Arc<Semaphore>,
}

impl MemoryTransport {
    pub(crate) async fn open(&self, open: &StreamOpen) -> Result<RawStream, Closed> {
        let gone = || Closed::Lost("the peer's end of the link is gone".into());
        let permit = Arc::clone(&self.streams)
            .acquire_owned()
            .await
            .map_err(|_| gone())?;
        let (here, there) = MemoryStream::pair(permit);
        let opened = Opened {
            open: open.clone(),
            raw: RawStream::Memory(there),
        };
        let to_peer = self.to_peer.as_ref().ok_or_else(gone)?;
        to_peer.send(opened).await.map_err(|_| gone())?;
        Ok(RawStream::Memory(here))
    }

    /// Overflow policy: the newest datagram is dropped and counted at the receiver.
    pub(crate) fn send_datagram(&self, data: Bytes) {
        if self.datagrams_out.try_send(data).is_err() {
            self.peer_stats.datagrams_dropped.add(1);
        }
    }

    pub(crate) async fn recv_datagram(&self) -> Bytes {
        match self.datagrams_in.lock().await.recv().await {
            Some(data) => data,
            // The other side is gone; the link's end says so.
            None => std::future::pending().await,
        }
    }

    pub(crate) fn close_peer(&self, code: CloseCode, text: &str) {
        let reason = Closed::Peer {
            code,
            text: text.into(),
        };
        if self.peer_ended.set(reason) {
            self.peer_stats.links_down.add(1);
        }
    }
}

/// One direction of a stream before (and after) both of its ends know their frames' type:
/// whichever end is split first makes the queue, the other finds it.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    queue: Option<Arc<dyn Queue>>,
    finished: bool,
    refused: bool,
}

/// A queue whose frames' type is not known here.
trait Queue: Any + Send + Sync {
    fn finish(&self);
    fn refuse(&self);
}

impl<M: Send + 'static> Queue for Lanes<M> {
    fn finish(&self) {
        Lanes::finish(self);
    }

    fn refuse(&self) {
        Lanes::refuse(self);
    }
}

impl Slot {
    /// The queue for frames `M`; `None` if the other end took another type.
    fn queue<M: Send + 'static>(&self, limits: QueueLimits) -> Option<Arc<Lanes<M>>> {
        let mut state = self.state.lock();
        if let Some(queue) = &state.queue {
            let queue: Arc<dyn Any + Send + Sync> = Arc::<dyn Queue>::clone(queue);
            return queue.downcast().ok();
        }
        let lanes = Arc::new(Lanes::new(limits));
        if state.finished {
            lanes.finish();
        }
        if state.refused {
            lanes.refuse();
        }
        state.queue = Some(Arc::<Lanes<M>>::clone(&lanes));
        Some(lanes)
    }

    fn finish(&self) {
        let mut state = self.state.lock();
        state.finished = true;
        if let Some(queue) = &state.queue {
            queue.finish();
        }
    }

    fn refuse(&self) {
        let mut state = self.state.lock();
        state.refused = true;
        if let Some(queue) = &state.queue {
            queue.refuse();
        }
    }
}

/// One end of a stream in memory.
pub(crate) struct MemoryStream {
    ends: Option<(Arc<Slot>, Arc<Slot>)>,
    permit: Arc<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStream").finish_non_exhaustive()
    }
}

/// The queue out, the queue in unless its type differs from the other end's, and the place among
/// the link's streams.
type Halves<S, R> = (
    Arc<Lanes<S>>,
    Option<Arc<Lanes<R>>>,
    Arc<OwnedSemaphorePermit>,
);

impl MemoryStream {
    fn pair(permit: OwnedSemaphorePermit) -> (Self, Self) {
        let permit = Arc::new(permit);
        let there = Arc::<Slot>::default();
        let back = Arc::<Slot>::default();
        (
            Self {
                ends: Some((Arc::clone(&there), Arc::clone(&back))),
                permit: Arc::clone(&permit),
            },
            Self {
                ends: Some((back, there)),
                permit,
            },
        )
    }

    pub(crate) fn split<S: Send + 'static, R: Send + 'static>(
        mut self,
        limits: QueueLimits,
    ) -> Halves<S, R> {
        let permit = Arc::clone(&self.permit);
        let closed = || {
            let lanes = Lanes::new(limits);
            lanes.refuse();
            Arc::new(lanes)
        };
        let Some((out, inc)) = self.ends.take() else {
            return (closed(), None, permit);
        };
        let outgoing = out.queue::<S>(limits).unwrap_or_else(|| {
            out.finish();
            closed()
        });
        // The bound of a direction is its sender's, whichever end came first.
        outgoing.set_limits(limits);
        let incoming = inc.queue::<R>(limits);
        if incoming.is_none() {
            inc.refuse();
        }
        (outgoing, incoming, permit)
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        if let Some((out, inc)) = self.ends.take() {
            out.finish();
            inc.refuse();
        }
    }
}

/// The nodes of one process, which dial each other by id.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<NetworkState>>,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("MemoryNetwork")
            .field("nodes", &state.listeners.keys().collect::<Vec<_>>())
            .field("cuts", &state.cuts)
            .finish()
    }
}

#[derive(Default)]
struct NetworkState {
    listeners: BTreeMap<NodeId, Listener>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    links: Vec<Tracked>,
}

#[derive(Clone)]
struct Listener {
    local: Arc<LocalNode>,
    stats: Arc<MeshStats>,
    timing: Timing,
    accepted: mpsc::Sender<Link>,
}

/// A link, so that a cut finds it.
struct Tracked {
    between: (NodeId, NodeId),
    ends: [(Weak<CloseCell>, Arc<MeshStats>); 2],
}

fn pair(a: &NodeId, b: &NodeId) -> (NodeId, NodeId) {
    if a <= b {
        (a.clone(), b.clone())
    } else {
        (b.clone(), a.clone())
    }
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a node on the network: it can dial and be dialled until its endpoint is dropped or
    /// closed.
    ///
    /// # Errors
    /// A node with this id is on it already.
    pub fn bind(&self, local: LocalNode, timing: Timing) -> Result<Endpoint, BindError> {
        let node = local.identity.node.clone();
        let (accepted, links) = mpsc::channel(LINK_BACKLOG);
        let stats = Arc::<MeshStats>::default();
        let local = Arc::new(local);
        let listener = Listener {
            local: Arc::clone(&local),
            stats: Arc::clone(&stats),
            timing,
            accepted,
        };
        let mut state = self.state.lock();
        if state.listeners.contains_key(&node) {
            return Err(BindError::InUse(node));
        }
        state.listeners.insert(node, listener);
        drop(state);
        let endpoint = MemoryEndpoint {
            network: self.clone(),
            timing,
        };
        Ok(Endpoint::memory(local, stats, links, endpoint))
    }

    /// Cuts the path between two nodes: their links end with an error, new ones fail.
    pub fn cut(&self, a: &NodeId, b: &NodeId) {
        let between = pair(a, b);
        let mut state = self.state.lock();
        for link in state.links.iter().filter(|link| link.between == between) {
            for (ended, stats) in &link.ends {
                let lost = || Closed::Lost("the path was cut".into());
                if ended.upgrade().is_some_and(|ended| ended.set(lost())) {
                    stats.links_down.add(1);
                }
            }
        }
        state.cuts.insert(between);
    }

    /// Heals the path between two nodes: they can dial each other again.
    pub fn heal(&self, a: &NodeId, b: &NodeId) {
        self.state.lock().cuts.remove(&pair(a, b));
    }

    fn listener(&self, from: &NodeId, to: &NodeId) -> Result<Listener, DialError> {
        let state = self.state.lock();
        let unreachable = |reason: &str| DialError::Unreachable {
            node: to.clone(),
            address: "memory".into(),
            reason: reason.into(),
        };
        if state.cuts.contains(&pair(from, to)) {
            return Err(unreachable("the path was cut"));
        }
        match state.listeners.get(to) {
            Some(listener) => Ok(listener.clone()),
            None => Err(unreachable("no such node is on the network")),
        }
    }
}

/// What an endpoint on a [`MemoryNetwork`] has beside the common parts.
#[derive(Debug)]
pub(crate) struct MemoryEndpoint {
    network: MemoryNetwork,
    timing: Timing,
}

impl MemoryEndpoint {
    pub(crate) async fn dial(
        &self,
        local: &LocalNode,
        stats: &Arc<MeshStats>,
        node: &NodeId,
    ) -> Result<Link, DialError> {
        let from = &local.identity.node;
        let listener = self.network.listener(from, node)?;
        let there = &listener.local;
        let seen_there = there
            .check(&local.identity, &local.hello())
            .map_err(|error| {
                listener.stats.accept_failed(error.reason());
                DialError::Refused {
                    node: node.clone(),
                    code: error.close_code(),
                    text: error.to_string(),
                }
            })?;
        let seen_here = local
            .check(&there.identity, &there.hello())
            .map_err(|error| DialError::Hello {
                node: node.clone(),
                source: error,
            })?;
        // A place in the peer's backlog first: a link that nobody accepts is none.
        let place = tokio::time::timeout(self.timing.handshake, listener.accepted.reserve())
            .await
            .map_err(|_| {
                listener.stats.accept_failed(FailureReason::Busy);
                DialError::Timeout {
                    node: node.clone(),
                    after: self.timing.handshake,
                }
            })?
            .map_err(|_| DialError::Unreachable {
                node: node.clone(),
                address: "memory".into(),
                reason: "its endpoint is closed".into(),
            })?;
        let dialler = Side {
            peer: seen_here,
            stats: Arc::clone(stats),
            timing: self.timing,
            ended: Arc::default(),
        };
        let accepter = Side {
            peer: seen_there,
            stats: Arc::clone(&listener.stats),
            timing: listener.timing,
            ended: Arc::default(),
        };
        let tracked = Tracked {
            between: pair(from, node),
            ends: [&dialler, &accepter]
                .map(|side| (Arc::downgrade(&side.ended), Arc::clone(&side.stats))),
        };
        // A cut during the handshake must find the link or prevent it.
        let mut state = self.network.state.lock();
        if state.cuts.contains(&tracked.between) {
            return Err(DialError::Unreachable {
                node: node.clone(),
                address: "memory".into(),
                reason: "the path was cut".into(),
            });
        }
        state
            .links
            .retain(|link| link.ends.iter().any(|(end, _)| end.strong_count() > 0));
        state.links.push(tracked);
        drop(state);
        let (here, there) = connect(dialler, accepter);
        place.send(there);
        Ok(here)
    }

    pub(crate) fn unbind(&self, node: &NodeId) {
        self.network.state.lock().listeners.remove(node);
    }
}
