//! `gb6 dev`: every role in one process, joined by links in memory, on embedded storage.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use gb6_core_mesh::{MemoryNetwork, Timing};
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::Key;
use gb6_core_model::{Allow, Capability, InstanceId, NodeId, Role};
use gb6_edge_node::{Edge, EdgeConfig, EdgeDeps, EdgeHandle, TokenRequest, issue_token};
use gb6_geo_config_plan::{DEMO_INSTANCE, DemoMesh, demo_snapshot};
use gb6_region_node::{Region, RegionConfig, RegionDeps};
use tokio::sync::watch;

use super::busy::{Busy, explain};
use super::console;
use super::dev_keys::DevKeys;
use super::node::{NodeParts, local_node};
use super::node_metrics;
use super::port_owner::Protocol;
use super::process::Stop;
use super::ready::{DevReady, VERSION, absolute, http_url, print_line, ws_url};
use super::record_keys::KeyFile;
use super::storage::Storage;

/// The node that owns the shards.
const REGION_NODE: &str = "dev-region";
/// The node that serves the clients.
const EDGE_NODE: &str = "dev-edge";
/// Over how long clients are told to reconnect.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the two tokens are valid, in seconds.
const TOKEN_TTL_S: i64 = 3600;

/// What `gb6 dev` was asked for.
#[derive(Clone, Debug)]
pub(crate) struct DevConfig {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// The address for clients and the console.
    pub(crate) http: SocketAddr,
    /// Whether to print the line for programs.
    pub(crate) ready_json: bool,
}

/// Runs until it is told to stop.
pub(crate) async fn run_dev(config: DevConfig, stop: Stop) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut parts = NodeParts::new();
    let storage = Storage::open(&config.data_dir)?;
    let keys = DevKeys::load_or_create(&config.data_dir)?;
    let key = keys.token_key();

    let (region_node, edge_node) = (NodeId::from(REGION_NODE), NodeId::from(EDGE_NODE));
    let snapshot = demo_snapshot(&DemoMesh {
        revision: 1,
        key_id: &key.id,
        secret: &key.secret,
        region_node: &region_node,
        edge_node: &edge_node,
    });
    let mut record_keys = KeyFile::open(&config.data_dir, &region_node, storage.has_logs())?;
    record_keys.cover(&snapshot)?;
    let (_placement, snapshot) = watch::channel(Arc::new(snapshot));

    let network = MemoryNetwork::new();
    let mut bind = |name: &str, role| -> anyhow::Result<_> {
        let endpoint = network.bind(local_node(name, &[role])?, Timing::default())?;
        parts
            .registrations
            .push(node_metrics::mesh(&parts.metrics, name, endpoint.stats()));
        Ok(endpoint)
    };
    let (at_region, at_edge) = (
        bind(REGION_NODE, Role::Region)?,
        bind(EDGE_NODE, Role::Edge)?,
    );

    // The edge first: a busy port is found before anything else is begun.
    let edge = start_edge(
        &config,
        EdgeDeps {
            snapshot: snapshot.clone(),
            endpoint: at_edge,
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
            assets: console::assets(),
        },
    )?;
    parts.registrations.push(storage.metrics(&parts.metrics));
    let region = Region::start(
        RegionConfig::new(region_node),
        RegionDeps {
            endpoint: at_region,
            snapshot,
            open_log: storage.open_log(),
            rooms: storage.rooms(&mut parts)?,
            keys: record_keys.keys(),
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
        },
    )?;

    if parts.ready(&stop).await.is_some() {
        tell(&config, &edge, &key, began.elapsed())?;
        stop.asked().await;
    }
    edge.drain().await;
    region.drain().await;
    Ok(())
}

fn start_edge(config: &DevConfig, deps: EdgeDeps) -> anyhow::Result<EdgeHandle> {
    let mut edge = EdgeConfig::new(config.http, InstanceId::from(DEMO_INSTANCE));
    // Whoever reaches the address may sign in as anybody, so only this machine may.
    edge.dev_tokens = config.http.ip().is_loopback();
    edge.loopback_origins = true;
    edge.drain_window = DRAIN;
    edge.session.version = VERSION.to_owned();
    edge.session.node = EDGE_NODE.to_owned();
    Edge::start(edge, deps).map_err(|error| {
        explain(
            error,
            &Busy {
                protocol: Protocol::Tcp,
                addr: config.http,
                flag: "--http",
            },
        )
    })
}

fn tell(config: &DevConfig, edge: &EdgeHandle, key: &Key, took: Duration) -> anyhow::Result<()> {
    let addr = edge.local_addr();
    let dir = config.data_dir.display();
    eprintln!(
        "gb6 {VERSION} is ready after {:.1} s: every role in one process, data in {dir}",
        took.as_secs_f64()
    );
    eprintln!();
    eprintln!("  console    {}", http_url(addr));
    eprintln!("  WebSocket  {}", ws_url(addr));
    eprintln!(
        "  health     {}/readyz, metrics at /metrics",
        http_url(addr)
    );
    eprintln!();
    eprintln!("Open the console in two tabs and chat: each tab may be another person.");
    if !console::is_built() {
        eprintln!("The console is not in this binary: run scripts/console.sh, then build again.");
    }
    if !addr.ip().is_loopback() {
        eprintln!("{addr} is not loopback, so the console gives no tokens to whoever asks.");
    }
    eprintln!(
        "The instance `{DEMO_INSTANCE}` has no rate limit. Its rooms are room:…, kept for ever."
    );
    eprintln!("A token for your own client:");
    eprintln!(
        "  gb6 token create --data-dir {dir} --user carol --channels 'room:*' --allow sub,pub,prs,hst"
    );
    eprintln!("Ctrl-C stops it; messages and sign-ins are there at the next start.");
    if config.ready_json {
        print_line(&DevReady {
            ready: true,
            version: VERSION,
            pid: std::process::id(),
            instance: DEMO_INSTANCE,
            http: http_url(addr),
            ws: ws_url(addr),
            hmac_secret: &key.secret,
            tokens: BTreeMap::from([("alice", token(key, "alice")?), ("bob", token(key, "bob")?)]),
            data_dir: absolute(&config.data_dir),
        })?;
    }
    Ok(())
}

/// A token that may do everything a member may in the demo instance's rooms.
fn token(key: &Key, user: &str) -> anyhow::Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let request = TokenRequest {
        user: user.to_owned(),
        now: i64::try_from(now.as_secs())?,
        ttl: Some(TOKEN_TTL_S),
        caps: Some(vec![Capability {
            channels: vec!["room:*".into()],
            matching: Match::Wildcard,
            allow: vec![
                Allow::Subscribe,
                Allow::Publish,
                Allow::Presence,
                Allow::History,
            ],
        }]),
        info: None,
    };
    Ok(issue_token(key, &request)?)
}
