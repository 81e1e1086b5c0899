//! The engines of a region: chosen by its configuration, opened, and looked at.

mod check;
mod embedded;
mod engines;
mod opening;

use std::sync::Arc;

use anyhow::Context;
use gb6_core_model::ShardId;
use gb6_core_obs::Metrics;
use gb6_core_ports::memory::MemoryRateLimiter;
use gb6_core_ports::{MapStore, RateLimiter, RoomStore, Signals};
#[cfg(feature = "kafka")]
use gb6_core_ports::{ShardLog, StoreError};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_node::{Events, OpenLog, StatusEngines};
use gb6_region_stores_embedded::Archiving;
use gb6_region_stores_sql::SqlMap;
use tokio::runtime::Handle;

pub(super) use check::check;
pub(super) use embedded::Storage;
use engines::Engine;
pub(crate) use engines::Engines;
#[cfg(not(feature = "postgres"))]
pub(super) use engines::missing;
pub(super) use opening::{Opening, Ready};

use super::node::NodeParts;

/// Which region the engines are of, and how large it is.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "engines"),
    allow(
        dead_code,
        reason = "what is embedded has its place in the data directory"
    )
)]
pub(super) struct Place<'a> {
    pub(super) region: &'a str,
    pub(super) node: &'a str,
    pub(super) shards: u32,
}

/// The engines of a region, ready to be used.
pub(super) struct Opened {
    pub(super) open_log: OpenLog,
    pub(super) rooms: Arc<dyn RoomStore>,
    pub(super) signals: Arc<dyn Signals>,
    pub(super) statuses: StatusEngines,
    pub(super) limiter: Arc<dyn RateLimiter>,
    pub(super) map: Option<Arc<dyn MapStore>>,
    pub(super) events: Events,
    archives: Option<Archives>,
}

impl Engines {
    /// Opens them; what is embedded lies in `storage`. Blocks; `runtime` is where clients of engines do
    /// their work, and must not be waited for by this thread.
    ///
    /// # Errors
    /// An engine that can not be reached, or is not as the configuration wants it.
    pub(super) fn open(
        &self,
        place: Place<'_>,
        storage: &Storage,
        parts: &mut NodeParts,
        runtime: &Handle,
    ) -> anyhow::Result<Opened> {
        let metrics = parts.metrics.clone();
        let map = match &self.map {
            None => None,
            Some(config) => {
                let opened = SqlMap::open(config, runtime.clone(), &metrics);
                let map = opened.with_context(|| format!("stores.map: {config}"))?;
                Some(Arc::new(map) as Arc<dyn MapStore>)
            }
        };
        let blobs = match &self.blobs {
            None => None,
            Some(config) => {
                let opened = gb6_region_stores_s3::open(config, runtime.clone(), &metrics);
                Some(opened.with_context(|| format!("stores.blobs: {config}"))?)
            }
        };
        let archives = blobs.map(|blobs| {
            let Place { region, node, .. } = place;
            Archives::new(blobs, region, node, ArchiveConfig::default(), &metrics)
        });
        Ok(Opened {
            open_log: self.open_log(place, storage, archives.clone(), &metrics, runtime)?,
            rooms: self.open_rooms(place, storage, parts)?,
            signals: self.open_signals(place, storage, &metrics, runtime),
            statuses: self.open_statuses(place, &metrics, runtime),
            limiter: self.open_limiter(place, &metrics, runtime),
            map,
            events: self.open_events(place, &metrics, runtime)?,
            archives,
        })
    }

    fn open_events(
        &self,
        place: Place<'_>,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> anyhow::Result<Events> {
        match &self.events {
            None => Ok(Events::default()),
            #[cfg(feature = "kafka")]
            Some(config) => {
                let Place { region, shards, .. } = place;
                let sink = gb6_region_stores_kafka::KafkaEvents::open(
                    config,
                    region,
                    shards,
                    runtime.clone(),
                    metrics,
                );
                let sink = sink.with_context(|| format!("stores.events: {config}"))?;
                Ok(Events::to(Arc::new(sink)))
            }
            #[cfg(not(feature = "kafka"))]
            Some(config) => {
                let _ = (place, metrics, runtime);
                match *config {}
            }
        }
    }

    fn open_log(
        &self,
        place: Place<'_>,
        storage: &Storage,
        archives: Option<Archives>,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> anyhow::Result<OpenLog> {
        match &self.log {
            Engine::Embedded => {
                let archived = archives.map(|archives| {
                    let archiving = Archiving {
                        take_over: self.take_over,
                        ..Archiving::new(place.node)
                    };
                    (archives, archiving)
                });
                Ok(storage.open_log(archived))
            }
            #[cfg(feature = "kafka")]
            Engine::Other(config) => {
                let archives = archives.context("stores.log needs stores.blobs")?;
                let Place { region, shards, .. } = place;
                let logs = gb6_region_stores_kafka::KafkaLogs::open(
                    config,
                    region,
                    shards,
                    archives,
                    runtime.clone(),
                    metrics,
                );
                let logs = logs.with_context(|| format!("stores.log: {config}"))?;
                Ok(Arc::new(move |shard| {
                    Ok::<Arc<dyn ShardLog>, StoreError>(Arc::new(logs.open_shard(shard)?))
                }))
            }
            #[cfg(not(feature = "kafka"))]
            Engine::Other(config) => {
                let _ = (metrics, runtime);
                match *config {}
            }
        }
    }

    fn open_rooms(
        &self,
        place: Place<'_>,
        storage: &Storage,
        parts: &mut NodeParts,
    ) -> anyhow::Result<Arc<dyn RoomStore>> {
        match &self.rooms {
            Engine::Embedded => storage.rooms(parts),
            #[cfg(feature = "tikv")]
            Engine::Other(config) => {
                let opened = gb6_region_stores_tikv::TikvRooms::open(
                    config.clone(),
                    place.region,
                    &parts.metrics,
                );
                let rooms = opened.with_context(|| format!("stores.rooms: {config}"))?;
                Ok(Arc::new(rooms))
            }
            #[cfg(not(feature = "tikv"))]
            Engine::Other(config) => {
                let _ = place;
                match *config {}
            }
        }
    }

    fn open_signals(
        &self,
        place: Place<'_>,
        storage: &Storage,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> Arc<dyn Signals> {
        match &self.signals {
            Engine::Embedded => storage.signals(),
            #[cfg(feature = "redis")]
            Engine::Other(config) => Arc::new(gb6_region_stores_redis::RedisSignals::open(
                config,
                place.region,
                runtime,
                metrics,
            )),
            #[cfg(not(feature = "redis"))]
            Engine::Other(config) => {
                let _ = (place, metrics, runtime);
                match *config {}
            }
        }
    }

    fn open_statuses(
        &self,
        place: Place<'_>,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> StatusEngines {
        match &self.signals {
            Engine::Embedded => StatusEngines::in_memory(),
            #[cfg(feature = "redis")]
            Engine::Other(config) => {
                use gb6_region_stores_redis::{RedisPeople, RedisTemporary};
                let region = place.region;
                StatusEngines {
                    people: Arc::new(RedisPeople::open(config, region, runtime, metrics)),
                    values: Arc::new(RedisTemporary::open(config, region, runtime, metrics)),
                }
            }
            #[cfg(not(feature = "redis"))]
            Engine::Other(config) => {
                let _ = (place, metrics, runtime);
                match *config {}
            }
        }
    }

    fn open_limiter(
        &self,
        place: Place<'_>,
        metrics: &Metrics,
        runtime: &Handle,
    ) -> Arc<dyn RateLimiter> {
        match &self.limits {
            Engine::Embedded => Arc::new(MemoryRateLimiter::default()),
            #[cfg(feature = "redis")]
            Engine::Other(config) => Arc::new(gb6_region_stores_redis::RedisLimiter::open(
                config,
                place.region,
                runtime,
                metrics,
            )),
            #[cfg(not(feature = "redis"))]
            Engine::Other(config) => {
                let _ = (place, metrics, runtime);
                match *config {}
            }
        }
    }
}

impl Opened {
    /// Whether anything was archived of a region's shards. Blocks, and asks for each of them.
    fn has_archived(&self, shards: u32) -> anyhow::Result<bool> {
        let Some(archives) = &self.archives else {
            return Ok(false);
        };
        for shard in 0..shards {
            let archive = archives.open(ShardId(shard));
            let archive = archive.with_context(|| format!("the archive of shard {shard}"))?;
            if archive.range().next > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
