//! When a shard's state is saved, and what retention may rely on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_ports::{ShardLog, StoreError};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// The longest pause before a checkpoint that could not be saved is tried again.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// When checkpoints are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointEvery {
    pub(crate) bytes: u64,
    pub(crate) interval: Duration,
}

impl CheckpointEvery {
    /// Bytes of log after which one is made.
    fn enough(&self, state_bytes: u64) -> u64 {
        // A large state is written less often, so that checkpoints never outweigh the log.
        self.bytes.max(state_bytes.saturating_mul(2))
    }

    /// About how many of the bytes that a standby has followed no checkpoint covers: the owners before
    /// made one whenever there were enough of them. That keeps shards that are taken over together from
    /// making theirs together, at once.
    pub(crate) fn left_by_others(&self, followed: u64, state_bytes: u64) -> u64 {
        let enough = self.enough(state_bytes);
        followed.checked_rem(enough).unwrap_or(followed)
    }
}

/// The checkpoints of one ownership.
pub(crate) struct Checkpoints {
    every: CheckpointEvery,
    /// Bytes of log that no checkpoint covers.
    uncovered: u64,
    /// When the newest one was begun.
    at: Instant,
    /// Not before, because the last attempt failed.
    not_before: Instant,
    saving: Option<Saving>,
    /// Bytes of the newest state.
    state_bytes: u64,
    settled: u64,
}

struct Saving {
    pending: oneshot::Receiver<Result<Saved, StoreError>>,
    begun: Instant,
    /// Bytes of log that it covers.
    covers: u64,
    state_bytes: u64,
}

/// A checkpoint that was read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    pub(crate) position: u64,
    /// The position of the one before, if that can be read too.
    pub(crate) older: Option<u64>,
}

impl Checkpoints {
    /// For an ownership that began with a state of `state_bytes` and `uncovered` bytes of log
    /// behind it. Those count too: a region that is killed again and again must not read ever more.
    pub(crate) fn new(
        every: CheckpointEvery,
        uncovered: u64,
        state_bytes: u64,
        now: Instant,
    ) -> Self {
        Self {
            every,
            uncovered,
            at: now,
            not_before: now,
            saving: None,
            state_bytes,
            settled: 0,
        }
    }

    /// Bytes were written to the log.
    pub(crate) fn written(&mut self, bytes: u64) {
        self.uncovered += bytes;
    }

    /// The position of the older of the two kept checkpoints, once both were read back; 0 before.
    /// Retention removes nothing behind it: whichever of the two a restart can use, the log has
    /// everything that it does not cover.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// Bytes of the newest state.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Whether one is to be made now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let enough = self.every.enough(self.state_bytes);
        let late = now.duration_since(self.at) >= self.every.interval;
        self.saving.is_none()
            && now >= self.not_before
            && (self.uncovered >= enough || (late && self.uncovered > 0))
    }

    /// Begins to save `state`, which covers everything written so far. Must be called on a runtime.
    pub(crate) fn save(
        &mut self,
        log: Arc<dyn ShardLog>,
        (position, state): (u64, Bytes),
        now: Instant,
    ) {
        let (done, pending) = oneshot::channel();
        self.saving = Some(Saving {
            pending,
            begun: now,
            covers: self.uncovered,
            state_bytes: state.len() as u64,
        });
        tokio::task::spawn_blocking(move || {
            // The actor polls for it, or has ended.
            let _ = done.send(save_and_read_back(&*log, position, &state));
        });
    }

    /// What a save has come to, once. One that failed counts for nothing, and is tried again.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Result<Saved, StoreError>> {
        let ended = match self.saving.as_mut()?.pending.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => Err(StoreError::Unavailable {
                cause: "saving the checkpoint failed".into(),
            }),
            Ok(ended) => ended,
        };
        let saving = self.saving.take()?;
        match &ended {
            Ok(saved) => {
                self.uncovered -= saving.covers;
                self.at = saving.begun;
                self.state_bytes = saving.state_bytes;
                self.settled = saved.older.unwrap_or(0);
            }
            Err(_) => self.not_before = now + self.every.interval.min(RETRY_MAX),
        }
        Some(ended)
    }
}

/// Saves a checkpoint and reads it and the one before again: what retention may rely on must be
/// readable.
fn save_and_read_back(
    log: &dyn ShardLog,
    position: u64,
    state: &[u8],
) -> Result<Saved, StoreError> {
    log.save_checkpoint(position, state)?;
    match log.load_checkpoint_before(position + 1)? {
        Some((found, read)) if found == position && read == state => {}
        found => {
            return Err(StoreError::Conflict {
                what: format!(
                    "the checkpoint at {position} was saved and {:?} was read back",
                    found.map(|(position, _)| position)
                ),
            });
        }
    }
    let older = log.load_checkpoint_before(position)?;
    Ok(Saved {
        position,
        older: older.map(|(position, _)| position),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_ports::memory::MemoryStorage;

    const EVERY: CheckpointEvery = CheckpointEvery {
        bytes: 1000,
        interval: Duration::from_secs(60),
    };

    async fn ended(checkpoints: &mut Checkpoints, now: Instant) -> Result<Saved, StoreError> {
        loop {
            if let Some(ended) = checkpoints.poll(now) {
                return ended;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_failed_save_was_to_cover_still_counts() {
        let storage = MemoryStorage::default();
        let log: Arc<dyn ShardLog> = Arc::new(storage.open());
        let begin = Instant::now();
        let mut checkpoints = Checkpoints::new(EVERY, 0, 0, begin);
        checkpoints.written(999);
        assert!(!checkpoints.is_due(begin));
        checkpoints.written(1);
        assert!(checkpoints.is_due(begin));
        storage.refuse_checkpoints(true);
        checkpoints.save(log.clone(), (0, Bytes::from_static(b"state")), begin);
        assert!(!checkpoints.is_due(begin), "one at a time");
        assert!(ended(&mut checkpoints, begin).await.is_err());
        assert!(!checkpoints.is_due(begin), "not at once");
        let again = begin + RETRY_MAX;
        assert!(checkpoints.is_due(again), "nothing was written meanwhile");
        storage.refuse_checkpoints(false);
        checkpoints.save(log, (0, Bytes::from_static(b"state")), again);
        checkpoints.written(10);
        assert!(ended(&mut checkpoints, again).await.is_ok());
        assert_eq!(checkpoints.settled(), 0, "there is no older one");
        assert!(!checkpoints.is_due(again));
        assert!(checkpoints.is_due(again + EVERY.interval), "10 bytes");
    }

    #[test]
    fn a_large_state_is_written_less_often() {
        let begin = Instant::now();
        let mut checkpoints = Checkpoints::new(EVERY, 0, 5_000, begin);
        checkpoints.written(9_999);
        assert!(!checkpoints.is_due(begin));
        checkpoints.written(1);
        assert!(checkpoints.is_due(begin));
        let killed = Checkpoints::new(EVERY, 1_000, 0, begin);
        assert!(killed.is_due(begin), "what was replayed counts");
        let followed = |bytes| EVERY.left_by_others(bytes, 0);
        assert_eq!([followed(900), followed(86_400_900)], [900, 900]);
        let taken = Checkpoints::new(EVERY, followed(86_400_900), 0, begin);
        assert!(!taken.is_due(begin), "whoever owned it made theirs");
        let idle = Checkpoints::new(EVERY, 0, 0, begin);
        assert!(!idle.is_due(begin + 2 * EVERY.interval));
    }
}
