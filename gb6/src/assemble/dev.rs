//! `gb6 dev`: every role in one process, joined by links in memory, on embedded storage.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use gb6_core_mesh::{MemoryNetwork, Timing};
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::Key;
use gb6_core_model::{Allow, Capability, InstanceId, NodeId, Role};
use gb6_edge_node::{
    CertificateSource, Edge, EdgeConfig, EdgeDeps, EdgeHandle, SelfMade, TokenRequest, issue_token,
};
use gb6_geo_config_plan::{DEMO_INSTANCE, DEMO_REGION};
use gb6_region_node::{Region, RegionConfig, RegionDeps};
use tokio::sync::watch;

use super::busy::{Busy, explain};
use super::console;
use super::dev_keys::DevKeys;
use super::dev_reload::{DevPlan, Reloader};
use super::edge::{bound_clients, certificate_files};
use super::node::{NodeParts, local_node};
use super::node_metrics;
use super::outbound::outbound;
use super::process::Stop;
use super::ready::{DevReady, QuicReady, VERSION, absolute, http_url, print_line, ws_url};
use super::stores::{Opened, Opening, Ready, Storage};
use crate::config::{DevFile, DevSetup, Overrides, USUAL_QUIC};

/// The node that owns the shards.
const REGION_NODE: &str = "dev-region";
/// The node that serves the clients.
const EDGE_NODE: &str = "dev-edge";
/// How long the two tokens are valid, in seconds.
const TOKEN_TTL_S: i64 = 3600;

/// What `gb6 dev` was asked for.
#[derive(Clone, Debug)]
pub(crate) struct DevConfig {
    /// What the file, variables and flags say.
    pub(crate) setup: DevSetup,
    /// The file, to be read again at SIGHUP; `None`: there is none.
    pub(crate) path: Option<PathBuf>,
    /// What goes over it.
    pub(crate) overrides: Overrides<DevFile>,
    /// Whether to print the line for programs.
    pub(crate) ready_json: bool,
}

/// Runs until it is told to stop.
pub(crate) async fn run_dev(config: DevConfig, stop: Stop) -> anyhow::Result<()> {
    let began = Instant::now();
    let parts = NodeParts::new();
    let data_dir = PathBuf::from(&config.setup.file.data_dir);
    let storage = Storage::open(&data_dir)?;
    let (region_node, edge_node) = (NodeId::from(REGION_NODE), NodeId::from(EDGE_NODE));
    let mut plan = DevPlan {
        data_dir: data_dir.clone(),
        keys: DevKeys::load_or_create(&data_dir)?,
        region_node: region_node.clone(),
        edge_node,
    };
    let snapshot = plan.snapshot(1, config.setup.instances.as_ref())?;
    let instance = config.setup.default_instance();
    let key = plan
        .keys
        .token_key(instance.as_str())
        .context("the default instance has no key")?;
    let api_key = plan
        .keys
        .api_key(instance.as_str())
        .context("the default instance has no API key")?;
    let shards = snapshot.regions.get(DEMO_REGION).map_or(0, |r| r.shards);
    let (placement, planned) = watch::channel(Arc::new(snapshot));
    // Everybody learns of an instance when there are keys for its records.
    let opening = Opening {
        table: &config.setup.file.stores,
        data_dir: &data_dir,
        node: &region_node,
        region: DEMO_REGION.to_owned(),
        shards,
    };
    let Ready {
        opened,
        record_keys: keys,
        snapshot,
        storage,
        mut parts,
    } = opening.open(storage, parts, planned).await?;

    let reloader = match &config.path {
        Some(path) => {
            let file = (path.clone(), config.overrides.clone());
            let running = config.setup.clone();
            Some(Reloader::new(
                file,
                running,
                plan,
                placement,
                &parts.metrics,
            )?)
        }
        None => None,
    };

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
        &config.setup,
        EdgeDeps {
            snapshot: snapshot.clone(),
            endpoint: at_edge,
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
            assets: console::assets(),
        },
    )?;
    parts.registrations.push(storage.metrics(&parts.metrics));
    let mut region = RegionConfig::new(region_node);
    let reach = &config.setup.file.outbound;
    region.outbound = outbound(&reach.allow, &reach.ca)?;
    let Opened {
        open_log,
        rooms,
        signals,
        statuses,
        limiter,
        map,
        events,
        ..
    } = opened;
    region.events = events;
    let region = Region::start(
        region,
        RegionDeps {
            endpoint: at_region,
            snapshot,
            open_log,
            rooms,
            limiter,
            signals,
            statuses,
            map,
            keys,
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
        },
    )?;

    if parts.ready(&stop).await.is_some() {
        let told = Told {
            config: &config,
            instance: &instance,
            key: &key,
            api_key: &api_key.secret,
            data_dir: &data_dir,
        };
        told.tell(&edge, began.elapsed())?;
        match reloader {
            Some(reloader) => reloader.run(&stop).await,
            None => stop.asked().await,
        }
    }
    edge.drain().await;
    region.drain().await;
    Ok(())
}

fn start_edge(setup: &DevSetup, deps: EdgeDeps) -> anyhow::Result<EdgeHandle> {
    let file = &setup.file;
    let mut edge = EdgeConfig::new(file.http, setup.default_instance());
    // Whoever reaches the address may sign in as anybody, so only this machine may.
    edge.dev_tokens = file.http.ip().is_loopback();
    edge.loopback_origins = true;
    edge.quic = file.quic.0.map(|quic| quic_address(quic, file.http));
    // Nobody who did not ask for the usual port is to be kept from starting by it.
    edge.quic_elsewhere = file.quic.0 == Some(USUAL_QUIC);
    let files = certificate_files(&file.tls_cert, &file.tls_key);
    edge.tls = file.tls || files.is_some();
    edge.certificate = Some(files.unwrap_or_else(|| {
        let ips: Vec<_> = [Some(file.http), edge.quic]
            .into_iter()
            .flatten()
            .map(|address| address.ip())
            .collect();
        CertificateSource::SelfMade(SelfMade::new(&ips))
    }));
    edge.drain_window = Duration::from_millis(file.drain.0);
    bound_clients(&mut edge, &file.clients);
    edge.data_dir = Some(PathBuf::from(&file.data_dir));
    edge.outbound = outbound(&file.outbound.allow, &file.outbound.ca)?;
    edge.session.version = VERSION.to_owned();
    edge.session.node = EDGE_NODE.to_owned();
    Edge::start(edge, deps).map_err(|error| {
        let busy = Busy::of_edge(&error, file.http);
        explain(error, &busy)
    })
}

/// The address for QUIC: any port will do where any will do for HTTP.
fn quic_address(wanted: SocketAddr, http: SocketAddr) -> SocketAddr {
    match wanted == USUAL_QUIC && http.port() == 0 {
        true => SocketAddr::new(wanted.ip(), 0),
        false => wanted,
    }
}

/// What is told when everything is ready.
struct Told<'a> {
    config: &'a DevConfig,
    instance: &'a InstanceId,
    key: &'a Key,
    api_key: &'a str,
    data_dir: &'a Path,
}

impl Told<'_> {
    fn tell(&self, edge: &EdgeHandle, took: Duration) -> anyhow::Result<()> {
        let (addr, tls) = (edge.local_addr(), edge.is_tls());
        let dir = self.data_dir.display();
        let (instance, key) = (self.instance, self.key);
        eprintln!(
            "gb6 {VERSION} is ready after {:.1} s: every role in one process, data in {dir}",
            took.as_secs_f64()
        );
        eprintln!();
        eprintln!("  console    {}", http_url(addr, tls));
        eprintln!("  WebSocket  {}", ws_url(addr, tls));
        if let Some(quic) = QuicReady::of(edge) {
            let QuicReady { addr, cert_sha256 } = quic;
            eprintln!("  QUIC       {addr} (UDP), certificate {cert_sha256}");
        }
        eprintln!(
            "  health     {}/readyz, metrics at /metrics",
            http_url(addr, tls)
        );
        eprintln!();
        eprintln!("Open the console in two tabs and chat: each tab may be another person.");
        if !console::is_built() {
            eprintln!(
                "The console is not in this binary: run scripts/console.sh, then build again."
            );
        }
        if !addr.ip().is_loopback() {
            eprintln!("{addr} is not loopback, so the console gives no tokens to whoever asks.");
        }
        match (&self.config.path, &self.config.setup.instances) {
            (Some(path), Some(instances)) => {
                let names: Vec<&str> = instances.keys().map(|id| id.as_str()).collect();
                eprintln!(
                    "Instances of {}, read again at SIGHUP: {}.",
                    path.display(),
                    names.join(", ")
                );
            }
            _ => eprintln!(
                "The instance `{DEMO_INSTANCE}` has no rate limit. Its rooms are room:…, kept for ever."
            ),
        }
        eprintln!("A token for your own client:");
        let of = match instance.as_str() {
            DEMO_INSTANCE => String::new(),
            other => format!(" --instance {other}"),
        };
        eprintln!(
            "  gb6 token create --data-dir {dir}{of} --user carol --channels 'room:*' --allow \
         sub,pub,prs,hst"
        );
        eprintln!("A message from your own server, with KEY from api_keys in {dir}/keys.json:");
        eprintln!(
            "  curl -H \"X-API-Key: $KEY\" -d '{{\"channel\": \"room:lobby\", \"data\": \"hello\"}}' \
             {}/api/publish",
            http_url(addr, tls)
        );
        eprintln!("Ctrl-C stops it; messages and sign-ins are there at the next start.");
        if self.config.ready_json {
            print_line(&DevReady {
                ready: true,
                version: VERSION,
                pid: std::process::id(),
                instance: instance.as_str(),
                http: http_url(addr, tls),
                ws: ws_url(addr, tls),
                quic: QuicReady::of(edge),
                hmac_secret: &key.secret,
                api_key: self.api_key,
                tokens: BTreeMap::from([
                    ("alice", token(key, "alice")?),
                    ("bob", token(key, "bob")?),
                ]),
                data_dir: absolute(self.data_dir),
            })?;
        }
        Ok(())
    }
}

/// A token that may do everything a member may in rooms of the namespace `room`.
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
