//! Links over QUIC: handshake, hello, and the tasks that watch a connection.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{Hello, StreamOpen};
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, SendStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::close::{CloseCode, Closed};
use crate::endpoint::DialError;
use crate::frame::FrameReader;
use crate::handshake::{
    Failed, Handshake, accept_reason, code, dial_error, identity, read_first, write_first,
};
use crate::hello::{HelloError, LocalNode, PeerInfo};
use crate::identity::MESH_DNS_NAME;
use crate::link::{self, Link, Opened, Transport};
use crate::stats::{FailureReason, MeshStats};
use crate::stream::RawStream;
use crate::tls::MeshTls;
use crate::transport::{
    self, HANDSHAKES_MAX, HANDSHAKES_UNPROVEN_MAX, LINK_BACKLOG, SOCKET_BUFFER, STREAM_BACKLOG,
    STREAMS_MAX, Timing,
};

/// Addresses of one name that a dial tries.
const ADDRESSES_MAX: usize = 4;

/// What an endpoint over QUIC has beside the common parts.
#[derive(Debug)]
pub(crate) struct QuicEndpoint {
    endpoint: quinn::Endpoint,
    dialling: quinn::ClientConfig,
    accepting: Option<AbortHandle>,
    timing: Timing,
}

/// Settings under which packets for a connection of this node's last process are answered with a
/// stateless reset: reset tokens follow from the node's key.
fn recognizing(tls: &MeshTls) -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::new(Arc::new(tls.recognition().clone()));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Connection ids that say nothing. Any id may be one that this node gave out in an earlier life,
/// so none is passed over: an unknown one is answered with a reset, of which an endpoint sends at
/// most one in 20 ms and each smaller than what caused it.
struct RandomIds;

/// Bytes of a connection id: enough that two never meet.
const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; CONNECTION_ID_BYTES]>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

impl QuicEndpoint {
    pub(crate) fn bind(
        addr: SocketAddr,
        listens: bool,
        tls: &MeshTls,
        local: &Arc<LocalNode>,
        stats: &Arc<MeshStats>,
        timing: Timing,
    ) -> io::Result<(Self, mpsc::Receiver<Link>)> {
        let socket = UdpSocket::bind(addr)?;
        let options = socket2::SockRef::from(&socket);
        // The system may give less; then bursts cost retransmissions, nothing else.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);

        let server = listens.then(|| {
            let mut server = quinn::ServerConfig::with_crypto(tls.server_config());
            // One more for the hello.
            server.transport_config(transport::config(&timing, STREAMS_MAX + 1));
            server.max_incoming(HANDSHAKES_MAX);
            server
        });
        let mut dialling = quinn::ClientConfig::new(tls.client_config());
        // The side that accepted opens no streams.
        dialling.transport_config(transport::config(&timing, 0));
        let endpoint = quinn::Endpoint::new(
            recognizing(tls),
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        // overflow: an accepted link waits for its place; its peer sees a slow handshake.
        let (accepted, links) = mpsc::channel(LINK_BACKLOG);
        let accepting = listens.then(|| {
            let accepter = Accepter {
                local: Arc::clone(local),
                stats: Arc::clone(stats),
                timing,
                accepted,
                log: LogGate::default(),
            };
            tokio::spawn(accepter.run(endpoint.clone())).abort_handle()
        });
        let endpoint = Self {
            endpoint,
            dialling,
            accepting,
            timing,
        };
        Ok((endpoint, links))
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    pub(crate) fn stop_accepting(&self) {
        if let Some(task) = &self.accepting {
            task.abort();
        }
    }

    pub(crate) async fn close(&self, close_code: CloseCode, text: &str, patience: Duration) {
        self.endpoint.close(code(close_code), text.as_bytes());
        self.stop_accepting();
        if tokio::time::timeout(patience, self.endpoint.wait_idle())
            .await
            .is_err()
        {
            debug!(?patience, "not every peer confirmed the end of its link");
        }
    }

    pub(crate) async fn dial(
        &self,
        local: &LocalNode,
        stats: &Arc<MeshStats>,
        node: &NodeId,
        address: Option<&str>,
    ) -> Result<Link, DialError> {
        let address = address.ok_or_else(|| DialError::NoAddress(node.clone()))?;
        let after = self.timing.handshake;
        let timeout = || DialError::Timeout {
            node: node.clone(),
            after,
        };
        let resolve_failed = |reason: String| DialError::Resolve {
            node: node.clone(),
            address: address.to_owned(),
            reason,
        };
        let addresses: Vec<SocketAddr> =
            tokio::time::timeout(after, tokio::net::lookup_host(address))
                .await
                .map_err(|_| timeout())?
                .map_err(|error| resolve_failed(error.to_string()))?
                .take(ADDRESSES_MAX)
                .collect();
        let mut failed = resolve_failed("the name has no addresses".into());
        for addr in addresses {
            match tokio::time::timeout(after, self.dial_addr(local, stats, node, addr)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = timeout(),
            }
        }
        Err(failed)
    }

    async fn dial_addr(
        &self,
        local: &LocalNode,
        stats: &Arc<MeshStats>,
        node: &NodeId,
        addr: SocketAddr,
    ) -> Result<Link, DialError> {
        let connecting = self
            .endpoint
            .connect_with(self.dialling.clone(), addr, MESH_DNS_NAME)
            .map_err(|error| match error {
                quinn::ConnectError::EndpointStopping => DialError::EndpointClosed,
                other => DialError::Unreachable {
                    node: node.clone(),
                    address: addr.to_string(),
                    reason: other.to_string(),
                },
            })?;
        let lost = |error: &ConnectionError| dial_error(node, addr, error);
        let handshake = Handshake::new(connecting.await.map_err(|error| lost(&error))?);
        let connection = &handshake.connection;
        let hello = async {
            let certified = identity(connection)?;
            if certified.node != *node {
                return Err(Failed::Hello(HelloError::Unexpected {
                    expected: node.clone(),
                    found: certified.node,
                }));
            }
            let (mut send, recv) = connection.open_bi().await.map_err(Failed::Lost)?;
            write_first(&mut send, &local.hello()).await?;
            let (theirs, _, _): (Hello, _, _) = read_first(recv).await?;
            let _ = send.finish();
            Ok(local.check(&certified, &theirs)?)
        };
        match hello.await {
            Ok(peer) => Ok(up(handshake.done(), peer, true, stats, self.timing)),
            Err(Failed::Lost(error)) => Err(lost(&error)),
            Err(Failed::Hello(source)) => {
                handshake.refuse(&source);
                Err(DialError::Hello {
                    node: node.clone(),
                    source,
                })
            }
        }
    }
}

/// Accepts connections until the endpoint is closed.
struct Accepter {
    local: Arc<LocalNode>,
    stats: Arc<MeshStats>,
    timing: Timing,
    accepted: mpsc::Sender<Link>,
    log: LogGate,
}

impl Accepter {
    async fn run(self, endpoint: quinn::Endpoint) {
        let this = Arc::new(self);
        let mut in_progress: VecDeque<AbortHandle> = VecDeque::new();
        while let Some(incoming) = endpoint.accept().await {
            if in_progress.len() >= HANDSHAKES_UNPROVEN_MAX {
                in_progress.retain(|task| !task.is_finished());
            }
            if in_progress.len() >= HANDSHAKES_UNPROVEN_MAX && incoming.may_retry() {
                // Fails only where it may not retry.
                let _ = incoming.retry();
                continue;
            }
            // Overflow policy: the oldest gives way. One that is still not done is the likeliest
            // never to be; refusing the newest would let a few idle peers keep everybody out.
            if in_progress.len() >= HANDSHAKES_MAX
                && let Some(oldest) = in_progress.pop_front()
            {
                oldest.abort();
                this.stats.accept_failed(FailureReason::Busy);
            }
            let this = Arc::clone(&this);
            let task = tokio::spawn(async move {
                let addr = incoming.remote_address();
                match this.handshake(incoming).await {
                    // In progress until the application takes it; it fails only where the
                    // endpoint was dropped.
                    Ok(link) => drop(this.accepted.send(link).await),
                    Err((reason, text)) => {
                        this.stats.accept_failed(reason);
                        if let Some(unsaid) = this.log.open() {
                            let reason = reason.as_str();
                            warn!(%addr, reason, unsaid, "mesh peer not accepted: {text}");
                        }
                    }
                }
            });
            in_progress.push_back(task.abort_handle());
        }
    }

    async fn handshake(&self, incoming: quinn::Incoming) -> Result<Link, (FailureReason, String)> {
        let lost = |error: ConnectionError| (accept_reason(&error), error.to_string());
        let deadline = Instant::now() + self.timing.handshake;
        let late = || {
            let error = HelloError::Timeout;
            (error.reason(), error.to_string())
        };
        let connecting = incoming.accept().map_err(lost)?;
        let connection = tokio::time::timeout_at(deadline, connecting)
            .await
            .map_err(|_| late())?
            .map_err(lost)?;
        let handshake = Handshake::new(connection);
        let connection = &handshake.connection;
        let hello = async {
            let certified = identity(connection)?;
            let (mut send, recv) = connection.accept_bi().await.map_err(Failed::Lost)?;
            let (theirs, _, _): (Hello, _, _) = read_first(recv).await?;
            let peer = self.local.check(&certified, &theirs)?;
            write_first(&mut send, &self.local.hello()).await?;
            let _ = send.finish();
            Ok(peer)
        };
        match tokio::time::timeout_at(deadline, hello).await {
            Ok(Ok(peer)) => Ok(up(handshake.done(), peer, false, &self.stats, self.timing)),
            Ok(Err(Failed::Lost(error))) => Err(lost(error)),
            Ok(Err(Failed::Hello(error))) => {
                let failed = (error.reason(), error.to_string());
                handshake.refuse(&error);
                Err(failed)
            }
            // Dropping the handshake closes the connection with the reason.
            Err(_) => Err(late()),
        }
    }
}

/// Lets one line a second through, so that a flood of bad peers does not become one of the log.
#[derive(Default)]
struct LogGate(Mutex<(Option<Instant>, u64)>);

impl LogGate {
    /// How many lines were held back, if one may be written now.
    fn open(&self) -> Option<u64> {
        let mut state = self.0.lock();
        let (last, held_back) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            *held_back += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(held_back))
    }
}

/// A link of a connection whose hello is done, with the tasks that watch it.
fn up(
    connection: Connection,
    peer: PeerInfo,
    dialled: bool,
    stats: &Arc<MeshStats>,
    timing: Timing,
) -> Link {
    let ended = Arc::default();
    // overflow: accepting streams waits, and QUIC's own limit on streams holds the peer back.
    let (opened_tx, opened) = mpsc::channel(STREAM_BACKLOG);
    if !dialled {
        tokio::spawn(accept_streams(
            connection.clone(),
            opened_tx,
            Arc::clone(stats),
            timing.open,
        ));
    }
    let link = Link::new(link::Inner {
        peer,
        dialled,
        ended: Arc::clone(&ended),
        stats: Arc::clone(stats),
        timing,
        transport: Transport::Quic(connection.clone()),
        opened: tokio::sync::Mutex::new(opened),
    });
    let stats = Arc::clone(stats);
    tokio::spawn(async move {
        let error = connection.closed().await;
        ended.set(Closed::from_quic(&error));
        stats.links_down.add(1);
    });
    link
}

/// Reads the first frame of every stream that the peer opens, each in its own task, so that one
/// that trickles holds up no other. How many there can be the transport bounds.
async fn accept_streams(
    connection: Connection,
    opened: mpsc::Sender<Opened>,
    stats: Arc<MeshStats>,
    patience: Duration,
) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let opened = opened.clone();
        let stats = Arc::clone(&stats);
        tokio::spawn(async move {
            match tokio::time::timeout(patience, read_first::<StreamOpen>(recv)).await {
                Ok(Ok((open, recv, reader))) if open.purpose.is_some() => {
                    // Fails only where the stream is gone, which its halves find out.
                    let _ = send.set_priority(link::priority(&open));
                    let raw = RawStream::Quic { send, recv, reader };
                    // Fails only where the link was dropped.
                    let _ = opened.send(Opened { open, raw }).await;
                }
                _ => refuse_stream(send, &stats),
            }
        });
    }
}

fn refuse_stream(mut send: SendStream, stats: &MeshStats) {
    stats.streams_refused.add(1);
    // The receiving half is dropped already, which stops the peer's side.
    let _ = send.reset(code(CloseCode::Violation));
}

/// Opens a stream and says what it is for.
pub(crate) async fn open(connection: &Connection, open: &StreamOpen) -> Result<RawStream, Closed> {
    let (mut send, recv) = connection
        .open_bi()
        .await
        .map_err(|error| Closed::from_quic(&error))?;
    let _ = send.set_priority(link::priority(open));
    write_first(&mut send, open)
        .await
        .map_err(|error| match error {
            Failed::Lost(error) => Closed::from_quic(&error),
            Failed::Hello(error) => Closed::Lost(error.to_string().into()),
        })?;
    Ok(RawStream::Quic {
        send,
        recv,
        reader: FrameReader::default(),
    })
}
