//! The UDP listener: takes handshakes within the bounds of admission, and brings each to its session.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gb6_core_model::Disconnect;
use gb6_core_wire::client::Dialect;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use tokio::sync::watch;

use super::carrier::{QuicStream, close};
use super::transport::{HANDSHAKES_UNPROVEN_MAX, SOCKET_BUFFER, bounds};
use crate::admission::{Permit, Unproven};
use crate::connection::carrier::Carrier;
use crate::connection::driver::Connection as Session;
use crate::connection::transport::{Opening, Transport};
use crate::shared::Shared;
use crate::stream::framing::Stream;
use crate::webtransport;

/// How long clients may take to confirm the end of their connections when the listener stops.
const GOODBYE: Duration = Duration::from_millis(500);

/// A bound UDP socket that QUIC is spoken on.
#[derive(Clone)]
pub(crate) struct QuicListener {
    endpoint: Endpoint,
    local_addr: SocketAddr,
}

impl QuicListener {
    /// Listens on `address`; sessions have the bounds of `config`.
    pub(crate) fn bind(
        address: SocketAddr,
        tls: Arc<QuicServerConfig>,
        config: &crate::config::EdgeConfig,
    ) -> io::Result<Self> {
        let socket = match UdpSocket::bind(address) {
            Err(error) if config.quic_elsewhere && error.kind() == io::ErrorKind::AddrInUse => {
                UdpSocket::bind(SocketAddr::new(address.ip(), 0))?
            }
            bound => bound?,
        };
        let options = socket2::SockRef::from(&socket);
        // With less a burst costs retransmissions, nothing else.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);
        let mut server = ServerConfig::with_crypto(tls);
        bounds(&mut server, &config.session);
        let local_addr = socket.local_addr()?;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            local_addr,
        })
    }

    /// The address that was really bound.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts until `stop` says so; then new connections are refused, and the others go on.
    pub(crate) async fn run(self, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
        let handshakes = Arc::new(AtomicUsize::new(0));
        loop {
            let incoming = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                incoming = self.endpoint.accept() => incoming,
            };
            match incoming {
                Some(incoming) => admit(&shared, &handshakes, incoming),
                None => return,
            }
        }
        self.endpoint.set_server_config(None);
    }

    /// Ends every connection that is left.
    pub(crate) async fn close(self) {
        let why = Disconnect::Shutdown;
        self.endpoint
            .close(why.code().into(), why.text().as_bytes());
        // What is not confirmed by then is for the idle timeouts of clients.
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }
}

/// One of the handshakes in progress.
struct InProgress(Arc<AtomicUsize>);

impl InProgress {
    fn begin(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(shared: &Arc<Shared>, handshakes: &Arc<AtomicUsize>, incoming: Incoming) {
    let count = |result| shared.metrics.quic_handshakes.with(&[result]).inc();
    // Where places of an address are counted, a forged one must not take them.
    let prove = shared.config.connections_per_address.is_some()
        || handshakes.load(Ordering::Relaxed) >= HANDSHAKES_UNPROVEN_MAX;
    if prove && !incoming.remote_address_validated() && incoming.may_retry() {
        count("retry");
        // Fails only where it may not retry.
        let _ = incoming.retry();
        return;
    }
    let Some(permit) = shared.admission.admit(incoming.remote_address().ip()) else {
        count("refused");
        incoming.refuse();
        return;
    };
    shared.metrics.accepted.inc();
    let in_progress = InProgress::begin(handshakes);
    shared
        .admission
        .start(shared.config.handshake_timeout, |unproven| {
            let handshake = handshake(shared.clone(), incoming, in_progress, unproven, permit);
            tokio::spawn(handshake).abort_handle()
        });
}

/// One connection until its session begins.
async fn handshake(
    shared: Arc<Shared>,
    incoming: Incoming,
    in_progress: InProgress,
    unproven: Unproven,
    permit: Permit,
) {
    let connected = match incoming.accept() {
        Ok(connecting) => connecting.await,
        Err(error) => Err(error),
    };
    drop(in_progress);
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            shared.metrics.quic_handshakes.with(&["failed"]).inc();
            tracing::debug!(%error, "QUIC handshake failed");
            return;
        }
    };
    shared.metrics.quic_handshakes.with(&["done"]).inc();
    let (protocol, name) = agreed(&connection);
    let patience = shared.config.header_timeout;
    // Long enough that whoever opens no stream is told so.
    unproven.prolong(patience + shared.config.close_timeout);
    if protocol.as_deref() == Some(webtransport::ALPN) {
        let session = webtransport::accept(&shared, &connection, &unproven);
        match tokio::time::timeout(patience, session).await {
            Ok(Some((carrier, opening))) => begin(shared, carrier, opening, unproven, permit),
            Ok(None) => {}
            Err(_) => webtransport::too_late(&connection),
        }
        return;
    }
    let (send, recv) = match tokio::time::timeout(patience, connection.accept_bi()).await {
        Ok(Ok(stream)) => stream,
        // It ended by itself.
        Ok(Err(_)) => return,
        Err(_) => return close(&connection, Disconnect::Stale.into()),
    };
    if (shared.connects.enter(|| unproven.aside()).await).is_err() {
        shared.metrics.upgrades_refused.with(&["storm"]).inc();
        return close(&connection, Disconnect::Shutdown.into());
    }
    if shared.snapshot.load().revision == 0 {
        // No placement yet: there is nobody to be served by.
        return close(&connection, Disconnect::Shutdown.into());
    }
    let opening = Opening {
        transport: Transport::Quic,
        dialect: Dialect::Protobuf,
        frame_ping: false,
        instance: shared.instance_of(name.as_deref()),
        foreign_origin: None,
        headers: None,
    };
    let carrier = QuicStream::new(connection, send, recv);
    begin(shared, carrier, opening, unproven, permit);
}

fn begin<C: Carrier>(
    shared: Arc<Shared>,
    carrier: C,
    opening: Opening,
    unproven: Unproven,
    permit: Permit,
) {
    unproven.hand_over(|unproven| {
        let framing = Stream::new(opening.dialect, shared.config.frame_bytes_max);
        let session = Session::new(shared, carrier, framing, &[], opening, unproven, permit);
        tokio::spawn(session).abort_handle()
    });
}

/// The protocol that was agreed on, and the host name that the client asked for.
fn agreed(connection: &Connection) -> (Option<Vec<u8>>, Option<String>) {
    let data = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok());
    data.map_or((None, None), |data| (data.protocol, data.server_name))
}
