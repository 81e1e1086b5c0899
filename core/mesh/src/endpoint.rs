//! What dials and accepts links, of either kind.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gb6_core_model::NodeId;
use tokio::sync::{Mutex, mpsc};

use crate::close::CloseCode;
use crate::hello::{HelloError, LocalNode};
use crate::identity::NodeIdentity;
use crate::link::Link;
use crate::network::MemoryEndpoint;
use crate::quic::QuicEndpoint;
use crate::stats::{FailureReason, MeshStats};
use crate::tls::MeshTls;
use crate::transport::Timing;

/// Why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can not be used.
    #[error("the mesh can not use UDP {addr}: {source}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The node claims what its certificate does not carry.
    #[error(
        "this node is to be {wanted:?}, but its certificate is for {certificate:?}: make one with \
         `gb6 cert node`"
    )]
    Identity {
        /// What the configuration says.
        wanted: NodeIdentity,
        /// What the certificate says.
        certificate: NodeIdentity,
    },
    /// A node with this id is on the network in memory already.
    #[error("node {0} is on the network already")]
    InUse(NodeId),
}

/// Why a dial failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody knows where the node is.
    #[error("no address of node {0} is known: the placement snapshot names none")]
    NoAddress(NodeId),
    /// The address can not be resolved.
    #[error("the address `{address}` of node {node} can not be resolved: {reason}")]
    Resolve {
        /// The node.
        node: NodeId,
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// Nobody answers there, or the path failed.
    #[error("node {node} at {address} can not be reached: {reason}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The handshake or the hello took too long.
    #[error("node {node} did not answer within {after:?}")]
    Timeout {
        /// The node.
        node: NodeId,
        /// The limit.
        after: Duration,
    },
    /// One side did not accept the other's certificate.
    #[error(
        "node {node} and this node do not accept each other's certificates: {reason}; both must \
         be of the same authority and valid now"
    )]
    Certificate {
        /// The node.
        node: NodeId,
        /// What TLS said.
        reason: String,
    },
    /// The peer speaks QUIC, but not the mesh's protocol.
    #[error("node {node} does not speak the mesh's protocol: {reason}")]
    Protocol {
        /// The node.
        node: NodeId,
        /// What TLS said.
        reason: String,
    },
    /// This side did not accept the peer's hello.
    #[error("node {node} was not accepted: {source}")]
    Hello {
        /// The node.
        node: NodeId,
        /// Why.
        source: HelloError,
    },
    /// The peer did not accept this side.
    #[error("node {node} refused this node ({code:?}): {text}")]
    Refused {
        /// The node.
        node: NodeId,
        /// With what code.
        code: CloseCode,
        /// With what words.
        text: String,
    },
    /// This endpoint is closed.
    #[error("this node's mesh endpoint is closed")]
    EndpointClosed,
}

impl DialError {
    /// The reason for the counters.
    pub fn reason(&self) -> FailureReason {
        match self {
            DialError::NoAddress(_) | DialError::Resolve { .. } => FailureReason::Address,
            DialError::Unreachable { .. } | DialError::EndpointClosed => FailureReason::Unreachable,
            DialError::Timeout { .. } => FailureReason::Timeout,
            DialError::Certificate { .. } => FailureReason::Certificate,
            DialError::Protocol { .. } => FailureReason::Version,
            DialError::Hello { source, .. } => source.reason(),
            DialError::Refused { code, .. } => match code {
                CloseCode::Version => FailureReason::Version,
                CloseCode::Identity | CloseCode::WrongNode => FailureReason::Node,
                CloseCode::Role => FailureReason::Role,
                CloseCode::BadHello => FailureReason::BadHello,
                CloseCode::HelloTimeout => FailureReason::Timeout,
                _ => FailureReason::Refused,
            },
        }
    }
}

/// A node's end of the mesh. Clones are the same endpoint; dropping the last one stops accepting,
/// links live on.
#[derive(Clone, Debug)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: Arc<LocalNode>,
    stats: Arc<MeshStats>,
    accepted: Mutex<mpsc::Receiver<Link>>,
    closed: AtomicBool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Quic(QuicEndpoint),
    Memory(MemoryEndpoint),
}

impl Endpoint {
    /// Dials, and accepts links on UDP `addr` (port 0: any). Within a tokio runtime.
    ///
    /// # Errors
    /// The address can not be used, or `local` is not who the certificate names.
    pub fn listen(
        addr: SocketAddr,
        tls: &MeshTls,
        local: LocalNode,
        timing: Timing,
    ) -> Result<Self, BindError> {
        Self::quic(addr, true, tls, local, timing)
    }

    /// Only dials, from any port of `addr`, the unspecified address in most cases. Within a tokio
    /// runtime.
    ///
    /// # Errors
    /// No socket can be had, or `local` is not who the certificate names.
    pub fn dial_only(
        addr: SocketAddr,
        tls: &MeshTls,
        local: LocalNode,
        timing: Timing,
    ) -> Result<Self, BindError> {
        Self::quic(addr, false, tls, local, timing)
    }

    fn quic(
        addr: SocketAddr,
        listens: bool,
        tls: &MeshTls,
        local: LocalNode,
        timing: Timing,
    ) -> Result<Self, BindError> {
        let certificate = tls.identity();
        let roles_fit = local
            .identity
            .roles
            .iter()
            .all(|role| certificate.has_role(*role));
        if local.identity.node != certificate.node || !roles_fit {
            return Err(BindError::Identity {
                wanted: local.identity,
                certificate: certificate.clone(),
            });
        }
        let local = Arc::new(local);
        let stats = Arc::<MeshStats>::default();
        let (endpoint, accepted) = QuicEndpoint::bind(addr, listens, tls, &local, &stats, timing)
            .map_err(|source| BindError::Socket { addr, source })?;
        Ok(Self::new(local, stats, accepted, Kind::Quic(endpoint)))
    }

    pub(crate) fn memory(
        local: Arc<LocalNode>,
        stats: Arc<MeshStats>,
        accepted: mpsc::Receiver<Link>,
        endpoint: MemoryEndpoint,
    ) -> Self {
        Self::new(local, stats, accepted, Kind::Memory(endpoint))
    }

    fn new(
        local: Arc<LocalNode>,
        stats: Arc<MeshStats>,
        accepted: mpsc::Receiver<Link>,
        kind: Kind,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                local,
                stats,
                accepted: Mutex::new(accepted),
                closed: AtomicBool::new(false),
                kind,
            }),
        }
    }

    /// Dials `node` at `address` (`host:port`; not needed in memory).
    ///
    /// # Errors
    /// See [`DialError`]; each is counted.
    pub async fn dial(&self, node: &NodeId, address: Option<&str>) -> Result<Link, DialError> {
        let Inner { local, stats, .. } = &*self.inner;
        let dialled = if self.inner.closed.load(Ordering::Acquire) {
            Err(DialError::EndpointClosed)
        } else {
            match &self.inner.kind {
                Kind::Quic(quic) => quic.dial(local, stats, node, address).await,
                Kind::Memory(memory) => memory.dial(local, stats, node).await,
            }
        };
        dialled.inspect_err(|error| stats.dial_failed(error.reason()))
    }

    /// The next link that a peer dialled, its hello exchanged; `None` once the endpoint is closed.
    /// What fails before that is counted and logged. Dropping the future loses nothing.
    pub async fn accept(&self) -> Option<Link> {
        self.inner.accepted.lock().await.recv().await
    }

    /// The UDP address, `None` in memory.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.inner.kind {
            Kind::Quic(quic) => quic.local_addr(),
            Kind::Memory(_) => None,
        }
    }

    /// What this node says of itself.
    pub fn local(&self) -> &LocalNode {
        &self.inner.local
    }

    /// Its counters.
    pub fn stats(&self) -> &Arc<MeshStats> {
        &self.inner.stats
    }

    /// Ends all links with `code` and `text`, stops dialling and accepting, and waits, at most
    /// `patience`, until the peers know.
    pub async fn close(&self, code: CloseCode, text: &str, patience: Duration) {
        self.inner.closed.store(true, Ordering::Release);
        match &self.inner.kind {
            Kind::Quic(quic) => quic.close(code, text, patience).await,
            Kind::Memory(memory) => memory.close(&self.inner.local.identity.node, code, text),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Quic(quic) => quic.stop_accepting(),
            Kind::Memory(memory) if !*self.closed.get_mut() => {
                memory.unbind(&self.local.identity.node);
            }
            Kind::Memory(_) => {}
        }
    }
}
