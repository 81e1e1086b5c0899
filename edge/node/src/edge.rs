//! Starting an edge, and bringing it to an end without losing anybody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{Backoff, Endpoint};
use gb6_core_model::{Disconnect, snapshot::Snapshot};
use gb6_core_obs::{Component, Health, Metrics, Registration};
use gb6_core_outbound::Outbound;
use gb6_edge_session::drain_turn;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::accept;
use crate::admin;
use crate::admission::Admission;
use crate::auth::install_crypto;
use crate::auth::jwks::KeySets;
use crate::config::{ConfigError, EdgeConfig};
use crate::connection::handle::Event;
use crate::http::assets::AssetSource;
use crate::limits;
use crate::metrics::EdgeMetrics;
use crate::owners;
use crate::proxies::Proxies;
use crate::quic::{self, QuicListener};
use crate::relay::{self, Relays};
use crate::shards::Shards;
use crate::shared::{Shared, SharedParts};
use crate::tls::{self, CertificateError, Certificates};
use crate::webtransport;

/// Waits between dials of a region: below the time that a publish waits for its answer.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(20),
    longest: Duration::from_secs(1),
    settled: Duration::from_secs(5),
};

/// What an edge is given.
pub struct EdgeDeps {
    /// The placement, as it changes. Revision 0 says that there is none yet: the edge answers for its
    /// health meanwhile, is not ready, and refuses WebSockets.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Where links to regions go out from.
    pub endpoint: Endpoint,
    /// Where metrics are registered, and what `/metrics` shows.
    pub metrics: Metrics,
    /// Where readiness is shown, and what `/readyz` answers.
    pub health: Health,
    /// The console's files.
    pub assets: AssetSource,
}

/// Why an edge could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The settings contradict themselves.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address can not be listened on.
    #[error("can not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The address of the server API and metrics can not be listened on.
    #[error("can not listen on {address} for the server API and metrics: {source}")]
    ListenAdmin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The UDP address can not be listened on.
    #[error("can not listen for QUIC on {address} (UDP): {source}")]
    ListenQuic {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificate for clients can not be used.
    #[error("the certificate for clients is not usable: {0}")]
    Certificate(#[from] CertificateError),
    /// An authority for outbound requests is no certificate.
    #[error("an authority for requests to customers' servers is no certificate: {0}")]
    Authority(rustls::Error),
    /// The process may open too few files.
    #[error(
        "the process may have {limit} files open, which leaves no room for clients beside the \
         {reserve} kept in reserve: raise it with `ulimit -n`"
    )]
    TooFewFiles {
        /// The limit.
        limit: usize,
        /// What is kept in reserve.
        reserve: usize,
    },
}

/// A running edge. Dropping it stops it at once; [`EdgeHandle::drain`] stops it kindly.
pub struct EdgeHandle {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    certificates: Option<Arc<Certificates>>,
    quic: Option<QuicListener>,
    /// Of QUIC, whose clients are refused while the edge drains.
    stop_accepting: watch::Sender<bool>,
    stop_listening: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    component: Arc<Component>,
    drain_window: Duration,
    _collectors: Vec<Registration>,
}

impl std::fmt::Debug for EdgeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeHandle")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// The role edge.
#[derive(Clone, Copy, Debug)]
pub struct Edge;

impl Edge {
    /// Listens and serves. Must be called within a tokio runtime. When it returns, connections
    /// are accepted.
    ///
    /// # Errors
    /// The settings are contradictory, the address is taken, or files are too few.
    pub fn start(mut config: EdgeConfig, deps: EdgeDeps) -> Result<EdgeHandle, EdgeError> {
        config.check()?;
        let node = deps.endpoint.local().identity.node.clone();
        name_sessions(&mut config, node.as_str());
        fit_queue(&mut config);
        install_crypto();
        let live_max = connections_max(&config)?;
        let half_open_max = config.half_open_max.unwrap_or(live_max / 2).max(1);
        let listen_error = |source| EdgeError::Listen {
            address: config.http,
            source,
        };
        let listener = accept::listen(config.http).map_err(listen_error)?;
        let local_addr = listener.local_addr().map_err(listen_error)?;
        let admin = match config.admin {
            Some(address) => {
                let error = |source| EdgeError::ListenAdmin { address, source };
                let listener = accept::listen(address).map_err(error)?;
                let bound = listener.local_addr().map_err(error)?;
                Some((listener, bound))
            }
            None => None,
        };
        let admin_addr = admin.as_ref().map(|(_, bound)| *bound);
        let component = Arc::new(deps.health.register("edge"));
        let metrics = EdgeMetrics::new(&deps.metrics);
        let certificates = match config.certificate.clone() {
            Some(source) => Some(Certificates::load(source, metrics.clone())?),
            None => None,
        };
        let tls = match &certificates {
            Some(certificates) if config.tls => {
                let settings =
                    tls::over_tcp(certificates.clone()).map_err(CertificateError::Unusable)?;
                Some(TlsAcceptor::from(settings))
            }
            _ => None,
        };
        let quic = match (&certificates, config.quic) {
            (Some(certificates), Some(address)) => {
                let settings =
                    tls::over_quic(certificates.clone(), &[quic::ALPN, webtransport::ALPN])
                        .map_err(CertificateError::Unusable)?;
                let listener = QuicListener::bind(address, settings, &config)
                    .map_err(|source| EdgeError::ListenQuic { address, source })?;
                Some(listener)
            }
            _ => None,
        };
        let mut placements = deps.snapshot;
        let snapshot = placements.borrow_and_update().clone();
        // What the edge works by: the placement, with the owners that regions tell.
        let (laid, snapshots) = watch::channel(snapshot.clone());
        let placed = snapshot.revision > 0;
        let outbound = Outbound::new(config.outbound.clone()).map_err(EdgeError::Authority)?;
        let outbound = Arc::new(outbound);
        let proxies = Proxies::new(outbound.clone(), config.proxies, &snapshot, &deps.metrics);
        let keys = KeySets::new(
            snapshot.clone(),
            outbound,
            config.data_dir.clone(),
            config.key_sets,
            &deps.metrics,
        );
        let shared = Arc::new(Shared::new(SharedParts {
            snapshot,
            keys,
            proxies,
            admission: Admission::new(
                live_max,
                half_open_max,
                config.connections_per_address,
                metrics.clone(),
            ),
            metrics,
            registry: deps.metrics.clone(),
            tls,
            health: deps.health,
            relays: Relays::new(deps.endpoint.local().identity.node.clone()),
            shards: Shards::new(deps.endpoint, BACKOFF),
            assets: deps.assets,
            config,
        }));
        // Nobody is here yet.
        let revision = shared.snapshot.load().revision;
        shared.shards.users_placed(revision);
        let (stop_accepting, _) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let (stop_listening, listening) = watch::channel(false);
        let mut tasks = vec![
            tokio::spawn(owners::run(
                shared.clone(),
                placements,
                laid,
                stopped.clone(),
            )),
            tokio::spawn(relay::run(
                shared.clone(),
                snapshots.clone(),
                stopped.clone(),
            )),
            tokio::spawn(accept::run(shared.clone(), listener, listening)),
            tokio::spawn(accept::sweep(shared.clone(), stopped.clone())),
            tokio::spawn(turn_wheel(shared.clone(), stopped.clone())),
            tokio::spawn(limits::run(shared.clone(), stopped.clone())),
            tokio::spawn(follow_snapshots(
                shared.clone(),
                snapshots,
                component.clone(),
                stopped.clone(),
            )),
        ];
        if let Some((listener, _)) = admin {
            let serves = admin::run(shared.clone(), listener, stopped.clone());
            tasks.push(tokio::spawn(serves));
        }
        if let Some(quic) = &quic {
            let accepting = stop_accepting.subscribe();
            tasks.push(tokio::spawn(quic.clone().run(shared.clone(), accepting)));
        }
        if let Some(certificates) = &certificates {
            let every = shared.config.certificate_check;
            tasks.push(tokio::spawn(certificates.clone().follow(every, stopped)));
        }
        let collectors = vec![collect(&shared, &deps.metrics)];
        tracing::info!(http = %local_addr, connections_max = live_max, "edge listens");
        if placed {
            component.ready();
        } else {
            component.not_ready("it has no placement yet, and can serve nobody");
        }
        Ok(EdgeHandle {
            drain_window: shared.config.drain_window,
            shared,
            local_addr,
            admin_addr,
            certificates,
            quic,
            stop_accepting,
            stop_listening,
            stop,
            tasks,
            component,
            _collectors: collectors,
        })
    }
}

#[cfg(test)]
impl EdgeHandle {
    /// What the edge's tasks share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl EdgeHandle {
    /// Where clients connect, with the port that was really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where the server API and metrics are, with the port that was really bound; `None`: where
    /// clients connect.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Where clients connect by QUIC, with the port that was really bound.
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref().map(QuicListener::local_addr)
    }

    /// Whether clients connect with TLS.
    pub fn is_tls(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// SHA-256 of the certificate that is shown to clients now; `None`: there is none.
    pub fn certificate_sha256(&self) -> Option<[u8; 32]> {
        self.certificates.as_ref().map(|c| c.sha256())
    }

    /// Sessions open now.
    pub fn sessions(&self) -> usize {
        self.shared.sessions()
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.shared.admission.live()
    }

    /// Over how long the sessions are told to reconnect when the edge drains.
    pub fn set_drain_window(&mut self, window: Duration) {
        self.drain_window = window;
    }

    /// How many sessions may begin each second from now on (`None`: any number), and how long one
    /// more may wait for its turn.
    pub fn set_connects(&self, per_second: Option<u32>, wait: Duration) {
        self.shared.connects.set(per_second, wait);
    }

    /// Is not ready and begins no session any more, tells those that are open to reconnect, spread
    /// over the drain window (at once when none is left), brings the publishes under way to an end,
    /// and stops. Until then it answers for its health, and refuses sessions with 503.
    pub async fn drain(mut self) {
        self.component.not_ready("draining");
        self.shared.health.drain();
        self.shared.api_gate.close();
        self.stop_accepting.send_replace(true);
        let shared = self.shared.clone();
        let handles = shared.begin_drain();
        let (count, window) = (handles.len(), self.drain_window);
        tracing::info!(sessions = count, "edge drains");
        let begin = Instant::now();
        for (i, handle) in handles.into_iter().enumerate() {
            let turn = begin + drain_turn(window, i, count);
            tokio::select! {
                biased;
                () = shared.empty() => break,
                () = tokio::time::sleep_until(turn) => {}
            }
            handle.outbox.event(Event::Shutdown(Disconnect::Shutdown));
        }
        // The last ones have as long as anybody for the close handshake.
        let until = Instant::now() + shared.config.close_timeout;
        while shared.websockets() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A request of the server API waits no longer than a publish does.
        let until = Instant::now() + Duration::from_millis(shared.config.hub.answer_ms);
        while shared.api_gate.inside() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shared.revocations.stop();
        shared.shards.stop().await;
        if let Some(quic) = self.quic.take() {
            quic.close().await;
        }
        self.stop_listening.send_replace(true);
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            // An error says that it was aborted or panicked: it has ended.
            let _ = task.await;
        }
        tracing::info!("edge drained");
    }
}

impl Drop for EdgeHandle {
    fn drop(&mut self) {
        self.stop_accepting.send_replace(true);
        self.stop_listening.send_replace(true);
        self.stop.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        self.shared.revocations.stop();
        self.shared.shards.abort();
        for handle in self.shared.begin_drain() {
            handle.outbox.event(Event::Shutdown(Disconnect::Shutdown));
        }
    }
}

/// How many connections there may be: as configured, but never more than the files allow.
fn connections_max(config: &EdgeConfig) -> Result<usize, EdgeError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let room = limit.saturating_sub(config.file_reserve);
    if room == 0 {
        return Err(EdgeError::TooFewFiles {
            limit,
            reserve: config.file_reserve,
        });
    }
    Ok(config.connections_max.map_or(room, |max| max.min(room)))
}

/// What clients are told of this node, where the settings leave it out.
fn name_sessions(config: &mut EdgeConfig, node: &str) {
    if config.session.node.is_empty() {
        config.session.node = node.to_owned();
    }
    if config.session.version.is_empty() {
        config.session.version = env!("CARGO_PKG_VERSION").to_owned();
    }
}

/// Replies and gaps leave most of a client's queue to live messages, however short it is.
fn fit_queue(config: &mut EdgeConfig) {
    let quarter = (config.outbox_bytes / 4).max(1);
    for bytes in [
        &mut config.session.bulk_low_water_bytes,
        &mut config.session.commands_high_water_bytes,
        &mut config.hub.fill_step_bytes,
        &mut config.hub.fill_backlog_bytes,
    ] {
        *bytes = (*bytes).min(quarter);
    }
}

async fn turn_wheel(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(shared.wheel.tick());
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = every.tick() => shared.wheel.turn(shared.clock.now_ms()),
        }
    }
}

async fn follow_snapshots(
    shared: Arc<Shared>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    component: Arc<Component>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let changed = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = snapshots.changed() => changed,
        };
        if changed.is_err() {
            // Nobody will send a newer one: the last one stays.
            return;
        }
        let snapshot = snapshots.borrow_and_update().clone();
        if shared.snapshot.load().revision == snapshot.revision {
            tracing::debug!("shards have other owners");
        } else {
            tracing::info!(revision = snapshot.revision, "new placement snapshot");
        }
        // Nothing may be told again, which places nobody.
        let placed = snapshot.revision > 0;
        let first = placed && shared.place(snapshot).revision == 0;
        if first {
            component.ready();
        }
    }
}

/// Shows the sessions' counters and the shards' state on `/metrics`.
fn collect(shared: &Arc<Shared>, metrics: &Metrics) -> Registration {
    let shared = Arc::downgrade(shared);
    metrics.collect(move |out| {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for (event, count) in shared.counters.all() {
            out.counter(
                "gb6_edge_session_events_total",
                "Events of sessions, by what happened.",
                &[("event", event)],
                count,
            );
        }
        for (code, count) in shared.counters.error_codes.all() {
            out.counter(
                "gb6_edge_errors_total",
                "Commands answered with an error, by its code.",
                &[("code", &code.code().to_string())],
                count,
            );
        }
        shared.keys.collect(shared.clock.unix_ms(), out);
        shared.proxies.collect(out);
        shared.revocations.collect(out);
        shared.shards.collect(out);
        shared.limits.collect(shared.clock.now_ms(), out);
        let (unanswered, relays, edges) = shared.relays.gauges();
        for (name, help, value) in [
            (
                "gb6_edge_relay_unanswered",
                "Questions to other edges without an answer.",
                unanswered,
            ),
            (
                "gb6_edge_body_bytes",
                "Bytes that large bodies of requests hold while they are read.",
                shared.body_bytes.held(),
            ),
            (
                "gb6_edge_relays",
                "Relays that this edge is attached to.",
                relays,
            ),
            (
                "gb6_edge_relay_edges",
                "Edges that the relays reach, this one included.",
                edges,
            ),
        ] {
            out.gauge(name, help, &[], value as f64);
        }
    })
}
