//! For how long a shard's log has not let its owner serve it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// So long a log may not answer before the shard is another's to serve.
const LASTS_MS: u64 = 3_000;

/// What has failed since the log last answered. Times are in ms of the node's clock.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// The first of them, one added; 0: nothing.
    since: AtomicU64,
    /// The last.
    latest: AtomicU64,
    /// The shard is not served: it is tried until it is.
    down: AtomicBool,
}

impl Trouble {
    /// An attempt to serve begins.
    pub(crate) fn begins(&self, now_ms: u64) {
        self.down.store(true, Ordering::SeqCst);
        self.failed(now_ms);
    }

    /// The log did not take what it was given.
    pub(crate) fn failed(&self, now_ms: u64) {
        self.latest.store(now_ms + 1, Ordering::SeqCst);
        let first = self.since.load(Ordering::SeqCst) == 0;
        if first {
            self.since.store(now_ms + 1, Ordering::SeqCst);
        }
    }

    /// The log has answered.
    pub(crate) fn ends(&self) {
        self.down.store(false, Ordering::SeqCst);
        self.since.store(0, Ordering::SeqCst);
    }

    /// Whether it has lasted long. Of a shard that is served only attempts count: where nobody asks
    /// for anything, nothing is known to last.
    pub(crate) fn lasts(&self, now_ms: u64) -> bool {
        let since = self.since.load(Ordering::SeqCst);
        let latest = match self.down.load(Ordering::SeqCst) {
            true => now_ms + 1,
            false => self.latest.load(Ordering::SeqCst),
        };
        since > 0 && latest >= since + LASTS_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_lasts_by_itself_and_what_is_served_by_what_fails() {
        let trouble = Trouble::default();
        assert!(!trouble.lasts(9_000));
        trouble.begins(9_000);
        assert!(!trouble.lasts(11_999));
        assert!(trouble.lasts(12_000), "an attempt that never ends");
        trouble.begins(12_500);
        assert!(trouble.lasts(12_500), "it is not the first");
        trouble.ends();
        assert!(!trouble.lasts(20_000));
        trouble.failed(20_000);
        assert!(!trouble.lasts(60_000), "it may have been one alone");
        trouble.failed(23_000);
        assert!(trouble.lasts(23_000));
        trouble.ends();
        assert!(!trouble.lasts(23_000));
    }
}
