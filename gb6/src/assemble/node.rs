//! What every node has, whatever its roles: an identity, metrics, health, a way into the mesh.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use gb6_core_mesh::snapshot::{FollowerConfig, GeoAddress, SnapshotFollower, SnapshotStore};
use gb6_core_mesh::{Endpoint, LocalNode, MeshTls, NodeIdentity, Timing};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, Role};
use gb6_core_obs::{Component, Health, Metrics, Registration};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::busy::{Busy, explain};
use super::node_metrics;
use super::port_owner::Protocol;
use super::process::Stop;

/// How often a node that still waits says what for.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// The parts.
pub(super) struct NodeParts {
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    /// Metrics end when these are dropped.
    pub(super) registrations: Vec<Registration>,
}

impl NodeParts {
    pub(super) fn new() -> Self {
        Self {
            metrics: Metrics::new(),
            health: Health::new(),
            registrations: Vec::new(),
        }
    }

    /// Waits until everything is ready, and says every now and then what is not; `None` if the
    /// process is to stop before.
    pub(super) async fn ready(&self, stop: &Stop) -> Option<()> {
        loop {
            let waited = tokio::time::timeout(STILL_WAITING, self.health.wait_ready());
            match stop.or(waited).await? {
                Ok(()) => return Some(()),
                Err(_) => {
                    let now = self.health.now();
                    tracing::warn!(waiting_for = ?now.not_ready(), "not ready yet");
                }
            }
        }
    }
}

/// This life of the process in `role`: its incarnation is random and never 0.
pub(super) fn local_node(name: &str, roles: &[Role]) -> anyhow::Result<LocalNode> {
    let identity = NodeIdentity::new(name, roles.iter().copied())?;
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    let incarnation = Incarnation(u64::from_ne_bytes(bytes).max(1));
    Ok(LocalNode::new(identity, incarnation))
}

/// The certificate files of a node.
pub(super) struct TlsFiles<'a> {
    pub(super) ca: &'a str,
    pub(super) cert: &'a str,
    pub(super) key: &'a str,
}

impl TlsFiles<'_> {
    /// Reads them, and checks that they are of node `name`.
    pub(super) fn load(&self, name: &str, role: Role) -> anyhow::Result<MeshTls> {
        let (ca, cert, key) = (
            Path::new(self.ca),
            Path::new(self.cert),
            Path::new(self.key),
        );
        let tls = MeshTls::load(ca, cert, key).with_context(|| {
            format!("node {name} needs a certificate: make one with `gb6 cert node --role {role} --name {name} --ca DIR`")
        })?;
        let identity = tls.identity();
        if identity.node.as_str() != name {
            bail!(
                "{} is of node {}, but this node is {name}: set name or mesh.cert",
                self.cert,
                identity.node
            );
        }
        if !identity.has_role(role) {
            bail!(
                "{} does not carry the role {role}: make one with `gb6 cert node --role {role}`",
                self.cert
            );
        }
        Ok(tls)
    }
}

/// Dials and accepts on `addr`.
pub(super) fn listen(
    addr: SocketAddr,
    tls: &MeshTls,
    local: LocalNode,
) -> anyhow::Result<Endpoint> {
    Endpoint::listen(addr, tls, local, Timing::default()).map_err(|error| {
        explain(
            error,
            &Busy {
                protocol: Protocol::Udp,
                addr,
                flag: "--mesh-listen",
            },
        )
    })
}

/// Dials only: over IPv6 and IPv4 where the machine has both.
pub(super) fn dial_only(tls: &MeshTls, local: LocalNode) -> anyhow::Result<Endpoint> {
    let any = |ip: std::net::IpAddr| SocketAddr::from((ip, 0));
    Endpoint::dial_only(
        any(Ipv6Addr::UNSPECIFIED.into()),
        tls,
        local.clone(),
        Timing::default(),
    )
    .or_else(|_| {
        Endpoint::dial_only(
            any(Ipv4Addr::UNSPECIFIED.into()),
            tls,
            local,
            Timing::default(),
        )
    })
    .context("no socket for the mesh can be had")
}

/// The placement: followed for as long as this lives.
pub(super) struct Placement {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    _follower: SnapshotFollower,
    _component: Component,
}

/// Follows the placement, from what was kept or else from geo; `None` if the process is to stop
/// before there is one.
pub(super) async fn placement(
    parts: &mut NodeParts,
    data_dir: &Path,
    geo: &[String],
    endpoint: &Endpoint,
    stop: &Stop,
) -> anyhow::Result<Option<Placement>> {
    let component = parts.health.register("snapshot");
    component.not_ready("no snapshot was kept, and geo has not been reached");
    let addresses: Result<Vec<GeoAddress>, String> = geo.iter().map(|g| g.parse()).collect();
    let config = FollowerConfig {
        store: SnapshotStore::in_dir(data_dir),
        geo: addresses.map_err(anyhow::Error::msg)?,
    };
    let follower = SnapshotFollower::start(config, endpoint.clone())?;
    parts
        .registrations
        .push(node_metrics::snapshot(&parts.metrics, follower.stats()));
    let snapshot = loop {
        match stop
            .or(tokio::time::timeout(STILL_WAITING, follower.ready()))
            .await
        {
            None => return Ok(None),
            Some(Ok(snapshot)) => break snapshot,
            Some(Err(_)) => tracing::warn!(?geo, "waiting for a first snapshot from geo"),
        }
    };
    component.ready();
    Ok(Some(Placement {
        snapshot,
        _follower: follower,
        _component: component,
    }))
}
