//! The Kafka that the tests use, and shards of their own on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::log::LogFixture;
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{BlobStore, ShardLog, StoreError};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_kafka::{Config, KafkaLogs};
use tokio::runtime::{Builder, Handle, Runtime};

/// The region of the contract's fences.
pub(crate) const REGION: &str = "test";
/// Shards of a topic: the contract's is the last one.
pub(crate) const SHARDS: u32 = 4;

/// Where Kafka is.
pub(crate) fn address() -> String {
    std::env::var("GB6_TEST_KAFKA").expect(
        "GB6_TEST_KAFKA=host:port names no Kafka: run `make test-engines`, which starts one",
    )
}

pub(crate) fn runtime() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_all();
        builder.build().expect("a runtime")
    });
    runtime.handle().clone()
}

/// A prefix of topics that no other test has, in this run or another.
pub(crate) fn unused_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let millis = since.expect("after 1970").as_millis();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}.{millis}.{number}", std::process::id())
}

/// A region of its own, with one copy of everything.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) config: Config,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) metrics: Metrics,
    pub(crate) shards: u32,
}

impl Region {
    pub(crate) fn new(options: &str) -> Self {
        Self::of(&unused_prefix(), options)
    }

    /// That of a prefix; others may have it open.
    pub(crate) fn of(prefix: &str, options: &str) -> Self {
        let uri = format!("{}/{prefix}?replication=1&min_insync=1{options}", address());
        Self::at(&uri)
    }

    /// What `host:port…` and the rest of a URI say.
    pub(crate) fn at(uri: &str) -> Self {
        Self {
            config: Config::parse(&format!("kafka://{uri}")).expect("a URI"),
            blobs: Arc::new(MemoryBlobs::default()),
            metrics: Metrics::bare(),
            shards: SHARDS,
        }
    }

    /// As another node would open it.
    pub(crate) fn logs(&self) -> KafkaLogs {
        self.try_logs().expect("Kafka takes it")
    }

    /// As [`Region::logs`], where Kafka may not take it.
    pub(crate) fn try_logs(&self) -> Result<KafkaLogs, StoreError> {
        let archives = Archives::new(
            self.blobs.clone(),
            REGION,
            "node",
            ArchiveConfig::default(),
            &self.metrics,
        );
        let (config, metrics) = (&self.config, &self.metrics);
        KafkaLogs::open(config, REGION, self.shards, archives, runtime(), metrics)
    }
}

/// One shard, whose handles share a connection: topics are dear, shards are not.
pub(crate) struct Shard {
    pub(crate) logs: KafkaLogs,
}

impl LogFixture for Shard {
    fn open(&self) -> Arc<dyn ShardLog> {
        Arc::new(self.logs.open_shard(ShardId(3)).expect("opened"))
    }
}
