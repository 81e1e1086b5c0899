//! What a Kafka log tells about itself.

use gb6_core_obs::metrics::{
    Buckets, Counter, CounterFamily, Gauge, GaugeFamily, Histogram, Label, Metrics,
};

/// Shards that are told apart; further ones are counted together.
const SHARDS_MAX: usize = 4096;
/// What is counted of the memory.
const WHAT_MAX: usize = 3;
/// Kinds of errors.
const KINDS_MAX: usize = 64;

/// Metrics of all shards of a node. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct KafkaMetrics {
    /// From handing a batch to the client until it is known to count.
    pub(crate) commit_seconds: Histogram,
    /// How often an owner read its partition, because something else was written to it or to look.
    pub(crate) read_backs: Counter,
    /// Reads of single batches from Kafka, which memory no longer had.
    pub(crate) fetches: Counter,
    /// Times that an owner or an acquirer found another ownership.
    pub(crate) fenced: Counter,
    /// Messages that count for nothing.
    pub(crate) passed_over: Counter,
    /// Messages of others in the topic.
    pub(crate) foreign: Counter,
    /// Errors of Kafka, by kind.
    pub(crate) errors: CounterFamily,
    /// Events that Kafka does not take because of their size.
    pub(crate) events_too_large: Counter,
    /// Bytes moved to the archive.
    pub(crate) archived_bytes: Counter,
    /// Attempts to do so that failed.
    pub(crate) archive_failures: Counter,
    /// Consumers that read partitions.
    pub(crate) followers: Gauge,
    /// Bytes that all handles keep in memory, by what they are.
    pub(crate) memory: GaugeFamily,
    /// Bytes of a shard that lie in Kafka alone.
    pub(crate) live_bytes: GaugeFamily,
}

impl KafkaMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let shard = Label::new("shard", SHARDS_MAX);
        Self {
            commit_seconds: metrics.histogram(
                "gb6_kafka_commit_seconds",
                "From handing a batch to the Kafka client until it is known to be in the log.",
                Buckets::SECONDS,
            ),
            read_backs: metrics.counter(
                "gb6_kafka_read_backs_total",
                "Times that an owner read its partition instead of knowing it from its own writes.",
            ),
            fetches: metrics.counter(
                "gb6_kafka_fetches_total",
                "Reads from Kafka of batches that memory no longer had.",
            ),
            fenced: metrics.counter(
                "gb6_kafka_fenced_total",
                "Times that an owner, or who tried to become it, found a newer ownership in the log.",
            ),
            passed_over: metrics.counter(
                "gb6_kafka_passed_over_total",
                "Messages in a shard's partition that do not count: of deposed owners, or behind a batch that failed.",
            ),
            foreign: metrics.counter(
                "gb6_kafka_foreign_total",
                "Messages in a shard's partition that gb6 did not write.",
            ),
            errors: metrics.counter_family(
                "gb6_kafka_errors_total",
                "Errors that Kafka or its client answered, by kind.",
                &[Label::new("kind", KINDS_MAX)],
            ),
            events_too_large: metrics.counter(
                "gb6_kafka_events_too_large_total",
                "Events that were not published because Kafka takes no message of their size.",
            ),
            archived_bytes: metrics.counter(
                "gb6_kafka_archived_bytes_total",
                "Bytes of batches that were moved from Kafka to the archive.",
            ),
            archive_failures: metrics.counter(
                "gb6_kafka_archive_failures_total",
                "Attempts to move batches to the archive, or to delete what is there from Kafka, that failed.",
            ),
            followers: metrics.gauge(
                "gb6_kafka_followers",
                "Consumers that read the partitions of this node's shards, each of several.",
            ),
            memory: metrics.gauge_family(
                "gb6_kafka_memory_bytes",
                "Bytes of batches of all shards in memory: the newest (cached), pieces of history (read), and those without an answer (waiting).",
                &[Label::new("what", WHAT_MAX)],
            ),
            live_bytes: metrics.gauge_family(
                "gb6_kafka_live_bytes",
                "Bytes of a shard's log that lie in Kafka alone.",
                &[shard],
            ),
        }
    }
}
