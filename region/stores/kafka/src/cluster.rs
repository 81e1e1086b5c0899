//! What the shards of one node share of a Kafka cluster.

use std::sync::Arc;

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{Check, StoreError};
use gb6_region_archive::Archives;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminOptions;
use tokio::runtime::Handle;

use crate::chores::Chores;
use crate::client::{ASK, Told};
use crate::config::Config;
use crate::errors;
use crate::fetch::Fetcher;
use crate::lanes::Lanes;
use crate::log::KafkaShardLog;
use crate::producer::LogProducer;
use crate::share::Budget;
use crate::topics::Topics;

/// A node's connection to the Kafka cluster of its region. Cheap to clone.
#[derive(Clone)]
pub struct KafkaLogs(Arc<Cluster>);

pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) topic: String,
    pub(crate) told: Told,
    pub(crate) producer: LogProducer,
    pub(crate) fetcher: Fetcher,
    pub(crate) lanes: Lanes,
    pub(crate) chores: Chores,
    pub(crate) budget: Arc<Budget>,
    pub(crate) archives: Archives,
    topics: Topics,
    runtime: Handle,
}

impl KafkaLogs {
    /// `archives` are the region's: what is sealed of the logs goes there. Connects, makes the topic of the region's logs if it is missing, and refuses one that is not as
    /// the configuration asks. Blocks; not to be called from an async thread.
    ///
    /// # Errors
    /// `Unavailable`: no broker answers, or not as wanted. `Conflict`: the topic, setting by setting,
    /// with what mends it.
    pub fn open(
        config: &Config,
        region: &str,
        shards: u32,
        archives: Archives,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let told = Told::new(metrics);
        let topics = Topics::new(config, &told, runtime.clone())?;
        let topic = config.log_topic(region);
        topics.ensure_log(&topic, shards)?;
        Ok(Self(Arc::new(Cluster {
            config: config.clone(),
            lanes: Lanes::new(config, &told, &topic),
            chores: Chores::default(),
            budget: Budget::new(config.node_cache_bytes_max, &told.metrics.memory),
            topic,
            producer: LogProducer::new(config, &told, &[])?,
            fetcher: Fetcher::new(config, &told),
            told,
            archives,
            topics,
            runtime,
        })))
    }

    /// A handle of a shard's log, which has read everything that is committed now. It may become the
    /// owner's, or follow another's. Blocks.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt`, `Format` where the log can not be read.
    pub fn open_shard(&self, shard: ShardId) -> Result<KafkaShardLog, StoreError> {
        KafkaShardLog::open(self.0.clone(), shard)
    }
}

impl Cluster {
    /// Deletes what lies before `offset` in a shard's partition.
    pub(crate) fn delete_before(&self, shard: ShardId, offset: u64) -> Result<(), StoreError> {
        let failed = |error: &_| errors::unavailable("what is archived can not be deleted", error);
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&self.topic, shard.0 as i32, offset)
            .map_err(|error| failed(&error))?;
        let options = AdminOptions::new()
            .request_timeout(Some(ASK))
            .operation_timeout(Some(ASK));
        let deleted = self
            .runtime
            .block_on(self.topics.admin.delete_records(&list, &options))
            .map_err(|error| failed(&error))?;
        for element in deleted.elements() {
            element.error().map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Looks at the brokers, their version, and the topic that `config` names for the logs of a region's shards,
/// and at what its user may do with it; changes nothing. Blocks.
pub fn check(config: &Config, region: &str, shards: u32, runtime: Handle) -> Vec<Check> {
    look(config, runtime, |topics| topics.check_log(region, shards))
}

/// As [`check`], for the topic of a region's events, which has so many partitions if it is made.
pub fn check_events(config: &Config, region: &str, partitions: u32, runtime: Handle) -> Vec<Check> {
    look(config, runtime, |topics| {
        topics.check_events(region, partitions)
    })
}

fn look(config: &Config, runtime: Handle, check: impl FnOnce(&Topics) -> Vec<Check>) -> Vec<Check> {
    let told = Told::new(&Metrics::bare());
    match Topics::new(config, &told, runtime) {
        Ok(topics) => check(&topics),
        Err(error) => vec![Check::bad(config.to_string(), error.to_string())],
    }
}
