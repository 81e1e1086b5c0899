//! What the webhooks of a region tell about themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_obs::metrics::{Buckets, CounterFamily, Histogram, Label, Metrics, Registration};
use parking_lot::Mutex;

use super::feed::Feed;
use crate::recovery::unix_ms;

/// Instances that are told apart; further ones are counted together.
const INSTANCES_MAX: usize = 256;
/// Reasons why a request fails.
const REASONS_MAX: usize = 16;

/// Metrics of all webhooks of a node. Cloning shares them.
#[derive(Clone)]
pub(crate) struct WebhookMetrics {
    /// Events that their receiver has taken.
    pub(super) sent: CounterFamily,
    /// Requests that failed.
    pub(super) failed: CounterFamily,
    /// Records that make no event.
    pub(super) skipped: CounterFamily,
    /// Times that a consumer lapsed.
    pub(super) lapsed: CounterFamily,
    /// How long a request took.
    pub(super) seconds: Histogram,
    waiting: Arc<Mutex<BTreeMap<(String, u32), Waiting>>>,
}

/// What waits in one shard for an instance's receiver.
pub(super) struct Waiting {
    /// Events that were read.
    pub(super) events: usize,
    /// When the oldest of them happened, Unix ms.
    pub(super) oldest: Option<i64>,
    /// Has the others.
    pub(super) feed: Feed,
}

impl WebhookMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let instance = Label::new("instance", INSTANCES_MAX);
        Self {
            sent: metrics.counter_family(
                "gb6_webhook_events_total",
                "Events of sessions that their receiver has taken.",
                &[instance],
            ),
            failed: metrics.counter_family(
                "gb6_webhook_failures_total",
                "Requests of webhooks that failed and are repeated, by reason.",
                &[instance, Label::new("reason", REASONS_MAX)],
            ),
            skipped: metrics.counter_family(
                "gb6_webhook_skipped_total",
                "Records of sessions that could not be told: damaged, sealed with a destroyed key, or of a newer version.",
                &[instance],
            ),
            lapsed: metrics.counter_family(
                "gb6_webhook_lapsed_total",
                "Times that a webhook was so far behind that retention went on without it; events may be lost.",
                &[instance],
            ),
            seconds: metrics.histogram(
                "gb6_webhook_request_seconds",
                "How long requests of webhooks took, failed ones among them.",
                Buckets::SECONDS,
            ),
            waiting: Arc::default(),
        }
    }

    /// Exports what waits until the registration is dropped.
    pub(crate) fn export(&self, metrics: &Metrics) -> Registration {
        let waiting = self.waiting.clone();
        metrics.collect(move |out| {
            let now = unix_ms();
            let mut sums = BTreeMap::<String, (usize, f64)>::new();
            for ((instance, _), waiting) in &*waiting.lock() {
                let (events, age) = sums.entry(instance.clone()).or_default();
                *events += waiting.events + waiting.feed.kept(instance);
                let since = waiting.oldest.map_or(0, |oldest| (now - oldest).max(0));
                *age = age.max(since as f64 / 1e3);
            }
            for (instance, (events, age)) in sums.iter().take(INSTANCES_MAX) {
                let labels = [("instance", instance.as_str())];
                out.gauge(
                    "gb6_webhook_waiting_events",
                    "Events that wait for their receiver, as far as they were read; more may lie in the log.",
                    &labels,
                    *events as f64,
                );
                out.gauge(
                    "gb6_webhook_waiting_seconds",
                    "Age of the oldest event that waits for its receiver.",
                    &labels,
                    *age,
                );
            }
        })
    }

    /// What waits in `shard` for the receiver of `instance`.
    pub(super) fn waits(&self, instance: &str, shard: u32, waiting: Waiting) {
        let key = (instance.to_owned(), shard);
        self.waiting.lock().insert(key, waiting);
    }

    /// Nothing waits there any more, or nobody sends it.
    pub(super) fn ended(&self, instance: &str, shard: u32) {
        self.waiting.lock().remove(&(instance.to_owned(), shard));
    }
}
