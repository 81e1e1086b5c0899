//! What archives tell of themselves.

use std::time::Duration;

use gb6_core_model::ShardId;
use gb6_core_obs::{Counter, CounterFamily, Gauge, GaugeFamily, Label};

/// Shards of a node whose archives are told apart.
const SHARDS_MAX: usize = 1024;
const SHARD: Label = Label::new("shard", SHARDS_MAX);
const OPERATION: Label = Label::new("operation", 8);

/// Of all archives of a node.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) cache_bytes: Gauge,
    pub(crate) written_bytes: Counter,
    failures: CounterFamily,
    bytes: GaugeFamily,
    segments: GaugeFamily,
    next: GaugeFamily,
    behind: GaugeFamily,
    behind_seconds: GaugeFamily,
}

/// Of one archive.
pub(crate) struct ShardMetrics {
    bytes: Gauge,
    segments: Gauge,
    next: Gauge,
    behind: Gauge,
    behind_seconds: Gauge,
}

impl Metrics {
    pub(crate) fn new(metrics: &gb6_core_obs::Metrics) -> Self {
        Self {
            cache_hits: metrics.counter(
                "gb6_archive_cache_hits_total",
                "Blocks of archived segments that were found in memory.",
            ),
            cache_misses: metrics.counter(
                "gb6_archive_cache_misses_total",
                "Blocks of archived segments that were read from the store of objects.",
            ),
            cache_bytes: metrics.gauge(
                "gb6_archive_cache_bytes",
                "Bytes of archived segments that are kept in memory.",
            ),
            written_bytes: metrics.counter(
                "gb6_archive_written_bytes_total",
                "Bytes of segments and checkpoints that were written to the store of objects.",
            ),
            failures: metrics.counter_family(
                "gb6_archive_failures_total",
                "Changes of archives that failed, by what was to be done; they are tried again.",
                &[OPERATION],
            ),
            bytes: metrics.gauge_family(
                "gb6_archive_bytes",
                "Bytes of segments in the shard's archive.",
                &[SHARD],
            ),
            segments: metrics.gauge_family(
                "gb6_archive_segments",
                "Segments in the shard's archive.",
                &[SHARD],
            ),
            next: metrics.gauge_family(
                "gb6_archive_next_position",
                "The position behind the last record in the shard's archive.",
                &[SHARD],
            ),
            behind: metrics.gauge_family(
                "gb6_archive_behind_records",
                "Records of the shard's log that are not in its archive.",
                &[SHARD],
            ),
            behind_seconds: metrics.gauge_family(
                "gb6_archive_behind_seconds",
                "For how long the archive has lacked records of the shard's log.",
                &[SHARD],
            ),
        }
    }

    pub(crate) fn shard(&self, shard: ShardId) -> ShardMetrics {
        let shard = shard.to_string();
        ShardMetrics {
            bytes: self.bytes.with(&[&shard]),
            segments: self.segments.with(&[&shard]),
            next: self.next.with(&[&shard]),
            behind: self.behind.with(&[&shard]),
            behind_seconds: self.behind_seconds.with(&[&shard]),
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, operation: &str) {
        self.failures.with(&[operation]).inc();
    }
}

impl ShardMetrics {
    pub(crate) fn set_behind(&self, records: u64, since: Duration) {
        self.behind.set(i64::try_from(records).unwrap_or(i64::MAX));
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        self.behind_seconds.set(seconds);
    }

    pub(crate) fn set(&self, bytes: u64, segments: usize, next: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.segments
            .set(i64::try_from(segments).unwrap_or(i64::MAX));
        self.next.set(i64::try_from(next).unwrap_or(i64::MAX));
    }
}
