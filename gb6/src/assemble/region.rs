//! `gb6 region`: owns shards on embedded storage, and serves edges over the mesh.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::{NodeId, Role};
use gb6_core_ports::memory::MemoryRateLimiter;
use gb6_region_node::{Region, RegionConfig, RegionDeps};

use super::admin_http::AdminHttp;
use super::node::{NodeParts, TlsFiles, listen, local_node, placement};
use super::node_metrics;
use super::outbound::outbound;
use super::process::Stop;
use super::ready::{NodeReady, VERSION, absolute, http_url, print_line};
use super::record_keys::KeyFile;
use super::reload::{NodeReload, Source};
use super::storage::Storage;
use crate::config::RegionFile;

/// Over how long edges that lose the region spread their first dials, in ms. Publishes wait for it,
/// as they do for the start of the region itself, so it is short.
const REATTACH_SPREAD_MS: u32 = 250;

/// Runs until it is told to stop.
pub(crate) async fn run_region(
    file: RegionFile,
    source: Source<RegionFile>,
    ready_json: bool,
    stop: Stop,
) -> anyhow::Result<()> {
    let mut parts = NodeParts::new();
    let reload = NodeReload::new(source, file.clone(), &parts.metrics)?;
    let mut patience = file.drain;
    let data_dir = Path::new(&file.data_dir);
    // First of all: a second process on the same logs must not even say that it is here.
    let storage = Storage::open(data_dir)?;
    let files = TlsFiles {
        ca: &file.mesh.ca,
        cert: &file.mesh.cert,
        key: &file.mesh.key,
    };
    let tls = files.load(&file.name, Role::Region)?;
    let mut local = local_node(&file.name, &[Role::Region])?;
    local.retry_ms = REATTACH_SPREAD_MS;
    let endpoint = listen(file.mesh.listen, &tls, local)?;
    let http = AdminHttp::start(file.http, parts.metrics.clone(), parts.health.clone()).await?;
    parts.registrations.push(node_metrics::mesh(
        &parts.metrics,
        &file.name,
        endpoint.stats(),
    ));
    parts.registrations.push(storage.metrics(&parts.metrics));
    let Some(placed) = placement(&mut parts, data_dir, &file.mesh.geo, &endpoint, &stop).await?
    else {
        return Ok(());
    };

    let node = NodeId::from(file.name.as_str());
    let keys = KeyFile::open(data_dir, &node, storage.has_logs())?;
    let record_keys = keys.keys();
    let snapshot = keys.follow(placed.snapshot.clone())?;
    let mesh = endpoint.local_addr();
    let mut config = settings(&file, node);
    config.outbound = outbound(&file.outbound.allow, &file.outbound.ca)?;
    let region = Region::start(
        config,
        RegionDeps {
            endpoint,
            snapshot,
            open_log: storage.open_log(),
            rooms: storage.rooms(&mut parts)?,
            limiter: Arc::new(MemoryRateLimiter::default()),
            signals: storage.signals(),
            map: None,
            keys: record_keys,
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
        },
    )?;
    if parts.ready(&stop).await.is_some() {
        eprintln!(
            "gb6 region {} is ready; health and metrics at {}",
            file.name,
            http_url(http.addr, false)
        );
        if ready_json {
            print_line(&NodeReady {
                ready: true,
                version: VERSION,
                pid: std::process::id(),
                role: Role::Region.as_str(),
                node: &file.name,
                http: http_url(http.addr, false),
                admin: None,
                ws: None,
                quic: None,
                mesh,
                data_dir: absolute(data_dir),
            })?;
        }
        patience = reload.run(&stop, &["drain"], |_| {}).await.drain;
    }
    parts.health.drain();
    let patience = Duration::from_millis(patience.0);
    if tokio::time::timeout(patience, region.drain())
        .await
        .is_err()
    {
        tracing::warn!(
            ?patience,
            "what was in flight did not end in time; edges will ask again"
        );
    }
    Ok(())
}

/// What the file says, as the region has it.
fn settings(file: &RegionFile, node: NodeId) -> RegionConfig {
    let shards = &file.shards;
    let mut config = RegionConfig::new(node);
    config.edge_lease = Duration::from_millis(shards.edge_lease.0);
    config.checkpoint_bytes = shards.checkpoint_bytes.0;
    config.checkpoint_interval = Duration::from_millis(shards.checkpoint_interval.0);
    config.dedupe_ids_max = shards.dedupe_ids_max as usize;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_defaults_are_the_regions() {
        let node = NodeId::from("r1");
        let ours = settings(&RegionFile::default(), node.clone());
        assert_eq!(
            format!("{ours:?}"),
            format!("{:?}", RegionConfig::new(node))
        );
    }
}
