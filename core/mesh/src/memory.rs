//! Links within a process: no sockets, no certificates, frames moved as values; the same hello
//! checks, bounds and errors as over QUIC.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_wire::mesh::StreamOpen;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::close::{CloseCell, CloseCode, Closed};
use crate::hello::{HelloError, LocalNode, PeerInfo};
use crate::lanes::{Lanes, QueueLimits};
use crate::link::{Inner, Link, Opened, Transport};
use crate::stats::MeshStats;
use crate::stream::RawStream;
use crate::transport::{DATAGRAM_BACKLOG, STREAM_BACKLOG, STREAMS_MAX, Timing};

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
pub(crate) struct Side {
    pub(crate) peer: PeerInfo,
    pub(crate) stats: Arc<MeshStats>,
    pub(crate) timing: Timing,
    pub(crate) ended: Arc<CloseCell>,
}

/// The two ends of a link, the dialler's first.
pub(crate) fn connect(dialler: Side, listener: Side) -> (Link, Link) {
    // overflow: opening a stream waits, up to its time limit.
    let (open_tx, open_rx) = mpsc::channel(STREAM_BACKLOG);
    // overflow: nothing is ever sent: the side that dialled accepts no streams.
    let (_, unused_rx) = mpsc::channel(1);
    // overflow: the datagram is dropped, as on a path that is too slow.
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
