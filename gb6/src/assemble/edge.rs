//! `gb6 edge`: serves clients, and reaches the regions over the mesh.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::CloseCode;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{InstanceId, Role};
use gb6_edge_node::{CertificateSource, Edge, EdgeConfig, EdgeDeps};
use tokio::sync::watch;

use super::busy::{Busy, explain};
use super::console;
use super::node::{NodeParts, TlsFiles, dial_only, local_node, placement};
use super::node_metrics;
use super::outbound::outbound;
use super::process::Stop;
use super::ready::{NodeReady, QuicReady, VERSION, absolute, http_url, print_line, ws_url};
use super::reload::{NodeReload, Source};
use crate::config::{ClientsTable, EdgeFile};

/// Keys that are in force when the file is read again.
const APPLIED: [&str; 3] = [
    "drain",
    "clients.connects_per_second",
    "clients.connect_wait",
];
/// How long peers may take to learn that the node is gone.
const GOODBYE: Duration = Duration::from_millis(500);

/// Runs until it is told to stop.
pub(crate) async fn run_edge(
    file: EdgeFile,
    source: Source<EdgeFile>,
    ready_json: bool,
    stop: Stop,
) -> anyhow::Result<()> {
    let mut parts = NodeParts::new();
    let reload = NodeReload::new(source, file.clone(), &parts.metrics)?;
    let files = TlsFiles {
        ca: &file.mesh.ca,
        cert: &file.mesh.cert,
        key: &file.mesh.key,
    };
    let tls = files.load(&file.name, Role::Edge)?;
    let endpoint = dial_only(&tls, local_node(&file.name, &[Role::Edge])?)?;
    parts.registrations.push(node_metrics::mesh(
        &parts.metrics,
        &file.name,
        endpoint.stats(),
    ));
    let data_dir = Path::new(&file.data_dir);
    // Before there is a placement, which geo may keep it waiting for: whoever looks after the node
    // sees that it lives, and what it waits for.
    let (place, snapshot) = watch::channel(Arc::default());
    let deps = EdgeDeps {
        snapshot,
        endpoint: endpoint.clone(),
        metrics: parts.metrics.clone(),
        health: parts.health.clone(),
        assets: console::assets(),
    };
    let mut config = settings(&file);
    config.outbound = outbound(&file.outbound.allow, &file.outbound.ca)?;
    let mut edge = Edge::start(config, deps).map_err(|error| {
        let busy = Busy::of_edge(&error, file.http);
        explain(error, &busy)
    })?;
    let placed = placement(&mut parts, data_dir, &file.mesh.geo, &endpoint, &stop).await?;
    if let Some(placed) = &placed {
        tokio::spawn(pass_on(placed.snapshot.clone(), place));
    }
    if placed.is_some() && parts.ready(&stop).await.is_some() {
        let (addr, tls) = (edge.local_addr(), edge.is_tls());
        eprintln!("gb6 edge {} is ready at {}", file.name, http_url(addr, tls));
        if ready_json {
            print_line(&NodeReady {
                ready: true,
                version: VERSION,
                pid: std::process::id(),
                role: Role::Edge.as_str(),
                node: &file.name,
                http: http_url(addr, tls),
                admin: edge.admin_addr().map(|admin| http_url(admin, false)),
                ws: Some(ws_url(addr, tls)),
                quic: QuicReady::of(&edge),
                mesh: None,
                data_dir: absolute(data_dir),
            })?;
        }
        let in_force = |file: &EdgeFile| {
            let clients = &file.clients;
            let wait = Duration::from_millis(clients.connect_wait.0);
            edge.set_connects(connects_per_second(clients), wait);
        };
        let file = reload.run(&stop, &APPLIED, in_force).await;
        edge.set_drain_window(Duration::from_millis(file.drain.0));
    }
    edge.drain().await;
    endpoint
        .close(CloseCode::Draining, "the edge stops", GOODBYE)
        .await;
    Ok(())
}

/// Gives the edge every placement that comes.
async fn pass_on(mut from: watch::Receiver<Arc<Snapshot>>, place: watch::Sender<Arc<Snapshot>>) {
    loop {
        place.send_replace(from.borrow_and_update().clone());
        if from.changed().await.is_err() {
            return;
        }
    }
}

/// How many sessions may begin each second; `None`: any number.
fn connects_per_second(clients: &ClientsTable) -> Option<u32> {
    Some(clients.connects_per_second).filter(|n| *n > 0)
}

/// What a file says of clients, as the edge has it.
pub(super) fn bound_clients(config: &mut EdgeConfig, clients: &ClientsTable) {
    config.connections_max =
        (clients.connections_max > 0).then_some(clients.connections_max as usize);
    config.connections_per_address =
        (clients.connections_per_address > 0).then_some(clients.connections_per_address as usize);
    config.connects_per_second = connects_per_second(clients);
    config.connect_wait = Duration::from_millis(clients.connect_wait.0);
    config.outbox_bytes = usize::try_from(clients.queue.0).unwrap_or(usize::MAX);
    config.write_timeout = Duration::from_millis(clients.write.0);
    config.revocations.hold_max =
        (clients.revocations_wait.0 > 0).then(|| Duration::from_millis(clients.revocations_wait.0));
    config.session.ping_interval_ms = clients.ping.0;
    config.session.pong_timeout_ms = clients.pong.0;
    config.session.connect_timeout_ms = clients.connect.0;
}

/// The certificate for clients that a file names.
pub(super) fn certificate_files(certificate: &str, key: &str) -> Option<CertificateSource> {
    (!certificate.is_empty()).then(|| CertificateSource::Files {
        certificate: PathBuf::from(certificate),
        key: PathBuf::from(key),
    })
}

/// What the file says, as the edge has it.
fn settings(file: &EdgeFile) -> EdgeConfig {
    let mut config = EdgeConfig::new(file.http, InstanceId::from(file.default_instance.as_str()));
    config.admin = Some(file.admin);
    config.dev_tokens = file.dev_tokens;
    config.data_dir = Some(PathBuf::from(&file.data_dir));
    config.certificate = certificate_files(&file.tls_cert, &file.tls_key);
    config.tls = config.certificate.is_some();
    config.quic = file.quic.0;
    config.drain_window = Duration::from_millis(file.drain.0);
    bound_clients(&mut config, &file.clients);
    config.session.version = VERSION.to_owned();
    config.session.node = file.name.clone();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_defaults_are_the_edges() {
        let file = EdgeFile::default();
        let mut edge = EdgeConfig::new(file.http, InstanceId::from("demo"));
        edge.data_dir = Some(PathBuf::from(&file.data_dir));
        edge.admin = Some(file.admin);
        edge.session.version = VERSION.to_owned();
        edge.session.node = file.name.clone();
        assert_eq!(format!("{:?}", settings(&file)), format!("{edge:?}"));
    }
}
