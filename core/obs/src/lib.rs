//! What a running node shows of itself: metrics, logs, readiness, and named invariants that are
//! checked while it works. Every role gets a [`Metrics`] and a [`Health`] handle from whoever
//! assembles it; nothing here is global except the log subscriber, and the counters of invariants
//! and panics.

pub mod health;
pub mod invariant;
pub mod logs;
pub mod metrics;
pub mod panics;

pub use health::{Component, Health, HealthAnswer, Readiness};
pub use invariant::Invariant;
pub use metrics::{
    Buckets, Counter, CounterFamily, Gauge, GaugeFamily, Histogram, HistogramFamily, Label,
    Metrics, Registration, Samples,
};
