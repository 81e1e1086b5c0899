//! Metrics that are read from closures when somebody looks: the bridge to numbers that live in a
//! link's or a shard's own struct of atomics.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::family::{OTHER, VALUE_BYTES_MAX};

/// Samples that one collector may give in one reading; further ones are left out and counted in
/// `gb6_metrics_samples_dropped_total`.
pub const SAMPLES_PER_COLLECTOR_MAX: usize = 4096;

/// Where a collector puts its samples.
pub struct Samples<'a> {
    families: &'a mut BTreeMap<String, MetricFamily>,
    room: usize,
    dropped: u64,
}

impl std::fmt::Debug for Samples<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Samples")
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

impl Samples<'_> {
    /// A gauge. `labels` are few and bounded; the name begins with `gb6_`.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        let mut metric = Metric::from_label(pairs(labels));
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, metric);
    }

    /// A counter. `labels` are few and bounded; the name begins with `gb6_` and ends in `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        self.counter_f64(name, help, labels, value as f64);
    }

    /// A counter of fractions, such as CPU seconds.
    pub(super) fn counter_f64(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        let mut metric = Metric::from_label(pairs(labels));
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, metric);
    }

    fn push(&mut self, name: &'static str, help: &'static str, kind: MetricType, metric: Metric) {
        if self.room == 0 {
            self.dropped += 1;
            return;
        }
        self.room -= 1;
        let family = self.families.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        // One name with two types, or one series twice, makes the whole page unreadable to a
        // scraper: the later sample is left out instead.
        let known = family.get_metric();
        if family.get_field_type() != kind
            || known.iter().any(|m| m.get_label() == metric.get_label())
        {
            self.dropped += 1;
            return;
        }
        family.mut_metric().push(metric);
    }
}

fn pairs(labels: &[(&'static str, &str)]) -> Vec<LabelPair> {
    let mut pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(name, value)| {
            let value = if value.len() > VALUE_BYTES_MAX {
                OTHER
            } else {
                *value
            };
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.to_owned());
            pair
        })
        .collect();
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    pairs
}

pub(super) fn owned(labels: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    labels.iter().map(|(n, v)| (*n, (*v).to_owned())).collect()
}

pub(super) fn borrowed<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().map(|(n, v)| (*n, v.as_str())).collect()
}

pub(super) fn add_counter(
    families: &mut BTreeMap<String, MetricFamily>,
    name: &'static str,
    help: &'static str,
    value: u64,
) {
    let mut samples = Samples {
        families,
        room: 1,
        dropped: 0,
    };
    samples.counter(name, help, &[], value);
}

type Collect = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// The closures of one registry, in the order in which they came.
#[derive(Default)]
pub(super) struct Collectors {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    collectors: BTreeMap<u64, Collect>,
}

impl Collectors {
    pub(super) fn add(this: &Arc<Self>, collect: Collect) -> Registration {
        let mut state = this.state.lock();
        let id = state.next;
        state.next += 1;
        state.collectors.insert(id, collect);
        drop(state);
        Registration {
            collectors: Some(this.clone()),
            id,
        }
    }

    /// Adds what every collector gives; returns how many samples had to be left out.
    pub(super) fn gather_into(&self, families: &mut BTreeMap<String, MetricFamily>) -> u64 {
        let state = self.state.lock();
        let mut dropped = 0;
        for collect in state.collectors.values() {
            let mut samples = Samples {
                families: &mut *families,
                room: SAMPLES_PER_COLLECTOR_MAX,
                dropped: 0,
            };
            collect(&mut samples);
            dropped += samples.dropped;
        }
        dropped
    }
}

/// A collector's place in the registry: dropping it ends the collector, and with it what its
/// closure holds.
#[must_use = "the metric ends when this is dropped: keep it beside what it reads, or call keep()"]
pub struct Registration {
    collectors: Option<Arc<Collectors>>,
    id: u64,
}

impl Registration {
    /// Lets the collector live as long as the registry.
    pub fn keep(mut self) {
        self.collectors = None;
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("id", &self.id)
            .finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(collectors) = self.collectors.take() {
            let ended = collectors.state.lock().collectors.remove(&self.id);
            // The closure may own things whose end takes locks: not under ours.
            drop(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn closures_are_read_when_somebody_looks_and_end_with_their_registration() {
        let m = Metrics::bare();
        let sent = Arc::new(AtomicU64::new(1));
        let read = sent.clone();
        let registration = m.counter_fn(
            "gb6_test_sent_total",
            "Sent.",
            &[("peer", "e1")],
            move || read.load(Ordering::Relaxed),
        );
        m.gauge_fn("gb6_test_ratio", "Ratio.", &[], || 0.5).keep();
        sent.store(42, Ordering::Relaxed);
        let text = m.text();
        assert!(
            text.contains("gb6_test_sent_total{peer=\"e1\"} 42\n"),
            "{text}"
        );
        assert!(text.contains("gb6_test_ratio 0.5\n"), "{text}");
        drop(registration);
        let text = m.text();
        assert!(!text.contains("gb6_test_sent_total"), "{text}");
        assert!(text.contains("gb6_test_ratio 0.5\n"), "{text}");
        assert_eq!(Arc::strong_count(&sent), 1, "the closure is gone");
    }

    #[test]
    fn two_collectors_share_a_family() {
        let m = Metrics::bare();
        for peer in ["e1", "e2"] {
            m.gauge_fn("gb6_test_rtt_seconds", "Rtt.", &[("peer", peer)], || 1.0)
                .keep();
        }
        let text = m.text();
        assert_eq!(
            text.matches("# TYPE gb6_test_rtt_seconds gauge").count(),
            1,
            "{text}"
        );
        assert_eq!(text.matches("gb6_test_rtt_seconds{").count(), 2, "{text}");
    }

    #[test]
    fn contradictions_and_floods_are_left_out_and_counted() {
        let m = Metrics::bare();
        m.counter("gb6_test_total", "A test.").inc();
        m.collect(|out| {
            out.gauge("gb6_test_total", "Not a counter.", &[], 1.0);
            out.gauge("gb6_test_twice", "Twice.", &[], 1.0);
            out.gauge("gb6_test_twice", "Twice.", &[], 2.0);
        })
        .keep();
        m.collect(|out| {
            for n in 0..SAMPLES_PER_COLLECTOR_MAX + 10 {
                out.counter(
                    "gb6_test_flood_total",
                    "Flood.",
                    &[("n", &n.to_string())],
                    1,
                );
            }
        })
        .keep();
        let text = m.text();
        assert!(text.contains("gb6_test_total 1\n"), "{text}");
        assert!(text.contains("gb6_test_twice 1\n"), "{text}");
        assert!(
            text.contains("gb6_metrics_samples_dropped_total 12\n"),
            "{text}"
        );
        assert_eq!(
            text.matches("gb6_test_flood_total{").count(),
            SAMPLES_PER_COLLECTOR_MAX
        );
    }
}
