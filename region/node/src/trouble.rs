//! For how long a shard's log has not let its owner serve it, or has not answered at all. What is read all
//! the time is neither, however long it takes.

use std::time::Duration;

use parking_lot::Mutex;

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
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When the first of what has failed did, or last got on.
    since: Option<u64>,
    /// When the last of it did.
    latest: u64,
    /// The shard is not served: it is tried until it is.
    down: bool,
    /// When the first attempt to serve it began.
    begun: Option<u64>,
    /// The attempt that is under way.
    attempt: Option<Attempt>,
    /// For how long the log had not answered when that was last looked at, in ms. Nobody need have asked
    /// for anything.
    silence: u64,
}

/// An attempt to serve the shard.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// When something was last read, or it began.
    last: u64,
    /// Something was read.
    reads: bool,
}

impl State {
    fn wait(&mut self) {
        self.end_attempt();
        self.down = true;
        self.silence = 0;
    }

    /// What of the attempt is left is that it failed.
    fn end_attempt(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.since.get_or_insert(attempt.last);
        }
    }

    /// Whether the attempt that is under way has read something of late.
    fn reads_on(&self, now_ms: u64) -> bool {
        let reads = |attempt: Attempt| attempt.reads && now_ms < attempt.last + LASTS_MS;
        self.attempt.is_some_and(reads)
    }

    /// Whether it has lasted long. Of a shard that is served only attempts count, and a log's silence:
    /// of what fails nothing is known to last where nobody asks for anything.
    fn lasts(&self, now_ms: u64) -> bool {
        if self.silence >= LASTS_MS {
            return true;
        }
        let begun = self.attempt.map(|attempt| attempt.last);
        match (self.down, self.since.or(begun)) {
            (true, Some(since)) => !self.reads_on(now_ms) && now_ms >= since + LASTS_MS,
            (false, Some(since)) => self.latest >= since + LASTS_MS,
            (_, None) => false,
        }
    }
}

impl Trouble {
    /// It is to be served, and that was not begun.
    pub(crate) fn waits(&self) {
        self.state.lock().wait();
    }

    /// An attempt to serve begins. A log that was silent before the shard was lost has been so since then:
    /// an owner that is cut off finds out by what it waits for, and its standby need not wait as long again.
    pub(crate) fn begins(&self, now_ms: u64) {
        let mut state = self.state.lock();
        let silent = state.silence;
        let since = now_ms.saturating_sub(silent);
        state.wait();
        if Duration::from_millis(silent) >= BEHIND {
            state.since = Some(state.since.map_or(since, |earlier| earlier.min(since)));
        }
        state.begun.get_or_insert(since);
        let (last, reads) = (now_ms, false);
        state.attempt = Some(Attempt { last, reads });
    }

    /// The attempt has read something.
    pub(crate) fn reads(&self, now_ms: u64) {
        if let Some(attempt) = &mut self.state.lock().attempt {
            (attempt.last, attempt.reads) = (now_ms, true);
        }
    }

    /// The attempt has failed, unless the log has answered.
    pub(crate) fn attempt_ends(&self) {
        self.state.lock().end_attempt();
    }

    /// The log did not take what it was given.
    pub(crate) fn failed(&self, now_ms: u64) {
        let mut state = self.state.lock();
        state.latest = now_ms;
        state.since.get_or_insert(now_ms);
    }

    /// The log has answered.
    pub(crate) fn ends(&self) {
        let mut state = self.state.lock();
        let silence = state.silence;
        *state = State {
            silence,
            ..State::default()
        };
    }

    /// For how long the log of a shard that is served has not answered.
    pub(crate) fn silent_for(&self, silence: Duration) {
        let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.state.lock().silence = ms;
    }

    /// Whether the log answers: what was not, or not yet, for long neither way is not known.
    pub(crate) fn answers(&self, now_ms: u64) -> Option<bool> {
        let state = *self.state.lock();
        if state.lasts(now_ms) {
            return Some(false);
        }
        let silence = Duration::from_millis(state.silence);
        let troubled = state.down || state.since.is_some();
        (!troubled && silence < BEHIND).then_some(true)
    }

    /// Whether the shard has not been served for long although its log is read all the time.
    pub(crate) fn is_slow(&self, now_ms: u64) -> bool {
        let state = *self.state.lock();
        let long = state.begun.is_some_and(|begun| now_ms >= begun + LASTS_MS);
        long && state.reads_on(now_ms) && !state.lasts(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_lasts_by_itself_and_what_is_served_by_what_fails() {
        let trouble = Trouble::default();
        assert_eq!(trouble.answers(9_000), Some(true));
        trouble.waits();
        assert_eq!(trouble.answers(9_000), None, "nobody has asked it yet");
        trouble.begins(9_000);
        assert_eq!(trouble.answers(11_999), None);
        let never_ends = trouble.answers(12_000);
        assert_eq!(never_ends, Some(false), "an attempt that never ends");
        trouble.begins(12_500);
        assert_eq!(trouble.answers(12_500), Some(false), "it is not the first");
        trouble.ends();
        assert_eq!(trouble.answers(20_000), Some(true));
        trouble.failed(20_000);
        assert_eq!(trouble.answers(60_000), None, "it may have been one alone");
        trouble.failed(23_000);
        assert_eq!(trouble.answers(23_000), Some(false));
        trouble.ends();
        assert_eq!(trouble.answers(23_000), Some(true));
    }

    #[test]
    fn an_attempt_that_reads_on_is_slow_and_no_silence() {
        let trouble = Trouble::default();
        trouble.begins(1_000);
        for now in (1_500..20_000).step_by(500) {
            trouble.reads(now);
            assert_eq!(trouble.answers(now + 499), None, "{now}");
            assert_eq!(trouble.is_slow(now), now >= 4_000, "{now}");
        }
        // The last was read at 19.5 s.
        assert_eq!(trouble.answers(22_499), None);
        assert_eq!(trouble.answers(22_500), Some(false));
        assert!(!trouble.is_slow(22_500));
        trouble.reads(23_000);
        assert!(trouble.is_slow(23_000) && trouble.answers(23_000).is_none());
        trouble.ends();
        assert_eq!(trouble.answers(23_000), Some(true));
        assert!(!trouble.is_slow(23_000));
    }

    #[test]
    fn attempts_that_read_and_fail_all_the_same_are_as_bad_as_silence() {
        let trouble = Trouble::default();
        let mut unable_at = None;
        for now in (0..10_000).step_by(1_000) {
            trouble.begins(now);
            trouble.reads(now + 100);
            assert_eq!(trouble.answers(now + 100), None, "it may be served now");
            trouble.attempt_ends();
            if trouble.answers(now + 200) == Some(false) {
                unable_at.get_or_insert(now + 200);
            }
        }
        assert_eq!(unable_at, Some(3_200));
        // One that failed before, and a long one.
        trouble.begins(10_000);
        trouble.reads(10_001);
        assert_eq!(trouble.answers(13_000), None);
    }

    #[test]
    fn a_log_that_is_silent_is_trouble_where_nobody_asks_for_anything() {
        let trouble = Trouble::default();
        trouble.begins(1_000);
        trouble.ends();
        trouble.silent_for(BEHIND);
        assert_eq!(trouble.answers(2_000), None);
        trouble.silent_for(LASTS);
        assert_eq!(trouble.answers(4_000), Some(false));
        trouble.silent_for(Duration::from_millis(20));
        assert_eq!(trouble.answers(4_100), Some(true));
        // It is tried anew, and was silent before.
        trouble.silent_for(BEHIND);
        trouble.begins(5_000);
        assert_eq!(trouble.answers(6_499), None);
        assert_eq!(trouble.answers(6_500), Some(false));
        trouble.ends();
        trouble.silent_for(BEHIND / 2);
        trouble.begins(10_000);
        assert_eq!(
            trouble.answers(12_999),
            None,
            "as any log that is not written to"
        );
        assert_eq!(trouble.answers(13_000), Some(false));
    }

    #[test]
    fn what_is_read_of_elsewhere_does_not_hide_that_the_log_was_silent() {
        let trouble = Trouble::default();
        trouble.silent_for(LASTS);
        trouble.failed(5_000);
        trouble.begins(5_000);
        assert_eq!(trouble.answers(5_000), Some(false));
        trouble.reads(5_000);
        assert!(trouble.is_slow(5_000), "as one that is read for as long");
    }
}
