//! The metrics of one node: a registry with typed constructors, metrics that are read from
//! closures when somebody looks, and the text that `/metrics` answers with.
//!
//! A metric is made once, where a role is built, and kept in a struct; nothing on a message's path
//! looks one up by name or by label. Names are constants of the program: one that breaks the
//! naming rule, or is used for two different things, panics where it is registered, so the first
//! test that builds the role finds it.

mod family;
mod process;
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, Opts, Registry, TextEncoder};

pub use family::{CounterFamily, Family, GaugeFamily, HistogramFamily, Label};
pub use samples::{Registration, SAMPLES_PER_COLLECTOR_MAX, Samples};

use crate::{invariant, panics};

/// A number that only rises.
pub type Counter = prometheus::IntCounter;
/// A number that rises and falls.
pub type Gauge = prometheus::IntGauge;
/// Observations counted by size, with their sum. The unit is in the name (`_seconds`, `_bytes`).
pub type Histogram = prometheus::Histogram;

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The upper bounds of a histogram's buckets, ascending. Few and fixed, so that dashboards of
/// different versions can be laid over each other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Buckets(&'static [f64]);

impl Buckets {
    /// Seconds, 50 µs to 10 s: from a commit on a fast disk to the point where clients give up.
    pub const SECONDS: Buckets = Buckets(&[
        50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0,
        2.0, 5.0, 10.0,
    ]);
    /// Bytes, 64 B to 4 MiB: from a ping to the largest mesh frame.
    pub const BYTES: Buckets = Buckets(&[
        64.0,
        256.0,
        1024.0,
        4096.0,
        16384.0,
        65536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
    ]);
    /// Things in a batch or a queue, 1 to 16,384.
    pub const COUNT: Buckets = Buckets(&[
        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0,
    ]);

    /// Bounds of one's own, ascending.
    pub const fn new(bounds: &'static [f64]) -> Self {
        Self(bounds)
    }
}

/// The registry of one node. Cloning shares it. Asking twice for the same metric gives the same
/// one, so that several links or shards of a process can share a counter.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    made: Mutex<BTreeMap<&'static str, Made>>,
    collectors: Arc<samples::Collectors>,
    label_overflows: Counter,
    samples_dropped: AtomicU64,
}

/// What a name was registered as.
#[derive(Clone)]
struct Made {
    help: &'static str,
    what: Typed,
}

#[derive(Clone)]
enum Typed {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    CounterFamily(CounterFamily),
    GaugeFamily(GaugeFamily),
    HistogramFamily(HistogramFamily),
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A registry with the metrics that every process has: its own resources, invariant
    /// violations, panics, and what this registry itself had to leave out.
    pub fn new() -> Self {
        let metrics = Self::bare();
        metrics.collect(process::collect).keep();
        metrics.collect(invariant::collect).keep();
        metrics.collect(panics::collect).keep();
        metrics
    }

    /// A registry that shows only what is put into it: for tests and for a second registry in one
    /// process, which must not report the process twice.
    pub fn bare() -> Self {
        const OVERFLOWS: &str = "gb6_metrics_label_overflows_total";
        let registry = Registry::new();
        let label_overflows = must(
            OVERFLOWS,
            Counter::new(
                OVERFLOWS,
                "Label values beyond a family's bound, counted as \"other\" instead.",
            ),
        );
        register(&registry, OVERFLOWS, label_overflows.clone());
        Self {
            inner: Arc::new(Inner {
                registry,
                made: Mutex::default(),
                collectors: Arc::default(),
                label_overflows,
                samples_dropped: AtomicU64::new(0),
            }),
        }
    }

    /// A counter; its name ends in `_total`.
    ///
    /// # Panics
    /// When the name breaks the naming rule or stands for something else already.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        check_name(name, true);
        let made = self.make(name, help, || {
            let c = must(name, Counter::new(name, help));
            register(&self.inner.registry, name, c.clone());
            Typed::Counter(c)
        });
        match made {
            Typed::Counter(c) => c,
            _ => conflict(name),
        }
    }

    /// A gauge.
    ///
    /// # Panics
    /// When the name breaks the naming rule or stands for something else already.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        check_name(name, false);
        let made = self.make(name, help, || {
            let g = must(name, Gauge::new(name, help));
            register(&self.inner.registry, name, g.clone());
            Typed::Gauge(g)
        });
        match made {
            Typed::Gauge(g) => g,
            _ => conflict(name),
        }
    }

    /// A histogram over `buckets`.
    ///
    /// # Panics
    /// When the name breaks the naming rule or stands for something else already.
    pub fn histogram(&self, name: &'static str, help: &'static str, buckets: Buckets) -> Histogram {
        check_name(name, false);
        let made = self.make(name, help, || {
            let opts = HistogramOpts::new(name, help).buckets(buckets.0.to_vec());
            let h = must(name, Histogram::with_opts(opts));
            register(&self.inner.registry, name, h.clone());
            Typed::Histogram(h)
        });
        match made {
            Typed::Histogram(h) => h,
            _ => conflict(name),
        }
    }

    /// Counters that differ by labels; the name ends in `_total`.
    ///
    /// # Panics
    /// When the name or a label breaks the naming rule, or stands for something else already.
    pub fn counter_family(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
    ) -> CounterFamily {
        check_name(name, true);
        let made = self.make(name, help, || {
            let names = Label::names(labels);
            let vec = must(
                name,
                prometheus::IntCounterVec::new(Opts::new(name, help), &names),
            );
            register(&self.inner.registry, name, vec.clone());
            Typed::CounterFamily(Family::new(vec, labels, self.inner.label_overflows.clone()))
        });
        match made {
            Typed::CounterFamily(f) if f.has_labels(labels) => f,
            _ => conflict(name),
        }
    }

    /// Gauges that differ by labels.
    ///
    /// # Panics
    /// When the name or a label breaks the naming rule, or stands for something else already.
    pub fn gauge_family(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[Label],
    ) -> GaugeFamily {
        check_name(name, false);
        let made = self.make(name, help, || {
            let names = Label::names(labels);
            let vec = must(
                name,
                prometheus::IntGaugeVec::new(Opts::new(name, help), &names),
            );
            register(&self.inner.registry, name, vec.clone());
            Typed::GaugeFamily(Family::new(vec, labels, self.inner.label_overflows.clone()))
        });
        match made {
            Typed::GaugeFamily(f) if f.has_labels(labels) => f,
            _ => conflict(name),
        }
    }

    /// Histograms that differ by labels.
    ///
    /// # Panics
    /// When the name or a label breaks the naming rule, or stands for something else already.
    pub fn histogram_family(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: Buckets,
        labels: &[Label],
    ) -> HistogramFamily {
        check_name(name, false);
        let made = self.make(name, help, || {
            let names = Label::names(labels);
            let opts = HistogramOpts::new(name, help).buckets(buckets.0.to_vec());
            let vec = must(name, prometheus::HistogramVec::new(opts, &names));
            register(&self.inner.registry, name, vec.clone());
            Typed::HistogramFamily(Family::new(vec, labels, self.inner.label_overflows.clone()))
        });
        match made {
            Typed::HistogramFamily(f) if f.has_labels(labels) => f,
            _ => conflict(name),
        }
    }

    /// Calls `collect` whenever the metrics are read, to add what it finds: for numbers that live
    /// elsewhere, such as a struct of atomics or the peers of the moment. It runs on the reader's
    /// thread, under a lock: it must not block and must not touch this registry. It ends when the
    /// returned registration is dropped.
    pub fn collect(&self, collect: impl Fn(&mut Samples) + Send + Sync + 'static) -> Registration {
        samples::Collectors::add(&self.inner.collectors, Box::new(collect))
    }

    /// One gauge read from a closure whenever the metrics are read.
    pub fn gauge_fn(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Registration {
        check_name(name, false);
        let labels = samples::owned(labels);
        self.collect(move |out| out.gauge(name, help, &samples::borrowed(&labels), read()))
    }

    /// One counter read from a closure whenever the metrics are read; its name ends in `_total`.
    pub fn counter_fn(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Registration {
        check_name(name, true);
        let labels = samples::owned(labels);
        self.collect(move |out| out.counter(name, help, &samples::borrowed(&labels), read()))
    }

    /// Everything in the Prometheus text format 0.0.4 ([`CONTENT_TYPE`]), families by name.
    pub fn text(&self) -> String {
        let mut families: BTreeMap<String, MetricFamily> = self
            .inner
            .registry
            .gather()
            .into_iter()
            .map(|f| (f.name().to_owned(), f))
            .collect();
        let dropped = self.inner.collectors.gather_into(&mut families);
        let dropped = self
            .inner
            .samples_dropped
            .fetch_add(dropped, Ordering::Relaxed)
            + dropped;
        samples::add_counter(
            &mut families,
            "gb6_metrics_samples_dropped_total",
            "Samples left out because a collector gave too many or contradicted another metric.",
            dropped,
        );
        families.retain(|_, f| !f.get_metric().is_empty());
        let families: Vec<MetricFamily> = families.into_values().collect();
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%error, "metrics could not be written in full");
        }
        text
    }

    fn make(
        &self,
        name: &'static str,
        help: &'static str,
        create: impl FnOnce() -> Typed,
    ) -> Typed {
        let mut made = self.inner.made.lock();
        let entry = made.entry(name).or_insert_with(|| Made {
            help,
            what: create(),
        });
        if entry.help != help {
            conflict(name);
        }
        entry.what.clone()
    }
}

/// The naming rule: `gb6_` and then lower-case words joined by `_`; a counter, and nothing else,
/// ends in `_total`.
fn check_name(name: &'static str, counter: bool) {
    let tail = name.strip_prefix("gb6_").unwrap_or("");
    let words = !tail.is_empty()
        && tail
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    assert!(
        words && name.ends_with("_total") == counter,
        "metric name {name:?}: must be gb6_ and lower-case words, and end in _total only if it is a counter"
    );
}

#[track_caller]
fn conflict(name: &str) -> ! {
    panic!("metric {name} is registered already with another type, help text or label set")
}

/// Metric constructors fail only on malformed names and labels, which are constants of the program.
#[track_caller]
fn must<T>(name: &str, made: Result<T, prometheus::Error>) -> T {
    made.unwrap_or_else(|error| panic!("metric {name} can not be made: {error}"))
}

#[track_caller]
fn register(registry: &Registry, name: &str, c: impl prometheus::core::Collector + 'static) {
    must(name, registry.register(Box::new(c)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_metric() {
        let m = Metrics::bare();
        let a = m.counter("gb6_test_total", "A test.");
        let b = m.clone().counter("gb6_test_total", "A test.");
        a.inc();
        b.inc_by(2);
        let text = m.text();
        assert!(text.contains("# HELP gb6_test_total A test.\n"), "{text}");
        assert!(
            text.contains("# TYPE gb6_test_total counter\ngb6_test_total 3\n"),
            "{text}"
        );
    }

    #[test]
    fn histograms_and_gauges_are_shown() {
        let m = Metrics::bare();
        m.gauge("gb6_test_sessions", "Sessions.").set(7);
        let h = m.histogram("gb6_test_seconds", "Time.", Buckets::SECONDS);
        h.observe(0.0003);
        h.observe(0.3);
        let text = m.text();
        assert!(text.contains("gb6_test_sessions 7\n"), "{text}");
        assert!(
            text.contains("gb6_test_seconds_bucket{le=\"0.0005\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("gb6_test_seconds_bucket{le=\"+Inf\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("gb6_test_seconds_count 2\n"), "{text}");
    }

    #[test]
    fn bad_names_are_refused() {
        for (name, counter) in [
            ("test_total", true),
            ("gb6_Test_total", true),
            ("gb6_test", true),
            ("gb6_test_total", false),
            ("gb6_", false),
            ("gb6_a-b", false),
        ] {
            let refused = std::panic::catch_unwind(|| check_name(name, counter)).is_err();
            assert!(refused, "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "registered already")]
    fn a_name_has_one_type() {
        let m = Metrics::bare();
        let _ = m.gauge("gb6_test_things", "Things.");
        let _ = m.histogram("gb6_test_things", "Things.", Buckets::COUNT);
    }

    #[test]
    #[should_panic(expected = "registered already")]
    fn a_family_has_one_set_of_labels() {
        let m = Metrics::bare();
        let _ = m.gauge_family("gb6_test_things", "Things.", &[Label::new("a", 2)]);
        let _ = m.gauge_family("gb6_test_things", "Things.", &[Label::new("b", 2)]);
    }

    #[test]
    fn buckets_ascend() {
        for b in [Buckets::SECONDS, Buckets::BYTES, Buckets::COUNT] {
            assert!(b.0.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn every_process_reports_itself() {
        let text = Metrics::new().text();
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "gb6_invariant_violations_total{invariant=\"ack_after_commit\"}",
            "gb6_metrics_samples_dropped_total 0",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
