//! For how long a shard's log has not let its owner serve it, or has not answered at all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// So long a log may not answer before the shard is another's to serve.
const LASTS_MS: u64 = 3_000;
/// As [`LASTS_MS`].
pub(crate) const LASTS: Duration = Duration::from_millis(LASTS_MS);
/// A log that has not answered for so long is not kept up with. Well below [`LASTS`]: where a log is
/// lost for everybody no standby is ready any more when its owner has waited for that.
pub(crate) const BEHIND: Duration = Duration::from_millis(1_500);

/// What has failed since the log last answered. Times are in ms of the node's clock.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// The first of them, one added; 0: nothing.
    since: AtomicU64,
    /// The last.
    latest: AtomicU64,
    /// The shard is not served: it is tried until it is.
    down: AtomicBool,
    /// For how long the log had not answered when that was last looked at, in ms. Nobody need have asked
    /// for anything.
    silence: AtomicU64,
}

impl Trouble {
    /// It is to be served, and that was not begun.
    pub(crate) fn waits(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.silence.store(0, Ordering::SeqCst);
    }

    /// An attempt to serve begins.
    pub(crate) fn begins(&self, now_ms: u64) {
        self.waits();
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

    /// For how long the log of a shard that is served has not answered.
    pub(crate) fn silent_for(&self, silence: Duration) {
        let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.silence.store(ms, Ordering::SeqCst);
    }

    /// Whether it has lasted long. Of a shard that is served only attempts count, and a log's silence:
    /// of what fails nothing is known to last where nobody asks for anything.
    fn lasts(&self, now_ms: u64) -> bool {
        let since = self.since.load(Ordering::SeqCst);
        let latest = match self.down.load(Ordering::SeqCst) {
            true => now_ms + 1,
            false => self.latest.load(Ordering::SeqCst),
        };
        let silent = self.silence.load(Ordering::SeqCst) >= LASTS_MS;
        silent || since > 0 && latest >= since + LASTS_MS
    }

    /// Whether the log answers: what was not, or not yet, for long neither way is not known.
    pub(crate) fn answers(&self, now_ms: u64) -> Option<bool> {
        if self.lasts(now_ms) {
            return Some(false);
        }
        let silence = Duration::from_millis(self.silence.load(Ordering::SeqCst));
        let troubled = self.down.load(Ordering::SeqCst) || self.since.load(Ordering::SeqCst) > 0;
        (!troubled && silence < BEHIND).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_lasts_by_itself_and_what_is_served_by_what_fails() {
        let trouble = Trouble::default();
        assert!(!trouble.lasts(9_000));
        trouble.waits();
        assert_eq!(trouble.answers(9_000), None, "nobody has asked it yet");
        trouble.begins(9_000);
        assert!(!trouble.lasts(11_999));
        assert_eq!(trouble.answers(11_999), None);
        assert!(trouble.lasts(12_000), "an attempt that never ends");
        trouble.begins(12_500);
        assert!(trouble.lasts(12_500), "it is not the first");
        assert_eq!(trouble.answers(12_500), Some(false));
        trouble.ends();
        assert!(!trouble.lasts(20_000));
        assert_eq!(trouble.answers(20_000), Some(true));
        trouble.failed(20_000);
        assert!(!trouble.lasts(60_000), "it may have been one alone");
        assert_eq!(trouble.answers(60_000), None);
        trouble.failed(23_000);
        assert!(trouble.lasts(23_000));
        trouble.ends();
        assert!(!trouble.lasts(23_000));
    }

    #[test]
    fn a_log_that_is_silent_is_trouble_where_nobody_asks_for_anything() {
        let trouble = Trouble::default();
        trouble.begins(1_000);
        trouble.ends();
        trouble.silent_for(BEHIND);
        assert!(!trouble.lasts(2_000));
        assert_eq!(trouble.answers(2_000), None);
        trouble.silent_for(LASTS);
        assert_eq!(trouble.answers(4_000), Some(false));
        trouble.silent_for(Duration::from_millis(20));
        assert_eq!(trouble.answers(4_100), Some(true));
        trouble.silent_for(LASTS);
        // It is tried anew: how that goes says more.
        trouble.begins(5_000);
        assert_eq!(trouble.answers(5_000), None);
    }
}
