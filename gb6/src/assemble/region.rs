//! `gb6 region`: owns shards on the engines that its configuration names, and serves edges over the
//! mesh.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use gb6_core_mesh::snapshot::SnapshotStore;
use gb6_core_model::snapshot::{Assigned, Snapshot};
use gb6_core_model::{NodeId, Role};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Check;
use gb6_region_node::{Region, RegionConfig, RegionDeps, RegionEnd};
use gb6_region_stores_sql::SqlMap;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::admin_http::AdminHttp;
use super::node::{NodeParts, TlsFiles, listen, local_node, placement};
use super::node_metrics;
use super::outbound::outbound;
use super::process::Stop;
use super::ready::{NodeReady, VERSION, absolute, http_url, print_line};
use super::record_keys::check_keys;
use super::reload::{NodeReload, Source};
use super::sealing::{RECORD_KEYS, load_sealer};
use super::stores::{self, Engines, Opened, Opening, Place, Ready, Storage};
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
    // A placement alone serves nobody: what the region itself waits for is known once its engines are open.
    let engines = parts.health.register("engines");
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
    let (region, shards) = place_of(&placed.snapshot.borrow(), &node)?;
    refuse_several(&placed.snapshot.borrow(), &region, &file)?;
    let opening = Opening {
        table: &file.stores,
        data_dir,
        node: &node,
        region,
        shards,
    };
    let Ready {
        opened,
        record_keys,
        snapshot,
        storage: _storage,
        parts,
    } = opening
        .open(storage, parts, placed.snapshot.clone())
        .await?;
    let mesh = endpoint.local_addr();
    let mut config = settings(&file, node);
    config.outbound = outbound(&file.outbound.allow, &file.outbound.ca)?;
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
    config.events = events;
    let region = Region::start(
        config,
        RegionDeps {
            endpoint,
            snapshot,
            open_log,
            rooms,
            limiter,
            signals,
            statuses,
            map,
            keys: record_keys,
            metrics: parts.metrics.clone(),
            health: parts.health.clone(),
        },
    )?;
    engines.retire();
    // It may end before all that it was to own is served.
    let ready = tokio::select! {
        ready = parts.ready(&stop) => ready,
        why = ended(region.end()) => return Err(gone(why, &file.name)),
    };
    if ready.is_some() {
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
        let following = reload.run(&stop, &["drain"], |_| {});
        tokio::select! {
            file = following => patience = file.drain,
            why = ended(region.end()) => return Err(gone(why, &file.name)),
        }
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

/// Waits until this node takes part in its region no longer, unasked; for ever where nodes are not assigned.
async fn ended(end: Option<watch::Receiver<Option<RegionEnd>>>) -> RegionEnd {
    if let Some(mut end) = end
        && let Ok(why) = end
            .wait_for(|end| end.is_some_and(|end| end != RegionEnd::Drained))
            .await
        && let Some(why) = *why
    {
        return why;
    }
    std::future::pending().await
}

/// What a process ends with whose node takes part no longer.
fn gone(why: RegionEnd, name: &str) -> anyhow::Error {
    match why {
        RegionEnd::Replaced => anyhow!(
            "another process runs as node {name}: it has taken this one's place in the region. A name \
             belongs to one node; this process ends"
        ),
        _ => anyhow!(
            "what looks after assignments has failed, which is a defect: this process ends, so that \
             others take its shards over and it is started again"
        ),
    }
}

/// Whether the nodes of a region decide among themselves who owns what.
fn decides(snapshot: &Snapshot, region: &str) -> bool {
    let region = snapshot.regions.get(region);
    region.is_some_and(|region| region.assigned == Assigned::Region)
}

/// Nodes that decide among themselves who owns what must see the same logs.
///
/// # Errors
/// The region has several such nodes, and this one's logs lie in its data directory.
fn refuse_several(snapshot: &Snapshot, region: &str, file: &RegionFile) -> anyhow::Result<()> {
    let decides = decides(snapshot, region);
    let of_region = |node: &&gb6_core_model::snapshot::Node| node.region.as_deref() == Some(region);
    let nodes = snapshot.nodes.values().filter(of_region).count();
    let local = Engines::of(&file.stores).is_ok_and(|engines| engines.logs_are_local());
    if decides && nodes > 1 && local {
        bail!(
            "region {region} has {nodes} nodes that take over from each other, but the logs of this one lie in \
             its data directory, where no other finds them: set `stores.log` to Kafka on each, or leave \
             one node in the snapshot"
        );
    }
    Ok(())
}

/// The region that the snapshot gives the node to, and how many shards that has.
fn place_of(snapshot: &Snapshot, node: &NodeId) -> anyhow::Result<(String, u32)> {
    let placed = snapshot.nodes.get(node).and_then(|n| n.region.clone());
    let name = placed.with_context(|| {
        format!("the snapshot has no region for node {node}: give it one in `nodes.{node}`")
    })?;
    let region = snapshot.regions.get(&name);
    let region = region.with_context(|| format!("the snapshot has no region {name}"))?;
    Ok((name, region.shards))
}

/// Asks every engine that `file` names whether it can be used. Starts nothing, and keeps nothing.
///
/// # Errors
/// No snapshot was kept, without which nobody knows the region of the node.
pub(crate) fn check_region(file: &RegionFile) -> anyhow::Result<Vec<Check>> {
    let engines = Engines::of(&file.stores)?;
    let data_dir = Path::new(&file.data_dir);
    let node = NodeId::from(file.name.as_str());
    let mut checks = Vec::new();
    let kept = SnapshotStore::in_dir(data_dir).load().ok().flatten();
    let placed = kept.as_ref().map(|snapshot| place_of(snapshot, &node));
    let (region, shards) = match placed {
        Some(Ok(place)) => place,
        Some(Err(error)) => {
            checks.push(Check::bad("placement", format!("{error:#}")));
            return Ok(checks);
        }
        None => {
            let advice = "the node has kept no snapshot yet, which says which region it belongs to: start \
                 it once with geo in reach; what depends on the region's name is not looked at";
            checks.push(Check::good("placement", advice));
            (String::new(), 0)
        }
    };
    let place = Place {
        region: &region,
        node: &file.name,
        shards,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no threads can be had")?;
    let lease = kept.is_none_or(|kept| decides(&kept, &region));
    let lease = lease.then_some(Duration::from_millis(file.shards.node_lease.0));
    let handle = runtime.handle();
    checks.extend(stores::check(&engines, place, lease, data_dir, handle));
    if let Some(map) = &engines.map {
        let what = format!("record key {}", file.stores.record_key_file);
        let found = record_key(file, map, &region, runtime.handle());
        checks.push(match found {
            Ok(found) => Check::good(what, found),
            Err(error) => Check::bad(what, format!("{error:#}")),
        });
    }
    Ok(checks)
}

/// Whether the file has a key, and whether that opens the record keys that lie in the map.
fn record_key(
    file: &RegionFile,
    map: &gb6_region_stores_sql::Config,
    region: &str,
    runtime: &Handle,
) -> anyhow::Result<String> {
    let sealer = load_sealer(Path::new(&file.stores.record_key_file), RECORD_KEYS)?;
    if region.is_empty() {
        return Ok("it is one; what it opens is not looked at".into());
    }
    let opened = match SqlMap::open_existing(map, runtime.clone(), &Metrics::bare()) {
        Ok(Some(there)) => check_keys(Arc::new(there), region, sealer)?,
        Ok(None) => 0,
        // Which has lines of its own.
        Err(_) => return Ok("it is one; the map could not be asked for what it opens".into()),
    };
    Ok(match opened {
        0 => "it is one; the map has no keys yet that it could open".into(),
        opened => format!("it opens the record keys of {opened} instances"),
    })
}

/// What the file says, as the region has it.
fn settings(file: &RegionFile, node: NodeId) -> RegionConfig {
    let shards = &file.shards;
    let mut config = RegionConfig::new(node);
    config.edge_lease = Duration::from_millis(shards.edge_lease.0);
    config.checkpoint_bytes = shards.checkpoint_bytes.0;
    config.checkpoint_interval = Duration::from_millis(shards.checkpoint_interval.0);
    config.dedupe_ids_max = shards.dedupe_ids_max as usize;
    config.recoveries_max = shards.recoveries_max as usize;
    config.catch_ups_max = shards.catch_ups_max as usize;
    config.assign_lease = Duration::from_millis(shards.node_lease.0);
    config.assign_beat = Duration::from_millis(shards.node_beat.0);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_logs_of_their_own_do_not_take_over_from_each_other() {
        use gb6_geo_config_plan::{EXAMPLE, read_snapshot};
        let text = EXAMPLE.replace("owners = [\"r1\"]", "assigned = \"region\"");
        let more =
            "\n[nodes.r2]\nroles = [\"region\"]\nmesh = \"127.0.0.1:7610\"\nregion = \"eu\"\n";
        let read = |text: &str| {
            let secret = |_: &str| Ok("s".repeat(32));
            read_snapshot(text, 1, secret).unwrap()
        };
        let file = RegionFile::default();
        refuse_several(&read(&text), "eu", &file).unwrap();
        let error = refuse_several(&read(&(text + more)), "eu", &file).unwrap_err();
        assert!(error.to_string().contains("has 2 nodes"), "{error}");
    }

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
