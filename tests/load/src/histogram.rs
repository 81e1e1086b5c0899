//! Latencies in bounded memory: counts in buckets whose width grows with the value, so that every
//! quantile is known to within 0.8 % however many values there are.

use serde::Serialize;

/// Buckets per power of two, as a power of two: relative error 1/128.
const PRECISION_BITS: u32 = 7;
const PER_POWER: usize = 1 << PRECISION_BITS;
/// Enough for every `u64`.
const BUCKETS: usize = (64 - PRECISION_BITS as usize + 1) * PER_POWER;

/// A histogram of values (here: nanoseconds). Minimum, maximum and mean are exact.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let power = 63 - value.max(1).leading_zeros();
    if power < PRECISION_BITS {
        return value as usize;
    }
    let shift = power - PRECISION_BITS;
    let within = (value >> shift) as usize & (PER_POWER - 1);
    (shift as usize + 1) * PER_POWER + within
}

/// The largest value of a bucket.
fn bucket_max(index: usize) -> u64 {
    let (row, within) = (index / PER_POWER, (index % PER_POWER) as u64);
    match row.checked_sub(1) {
        None => within,
        Some(shift) => {
            let low = (PER_POWER as u64 + within) << shift;
            low + ((1u64 << shift) - 1)
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub(crate) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The value that the fraction `q` (0 to 1) of all values does not exceed; 0 without values.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return bucket_max(index).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// The mean; 0 without values.
    pub(crate) fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.sum as f64 / self.count as f64
        }
    }

    /// The figures that are reported.
    pub(crate) fn summary(&self) -> Latency {
        let us = |ns: u64| ns as f64 / 1000.0;
        Latency {
            count: self.count,
            mean_us: self.mean() / 1000.0,
            p50_us: us(self.quantile(0.5)),
            p90_us: us(self.quantile(0.9)),
            p99_us: us(self.quantile(0.99)),
            p999_us: us(self.quantile(0.999)),
            max_us: us(self.max),
        }
    }
}

/// Quantiles in microseconds of a histogram of nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(crate) struct Latency {
    /// How many values.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % are not above it.
    pub p90_us: f64,
    /// 99 % are not above it.
    pub p99_us: f64,
    /// 99.9 % are not above it.
    pub p999_us: f64,
    /// The largest.
    pub max_us: f64,
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |us: f64| {
            if us < 1000.0 {
                format!("{us:.0} us")
            } else {
                format!("{:.2} ms", us / 1000.0)
            }
        };
        write!(
            f,
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            show(self.p50_us),
            show(self.p90_us),
            show(self.p99_us),
            show(self.p999_us),
            show(self.max_us)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_cover_every_value_in_order() {
        let mut edges: Vec<u64> = (0..2000).collect();
        for power in 0..64 {
            let low = 1u64 << power;
            edges.extend([low - 1, low, low.saturating_add(1)]);
        }
        edges.push(u64::MAX);
        edges.sort_unstable();
        for pair in edges.windows(2) {
            assert!(bucket(pair[0]) <= bucket(pair[1]), "{pair:?}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_max(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        assert_eq!(Histogram::default().quantile(0.99), 0);
        assert_eq!(Histogram::default().summary(), Latency::default());
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_value_within_its_precision(value: u64) {
            let max = bucket_max(bucket(value));
            prop_assert!(max >= value);
            prop_assert!((max - value) as f64 <= value as f64 / PER_POWER as f64);
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0u64..10_000_000, 1..300),
            q in 0.0..=1.0f64,
        ) {
            let mut whole = Histogram::default();
            values.iter().for_each(|value| whole.record(*value));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let found = whole.quantile(q);
            prop_assert!(found >= exact, "{} {}", found, exact);
            prop_assert!((found - exact) as f64 <= exact as f64 / PER_POWER as f64);
            prop_assert_eq!(whole.count(), values.len() as u64);
            prop_assert_eq!(whole.quantile(1.0), *values.last().unwrap());
        }
    }
}
