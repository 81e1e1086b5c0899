//! What the engines of a region say about themselves, before anything is started.

use std::time::Duration;

use gb6_core_ports::Check;
use gb6_region_stores_sql as sql;
use tokio::runtime::Handle;

use super::engines::{Engine, Engines};
use super::{Place, Storage};

/// Connects to every engine and looks at its version, permissions and settings. Changes nothing that
/// stays. `lease`: that of nodes which decide among themselves who owns what, by records of the map. Blocks;
/// `runtime` must not be waited for by this thread.
pub(in crate::assemble) fn check(
    engines: &Engines,
    place: Place<'_>,
    lease: Option<Duration>,
    data_dir: &std::path::Path,
    runtime: &Handle,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let embedded =
        matches!(engines.log, Engine::Embedded) || matches!(engines.rooms, Engine::Embedded);
    if embedded {
        let what = format!("data directory {}", data_dir.display());
        checks.push(match Storage::open(data_dir) {
            Ok(_) => Check::good(what, "it can be written, and nobody else has it"),
            Err(error) => Check::bad(what, format!("{error:#}")),
        });
    }
    #[cfg(feature = "kafka")]
    if let Engine::Other(config) = &engines.log {
        let Place { region, shards, .. } = place;
        let found = gb6_region_stores_kafka::check(config, region, shards, runtime.clone());
        checks.extend(found);
    }
    #[cfg(feature = "tikv")]
    if let Engine::Other(config) = &engines.rooms {
        checks.extend(gb6_region_stores_tikv::check(config, place.region));
    }
    #[cfg(feature = "redis")]
    {
        use gb6_region_stores_redis::{Purpose, check};
        let of = |engine: &Engine<_>, purposes: &[Purpose]| match engine {
            Engine::Other(config) => check(config, place.region, purposes, runtime),
            Engine::Embedded => Vec::new(),
        };
        let signals = [Purpose::Signals, Purpose::People, Purpose::Temporary];
        checks.extend(of(&engines.signals, &signals));
        checks.extend(of(&engines.limits, &[Purpose::Limits]));
    }
    if let Some(config) = &engines.map {
        checks.extend(sql::check(config, sql::Holds::Map, runtime.clone()));
        checks.extend(lease.and_then(|lease| sql::check_lease(config, lease)));
    }
    if let Some(config) = &engines.blobs {
        checks.extend(gb6_region_stores_s3::check(config, runtime.clone()));
    }
    #[cfg(feature = "kafka")]
    if let Some(config) = &engines.events {
        let Place { region, shards, .. } = place;
        let found = gb6_region_stores_kafka::check_events(config, region, shards, runtime.clone());
        checks.extend(found);
    }
    #[cfg(not(any(feature = "kafka", feature = "redis", feature = "tikv")))]
    let _ = place;
    checks
}
