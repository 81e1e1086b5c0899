//! `gb6 geo`: serves the snapshot to every node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use gb6_core_model::Role;
use gb6_core_ports::Check;
use gb6_geo_config_node::{Geo, GeoConfig, POLL};
use tokio::signal::unix::{SignalKind, signal};

use super::admin_http::AdminHttp;
use super::directory::Databases;
use super::node::{NodeParts, TlsFiles, listen, local_node};
use super::node_metrics;
use super::process::Stop;
use super::ready::{NodeReady, VERSION, absolute, http_url, print_line};
use super::reload::{NodeReload, Source};
use crate::config::GeoFile;

/// How long peers may take to learn that the node is gone.
const GOODBYE: Duration = Duration::from_millis(500);

/// Connects to the databases that the file names, and says what is wrong with them and with the key file.
/// Changes nothing.
///
/// # Errors
/// Nothing could be looked at.
pub(crate) fn check_geo(file: &GeoFile) -> anyhow::Result<Vec<Check>> {
    let databases = Databases::of(&file.stores)
        .map_err(|problems| anyhow::anyhow!("{}: {}", problems[0].0, problems[0].1))?;
    let Some(databases) = databases else {
        return Ok(vec![Check::good("directory", "none is named")]);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no threads can be had")?;
    Ok(databases.check(runtime.handle()))
}

/// Runs until it is told to stop.
pub(crate) async fn run_geo(
    file: GeoFile,
    source: Source<GeoFile>,
    ready_json: bool,
    stop: Stop,
) -> anyhow::Result<()> {
    let databases = Databases::of(&file.stores)
        .map_err(|problems| anyhow::anyhow!("{}: {}", problems[0].0, problems[0].1))?;
    let mut parts = NodeParts::new();
    let reload = NodeReload::new(source, file.clone(), &parts.metrics)?;
    // Of the same signal, for the snapshot: it is looked at whatever the node's own file says.
    let mut hangup = signal(SignalKind::hangup()).context("signals can not be listened to")?;
    let files = TlsFiles {
        ca: &file.mesh.ca,
        cert: &file.mesh.cert,
        key: &file.mesh.key,
    };
    let tls = files.load(&file.name, Role::Geo)?;
    let endpoint = listen(
        file.mesh.listen,
        &tls,
        local_node(&file.name, &[Role::Geo])?,
    )?;
    let mesh = endpoint.local_addr();
    parts.registrations.push(node_metrics::mesh(
        &parts.metrics,
        &file.name,
        endpoint.stats(),
    ));
    let http = AdminHttp::start(file.http, parts.metrics.clone(), parts.health.clone()).await?;
    let config = GeoConfig {
        snapshot: PathBuf::from(&file.snapshot),
        data_dir: PathBuf::from(&file.data_dir),
        poll: POLL,
    };
    let directory = match &databases {
        Some(databases) => Some(databases.opener(&parts.metrics)?),
        None => None,
    };
    let geo = Geo::start(config, directory, endpoint, &parts.metrics, &parts.health).await?;
    eprintln!(
        "gb6 geo {} serves revision {} of {}{}; health and metrics at {}",
        file.name,
        geo.revision(),
        file.snapshot,
        databases.map_or_else(String::new, |databases| format!(" and {databases}")),
        http_url(http.addr, false)
    );
    if ready_json {
        print_line(&NodeReady {
            ready: true,
            version: VERSION,
            pid: std::process::id(),
            role: Role::Geo.as_str(),
            node: &file.name,
            http: http_url(http.addr, false),
            admin: None,
            ws: None,
            quic: None,
            mesh,
            data_dir: absolute(Path::new(&file.data_dir)),
        })?;
    }
    let snapshots = async {
        while hangup.recv().await.is_some() {
            geo.reload();
        }
        // No signal can come any more.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = reload.run(&stop, &[], |_| {}) => {}
        () = snapshots => {}
    }
    parts.health.drain();
    geo.drain(GOODBYE).await;
    Ok(())
}
