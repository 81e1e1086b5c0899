//! Everything that an edge can be told, with its defaults, and what contradicts itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gb6_core_model::{InstanceId, limits};
use gb6_core_outbound::OutboundConfig;
use gb6_edge_session::{HubConfig, SessionConfig};

use crate::auth::KeySetTiming;
use crate::proxies::ProxyBounds;
use crate::revocation::RevocationConfig;
use crate::tls::CertificateSource;

/// The settings of one edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Where clients connect: WebSocket, console, health. Port 0: any.
    pub http: SocketAddr,
    /// Where the server API and metrics are, with health, and then nowhere else; `None`: at `http`.
    /// Port 0: any.
    pub admin: Option<SocketAddr>,
    /// The certificate that is shown to clients; `None`: there is neither TLS nor QUIC.
    pub certificate: Option<CertificateSource>,
    /// Whether `http` speaks TLS.
    pub tls: bool,
    /// Where clients connect by QUIC; `None`: they do not. Port 0: any.
    pub quic: Option<SocketAddr>,
    /// Whether any other port of that address will do where the port is taken.
    pub quic_elsewhere: bool,
    /// How often the files of the certificate are looked at.
    pub certificate_check: Duration,
    /// The instance of a connection whose host name and token name none.
    pub default_instance: InstanceId,
    /// Whether `POST /dev/token` gives a token to whoever asks. Only on a loopback address.
    pub dev_tokens: bool,
    /// Whether pages from any loopback origin may connect: for development.
    pub loopback_origins: bool,
    /// Connections at most; `None`: as many as the process may have files open, less
    /// `file_reserve`.
    pub connections_max: Option<usize>,
    /// Connections of one IPv4 address, or of one IPv6 /64; `None`: any number. Not for an edge
    /// behind a proxy, whose address all of them have.
    pub connections_per_address: Option<usize>,
    /// Sessions that may begin each second, of a second's worth at once; `None`: any number.
    pub connects_per_second: Option<u32>,
    /// How long one more may wait for its turn before it is told to come back later.
    pub connect_wait: Duration,
    /// Files kept free for everything that is no client connection.
    pub file_reserve: usize,
    /// Connections at most that have not shown a valid token; `None`: half of all. The oldest of
    /// them is dropped for a new one.
    pub half_open_max: Option<usize>,
    /// How long a TLS or QUIC handshake may take: three lost packets in a row cost QUIC 7 s.
    pub handshake_timeout: Duration,
    /// How long a connection may take for the head of a request, or to open its stream, and an
    /// idle one is kept.
    pub header_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// Bytes that may wait for one client before it is disconnected as slow (3008).
    pub outbox_bytes: usize,
    /// Largest incoming WebSocket message in bytes.
    pub frame_bytes_max: usize,
    /// How long a client may take to answer a close frame.
    pub close_timeout: Duration,
    /// How long a client that was given up (3008, 3009) may take to take the close frame before the
    /// connection is cut.
    pub slow_close_timeout: Duration,
    /// How long a client may take nothing at all of what waits for it before that is dropped and
    /// it is disconnected (3009).
    pub write_timeout: Duration,
    /// Over how long the sessions of a draining edge are told to reconnect.
    pub drain_window: Duration,
    /// Granularity of pings, deadlines and timeouts.
    pub tick: Duration,
    /// Requests that may wait for the task of one shard; further ones are answered 111.
    pub shard_inbox_max: usize,
    /// Where what the edge fetches is kept; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// Which servers of customers may be reached, and how.
    pub outbound: OutboundConfig,
    /// When key sets are fetched.
    pub key_sets: KeySetTiming,
    /// How revocations are followed and kept.
    pub revocations: RevocationConfig,
    /// The bounds of the applications' backends.
    pub proxies: ProxyBounds,
    /// Subscriptions ended a second because the log can not continue them, over all shards: the
    /// clients come back at once.
    pub evictions_per_second: u64,
    /// Settings of the sessions.
    pub session: SessionConfig,
    /// Settings of the rooms' hubs.
    pub hub: HubConfig,
}

impl EdgeConfig {
    /// The defaults, for an edge that listens on `http`.
    pub fn new(http: SocketAddr, default_instance: InstanceId) -> Self {
        Self {
            http,
            admin: None,
            certificate: None,
            tls: false,
            quic: None,
            quic_elsewhere: false,
            certificate_check: Duration::from_secs(1),
            default_instance,
            dev_tokens: false,
            loopback_origins: false,
            connections_max: None,
            connections_per_address: None,
            connects_per_second: Some(5_000),
            connect_wait: Duration::from_secs(2),
            file_reserve: 256,
            half_open_max: None,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            outbox_bytes: limits::SESSION_QUEUE_BYTES_MAX,
            frame_bytes_max: limits::CLIENT_FRAME_BYTES_MAX,
            close_timeout: Duration::from_secs(5),
            slow_close_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(30),
            drain_window: Duration::from_secs(10),
            tick: Duration::from_millis(250),
            shard_inbox_max: 65_536,
            data_dir: None,
            outbound: OutboundConfig::default(),
            key_sets: KeySetTiming::default(),
            revocations: RevocationConfig::default(),
            proxies: ProxyBounds::default(),
            evictions_per_second: 500,
            session: SessionConfig::default(),
            hub: HubConfig::default(),
        }
    }

    /// Checks what can be wrong before anything is started.
    ///
    /// # Errors
    /// The first contradiction, with what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.dev_tokens && !self.http.ip().is_loopback() {
            return Err(ConfigError::DevTokensInPublic(self.http));
        }
        if self.certificate.is_none() {
            if self.tls {
                return Err(ConfigError::NoCertificate("TLS"));
            }
            if self.quic.is_some() {
                return Err(ConfigError::NoCertificate("QUIC"));
            }
        }
        if !self.session.ping_interval_ms.is_multiple_of(1000) {
            return Err(ConfigError::PingInterval(self.session.ping_interval_ms));
        }
        Ok(())
    }
}

/// What is wrong with an [`EdgeConfig`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Anybody who reaches the address could sign in as anybody.
    #[error(
        "dev_tokens gives a token to whoever asks, and {0} can be reached from other machines: \
         listen on 127.0.0.1, or turn dev_tokens off and make tokens with `gb6 token create`"
    )]
    DevTokensInPublic(SocketAddr),
    /// What is to be spoken needs a certificate.
    #[error("{0} needs a certificate and its key")]
    NoCertificate(&'static str),
    /// Clients are told the interval in seconds.
    #[error("the ping interval of {0} ms is no whole number of seconds")]
    PingInterval(u64),
}
