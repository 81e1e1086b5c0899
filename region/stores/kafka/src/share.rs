//! What the open handles of a node may keep in memory: one budget, of which each has the same part. What
//! one does not use no other gets: so a part never has to be taken back from who is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use gb6_core_obs::metrics::{Gauge, GaugeFamily};

/// Bytes of batches of all handles that may wait for their answer.
const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The budget.
pub(crate) struct Budget {
    /// Bytes of batches that are kept because they may be read.
    kept: usize,
    handles: AtomicUsize,
    memory: GaugeFamily,
}

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum What {
    /// The newest batches.
    Cached,
    /// Pieces of history that were read from Kafka.
    Read,
    /// Batches that wait for their answer.
    Waiting,
}

/// The part of one handle.
pub(crate) struct Share {
    budget: Arc<Budget>,
    used: [(Gauge, AtomicI64); 3],
}

impl Budget {
    pub(crate) fn new(kept: usize, memory: &GaugeFamily) -> Arc<Self> {
        Arc::new(Self {
            kept,
            handles: AtomicUsize::new(0),
            memory: memory.clone(),
        })
    }

    /// That of one more handle.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        self.handles.fetch_add(1, Ordering::AcqRel);
        let used = ["cached", "read", "waiting"].map(|what| (self.memory.with(&[what]), 0.into()));
        Share {
            budget: self.clone(),
            used,
        }
    }
}

impl Share {
    /// Bytes that a handle may have of something of which it is to have `most` at most.
    pub(crate) fn of(&self, what: What, most: usize) -> usize {
        let handles = self.budget.handles.load(Ordering::Acquire).max(1);
        let part = match what {
            What::Cached => self.budget.kept / 4 * 3,
            What::Read => self.budget.kept / 4,
            What::Waiting => WAITING_BYTES_MAX,
        };
        most.min(part / handles)
    }

    /// So many bytes are used.
    pub(crate) fn uses(&self, what: What, bytes: usize) {
        let (gauge, before) = &self.used[what as usize];
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        gauge.add(bytes - before.swap(bytes, Ordering::AcqRel));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for what in [What::Cached, What::Read, What::Waiting] {
            self.uses(what, 0);
        }
        self.budget.handles.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_obs::metrics::{Label, Metrics};

    #[test]
    fn all_handles_together_have_the_budget_and_no_more() {
        let metrics = Metrics::bare();
        let memory = metrics.gauge_family("gb6_memory_bytes", "Bytes.", &[Label::new("what", 3)]);
        let budget = Budget::new(64 << 20, &memory);
        let first = budget.share();
        assert_eq!(first.of(What::Cached, 16 << 20), 16 << 20, "it is alone");
        let others: Vec<Share> = (0..63).map(|_| budget.share()).collect();
        let kept = |share: &Share| {
            let (cached, read) = (
                share.of(What::Cached, 16 << 20),
                share.of(What::Read, 4 << 20),
            );
            share.uses(What::Cached, cached);
            share.uses(What::Read, read);
            cached + read
        };
        let all: usize = others.iter().chain([&first]).map(kept).sum();
        assert_eq!(all, 64 << 20);
        assert_eq!(first.of(What::Waiting, 16 << 20), 4 << 20);
        let cached = format!("gb6_memory_bytes{{what=\"cached\"}} {}", 48 << 20);
        assert!(metrics.text().contains(&cached), "{}", metrics.text());
        drop(others);
        assert_eq!(first.of(What::Cached, 16 << 20), 16 << 20);
        drop(first);
        assert!(
            metrics
                .text()
                .contains("gb6_memory_bytes{what=\"cached\"} 0")
        );
    }
}
