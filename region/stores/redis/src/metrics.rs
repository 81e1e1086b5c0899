//! What this engine tells about its connections and its signals.

use gb6_core_obs::metrics::{Buckets, Counter, Gauge, Histogram, Label, Metrics};

/// What connections are for: few, and named here.
const PURPOSE: Label = Label::new("purpose", 8);

/// The numbers of one connection.
pub(crate) struct LinkMetrics {
    pub(crate) up: Gauge,
    pub(crate) breaks: Counter,
    pub(crate) answered: Counter,
    pub(crate) refused: Counter,
    pub(crate) lost: Counter,
    pub(crate) unsent: Counter,
    pub(crate) seconds: Histogram,
}

impl LinkMetrics {
    pub(crate) fn new(metrics: &Metrics, purpose: &str) -> Self {
        let calls = metrics.counter_family(
            "gb6_redis_calls_total",
            "Calls to Redis by purpose and outcome: answered, refused by the server, lost on the way, or not sent because there was no connection.",
            &[PURPOSE, Label::new("outcome", 4)],
        );
        let (up, breaks) = connected(metrics, purpose);
        Self {
            up,
            breaks,
            answered: calls.with(&[purpose, "answered"]),
            refused: calls.with(&[purpose, "refused"]),
            lost: calls.with(&[purpose, "lost"]),
            unsent: calls.with(&[purpose, "unsent"]),
            seconds: metrics
                .histogram_family(
                    "gb6_redis_call_seconds",
                    "How long calls to Redis took, lost ones included.",
                    Buckets::SECONDS,
                    &[PURPOSE],
                )
                .with(&[purpose]),
        }
    }
}

/// Whether there is a connection for a purpose, and how often one was lost.
fn connected(metrics: &Metrics, purpose: &str) -> (Gauge, Counter) {
    let up = metrics.gauge_family(
        "gb6_redis_up",
        "1 while a connection to Redis answers, by what it is for.",
        &[PURPOSE],
    );
    let breaks = metrics.counter_family(
        "gb6_redis_breaks_total",
        "Connections to Redis that were lost, by what they were for.",
        &[PURPOSE],
    );
    (up.with(&[purpose]), breaks.with(&[purpose]))
}

/// The numbers of what is published and followed.
#[derive(Clone)]
pub(crate) struct TopicMetrics {
    pub(crate) up: Gauge,
    pub(crate) breaks: Counter,
    /// Channels that are followed.
    pub(crate) followed: Gauge,
    /// Those of which Redis has not said that it knows.
    pub(crate) pending: Gauge,
    /// Messages that wait to be published.
    pub(crate) waiting: Gauge,
    pub(crate) published: Counter,
    pub(crate) received: Counter,
    /// Lost because too many waited.
    pub(crate) full: Counter,
    /// Lost because there was no connection, or on the way.
    pub(crate) lost: Counter,
    /// Not understood.
    pub(crate) malformed: Counter,
}

impl TopicMetrics {
    pub(crate) fn new(metrics: &Metrics, purpose: &str) -> Self {
        let (up, breaks) = connected(metrics, &format!("{purpose}-subscribe"));
        let dropped = metrics.counter_family(
            "gb6_redis_messages_dropped_total",
            "Messages between nodes that were lost, by purpose and reason: too many waited, Redis was lost, or a message was malformed.",
            &[PURPOSE, Label::new("reason", 3)],
        );
        let gauge = |name, help| {
            metrics
                .gauge_family(name, help, &[PURPOSE])
                .with(&[purpose])
        };
        let counter = |name, help| {
            metrics
                .counter_family(name, help, &[PURPOSE])
                .with(&[purpose])
        };
        Self {
            up,
            breaks,
            followed: gauge(
                "gb6_redis_channels_followed",
                "Channels of Redis that this node follows.",
            ),
            pending: gauge(
                "gb6_redis_channels_pending",
                "Channels that this node wants to follow or to leave and Redis has not confirmed.",
            ),
            waiting: gauge(
                "gb6_redis_messages_waiting",
                "Messages that wait to be sent to Redis.",
            ),
            published: counter(
                "gb6_redis_messages_published_total",
                "Messages for other nodes that Redis has taken.",
            ),
            received: counter(
                "gb6_redis_messages_received_total",
                "Messages of other nodes that came from Redis.",
            ),
            full: dropped.with(&[purpose, "full"]),
            lost: dropped.with(&[purpose, "lost"]),
            malformed: dropped.with(&[purpose, "malformed"]),
        }
    }
}
