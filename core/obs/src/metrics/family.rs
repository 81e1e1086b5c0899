//! Metrics that differ by labels, with a bound on the values of each label: a value that comes
//! from outside (an instance, a peer) must never let a scrape grow without end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Counter;
use parking_lot::Mutex;

/// Counters that differ by labels.
pub type CounterFamily = Family<prometheus::IntCounterVec>;
/// Gauges that differ by labels.
pub type GaugeFamily = Family<prometheus::IntGaugeVec>;
/// Histograms that differ by labels.
pub type HistogramFamily = Family<prometheus::HistogramVec>;

/// A vector of the library's: what [`Family`] needs of it.
pub trait Children {
    /// One child.
    type Metric;
    /// The child with these label values, made if it is new.
    fn child(&self, values: &[&str]) -> Self::Metric;
    /// Ends the child with these label values, if there is one.
    fn end(&self, values: &[&str]);
}

macro_rules! children {
    ($($vec:ty => $metric:ty),+) => {$(
        impl Children for $vec {
            type Metric = $metric;
            fn child(&self, values: &[&str]) -> $metric {
                self.with_label_values(values)
            }
            fn end(&self, values: &[&str]) {
                // An error says that there is no such child: then it has ended.
                let _ = self.remove_label_values(values);
            }
        }
    )+};
}
children!(
    prometheus::IntCounterVec => Counter,
    prometheus::IntGaugeVec => super::Gauge,
    prometheus::HistogramVec => super::Histogram
);

/// What a value beyond the bound is counted as.
pub(super) const OTHER: &str = "other";
/// Longest label value in bytes; a longer one counts as beyond the bound.
pub(super) const VALUE_BYTES_MAX: usize = 128;

/// A label and how many different values it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    name: &'static str,
    values_max: usize,
}

impl Label {
    /// A label with at most `values_max` different values; those that come later are counted
    /// together as `other`.
    pub const fn new(name: &'static str, values_max: usize) -> Self {
        Self { name, values_max }
    }

    pub(super) fn names(labels: &[Label]) -> Vec<&'static str> {
        labels.iter().map(|l| l.name).collect()
    }
}

/// Metrics that differ by labels. Cloning shares them. Take a child once with [`Family::with`] and
/// keep it: looking one up takes a lock.
pub struct Family<V: Children> {
    inner: Arc<Inner<V>>,
}

struct Inner<V: Children> {
    vec: V,
    labels: Vec<Label>,
    children: Mutex<BTreeSet<Vec<String>>>,
    overflows: Counter,
}

impl<V: Children> Clone for Family<V> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<V: Children> std::fmt::Debug for Family<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family")
            .field("labels", &self.inner.labels)
            .finish_non_exhaustive()
    }
}

impl<V: Children> Family<V> {
    pub(super) fn new(vec: V, labels: &[Label], overflows: Counter) -> Self {
        Self {
            inner: Arc::new(Inner {
                vec,
                labels: labels.to_vec(),
                children: Mutex::default(),
                overflows,
            }),
        }
    }

    pub(super) fn has_labels(&self, labels: &[Label]) -> bool {
        self.inner.labels == labels
    }

    /// The child with these label values, in the order of the labels; a value beyond its label's
    /// bound is taken as `other`.
    ///
    /// # Panics
    /// When the number of values is not that of the labels.
    pub fn with(&self, values: &[&str]) -> V::Metric {
        let inner = &*self.inner;
        assert_eq!(values.len(), inner.labels.len(), "one value for each label");
        let mut children = inner.children.lock();
        let asked: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        let key = if children.contains(&asked) {
            asked
        } else {
            let key: Vec<String> = asked
                .into_iter()
                .enumerate()
                .map(|(i, v)| self.bounded(&children, i, v))
                .collect();
            children.insert(key.clone());
            key
        };
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        inner.vec.child(&key)
    }

    /// Ends the child with these label values, for something that is gone; its values make room
    /// for others. Whoever still holds it counts unseen.
    pub fn remove(&self, values: &[&str]) {
        let mut children = self.inner.children.lock();
        let key: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        if children.remove(&key) {
            self.inner.vec.end(values);
        }
    }

    fn bounded(&self, children: &BTreeSet<Vec<String>>, i: usize, value: String) -> String {
        let used: BTreeSet<&str> = children
            .iter()
            .map(|k| k[i].as_str())
            .filter(|v| *v != OTHER)
            .collect();
        let fits = used.contains(value.as_str()) || used.len() < self.inner.labels[i].values_max;
        if fits && value.len() <= VALUE_BYTES_MAX {
            value
        } else {
            self.inner.overflows.inc();
            OTHER.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn values_beyond_the_bound_are_other() {
        let m = Metrics::bare();
        let f = m.counter_family(
            "gb6_test_total",
            "A test.",
            &[Label::new("instance", 2), Label::new("code", 8)],
        );
        for instance in ["a", "b", "c", "d", "a"] {
            f.with(&[instance, "111"]).inc();
        }
        f.with(&[&"x".repeat(129), "100"]).inc();
        let text = m.text();
        for line in [
            "gb6_test_total{code=\"111\",instance=\"a\"} 2\n",
            "gb6_test_total{code=\"111\",instance=\"b\"} 1\n",
            "gb6_test_total{code=\"111\",instance=\"other\"} 2\n",
            "gb6_test_total{code=\"100\",instance=\"other\"} 1\n",
            "gb6_metrics_label_overflows_total 3\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("\"c\"") && !text.contains("xxx"), "{text}");
    }

    #[test]
    fn a_removed_child_makes_room() {
        let m = Metrics::bare();
        let f = m.gauge_family("gb6_test_peers", "Peers.", &[Label::new("peer", 1)]);
        f.with(&["e1"]).set(1);
        f.remove(&["e1"]);
        f.with(&["e2"]).set(5);
        let text = m.text();
        assert!(text.contains("gb6_test_peers{peer=\"e2\"} 5\n"), "{text}");
        assert!(!text.contains("e1"), "{text}");
    }

    #[test]
    fn a_child_taken_twice_is_one() {
        let m = Metrics::bare();
        let labels = [Label::new("class", 4)];
        let f = m.histogram_family("gb6_test_seconds", "T.", crate::Buckets::SECONDS, &labels);
        f.with(&["live"]).observe(1.0);
        f.clone().with(&["live"]).observe(1.0);
        assert_eq!(f.with(&["live"]).get_sample_count(), 2);
    }
}
