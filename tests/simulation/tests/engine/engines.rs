//! The two engines: the embedded log in a directory, and the log on Kafka with its archive.

use std::sync::Arc;
use std::time::SystemTime;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::log::LogFixture;
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{BlobStore, ShardLog};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_embedded::{EmbeddedShardLog, LogConfig, RealVfs};
use gb6_region_stores_kafka::{Config, KafkaLogs};
use tokio::runtime::{Builder, Runtime};

use crate::owner::{REGION, SHARD};

/// The embedded log on the real disk.
pub(crate) struct Embedded(tempfile::TempDir);

impl Embedded {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
}

impl LogFixture for Embedded {
    fn open(&self) -> Arc<dyn ShardLog> {
        // Small segments, so that the log seals some by itself.
        let config = LogConfig {
            segment_bytes_first: 16 * 1024,
            segment_bytes_max: 64 * 1024,
            index_every: 2 * 1024,
            ..LogConfig::default()
        };
        let vfs = RealVfs::existing(self.0.path());
        Arc::new(EmbeddedShardLog::start(vfs, config, "same").expect("opened"))
    }
}

/// The log on Kafka; each handle is another node's.
pub(crate) struct Kafka {
    config: Config,
    pub(crate) blobs: Arc<MemoryBlobs>,
    metrics: Metrics,
    runtime: Runtime,
}

impl Kafka {
    /// A topic of its own for each `seed` of each run.
    pub(crate) fn new(seed: u64) -> Self {
        let address = std::env::var("GB6_TEST_KAFKA").expect(
            "GB6_TEST_KAFKA=host:port names no Kafka: run `make test-engines`, which starts one",
        );
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let (run, millis) = (std::process::id(), since.as_millis());
        // It archives when it is told to: what lies where follows from the input alone.
        let uri = format!(
            "kafka://{address}/same{run}.{millis}.{seed}?replication=1&min_insync=1&archive_after_s=86400"
        );
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_all();
        Self {
            config: Config::parse(&uri).expect("a URI"),
            blobs: Arc::default(),
            metrics: Metrics::bare(),
            runtime: builder.build().expect("a runtime"),
        }
    }

    /// Segments that lie in the archive.
    pub(crate) fn archived(&self) -> usize {
        let prefix = format!("{REGION}/shards/{SHARD}/seg/");
        let listed = self.blobs.list(&prefix, None, 1000).expect("listed");
        listed.len()
    }
}

impl LogFixture for Kafka {
    fn open(&self) -> Arc<dyn ShardLog> {
        let config = ArchiveConfig {
            index_every: 2 * 1024,
            ..ArchiveConfig::default()
        };
        let (blobs, metrics) = (self.blobs.clone(), &self.metrics);
        let archives = Archives::new(blobs, REGION, "node", config, metrics);
        let runtime = self.runtime.handle().clone();
        let logs = KafkaLogs::open(&self.config, REGION, 1, archives, runtime, metrics);
        let shard = logs.expect("Kafka takes it").open_shard(SHARD);
        Arc::new(shard.expect("opened"))
    }
}
