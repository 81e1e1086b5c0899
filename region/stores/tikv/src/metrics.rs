//! What an operator sees of TiKV.

use gb6_core_obs::metrics::{Buckets, Counter, CounterFamily, HistogramFamily, Label, Metrics};

/// Values of the labels; all of them are words of this program.
const CALLS_MAX: usize = 32;

/// The metrics of one store, made once.
#[derive(Clone, Debug)]
pub(crate) struct TikvMetrics {
    pub(crate) step_seconds: HistogramFamily,
    pub(crate) failures: CounterFamily,
    pub(crate) connects: Counter,
    pub(crate) begun_again: Counter,
    pub(crate) read_back: Counter,
    pub(crate) swept: Counter,
}

impl TikvMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            step_seconds: metrics.histogram_family(
                "gb6_tikv_step_seconds",
                "Steps of calls to TiKV that succeeded: reads, commits, connects.",
                Buckets::SECONDS,
                &[Label::new("step", CALLS_MAX)],
            ),
            failures: metrics.counter_family(
                "gb6_tikv_failures_total",
                "Steps of calls to TiKV that failed, by what failed and how.",
                &[Label::new("step", CALLS_MAX), Label::new("kind", CALLS_MAX)],
            ),
            connects: metrics.counter(
                "gb6_tikv_connects_total",
                "Connections to TiKV that were made: more than one says that one was given up.",
            ),
            begun_again: metrics.counter(
                "gb6_tikv_indexes_begun_again_total",
                "Indexes of shards that were damaged in TiKV and are filled again from the log.",
            ),
            read_back: metrics.counter(
                "gb6_tikv_commits_read_back_total",
                "Commits whose answer did not come, and which were read back.",
            ),
            swept: metrics.counter(
                "gb6_tikv_swept_keys_total",
                "Keys of cleared indexes that were removed from TiKV.",
            ),
        }
    }
}
