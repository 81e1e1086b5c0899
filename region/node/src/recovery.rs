//! Taking ownership of a shard: checkpoint, replay, acquire. Blocks; runs off the async threads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, ShardEpoch};
use gb6_core_ports::{Acquire, Acquired, Fence, LogRange, ShardLog, StoreError, wait};
use gb6_region_assign::next_epoch;
use gb6_region_shard::{CheckpointError, Shard, ShardConfig};
use prost::Message;

use crate::recent::Recent;
use crate::recoveries::Progress;

/// Records replayed at once.
const PAGE_RECORDS: usize = 8192;
/// Bytes replayed at once.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Records at the end of the log that are read although the checkpoint covers them: the index may
/// lack them.
const RECENT_RECORDS: u64 = 1024;
/// How often those are forgotten who have been silent, in ms of served time.
const FORGET_MS: u64 = 1_000;
/// How often ownership is tried against others who try too.
const ACQUIRE_TRIES: u32 = 8;

/// Why a shard can not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the log is at epoch {highest}, which is not below those of assignment {assignment}: the assignment is to be raised"
    )]
    EpochsUsedUp {
        assignment: u64,
        highest: ShardEpoch,
    },
}

/// Which epochs a shard is acquired under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Epochs {
    /// The next one, whatever it is: the placement says that nobody else owns the shard.
    Next,
    /// Those of this assignment alone.
    Of(u64),
}

impl Epochs {
    /// The epoch to acquire with where `highest` is the log's.
    ///
    /// # Errors
    /// `EpochsUsedUp`.
    pub(crate) fn above(self, highest: ShardEpoch) -> Result<ShardEpoch, RecoveryError> {
        match self {
            Epochs::Next => Ok(ShardEpoch(highest.0 + 1)),
            Epochs::Of(assignment) => {
                next_epoch(assignment, highest).ok_or(RecoveryError::EpochsUsedUp {
                    assignment,
                    highest,
                })
            }
        }
    }
}

/// A shard that is ready to serve.
pub(crate) struct Recovered {
    pub(crate) shard: Shard,
    pub(crate) standing: Standing,
    pub(crate) next_position: u64,
    /// By this, not by who followed the log before.
    pub(crate) replayed: Replayed,
    /// Bytes of log that were followed while others owned it, since the checkpoint that was begun with.
    pub(crate) followed: u64,
    pub(crate) recent: Recent,
}

/// What this node may do with a shard.
pub(crate) enum Standing {
    /// Everything: its acquire record is durable.
    Owner(Fence),
    /// Read it: there was no space for an acquire record. Under the fence nothing can be written.
    Reader(Fence, StoreError),
}

/// An ownership that began.
pub(crate) struct Acquisition {
    pub(crate) fence: Fence,
    pub(crate) acquired: Acquired,
}

/// What of the log was read to get there: bounded by the checkpoints, whatever the log's length.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Replayed {
    /// The position of the checkpoint, or the log's first.
    pub(crate) from: u64,
    /// Bytes of the checkpoint's state; 0 without one.
    pub(crate) state_bytes: u64,
    /// Records behind it.
    pub(crate) records: u64,
    /// Their bytes, encoded.
    pub(crate) bytes: u64,
}

/// Unix ms of the wall clock; 0 before 1970.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// The state of a shard, as far as its log has been read.
pub(crate) struct Replay {
    pub(crate) shard: Shard,
    /// The position that is read next.
    pub(crate) next: u64,
    /// The log's end when it was last read.
    pub(crate) end: u64,
    pub(crate) replayed: Replayed,
    pub(crate) recent: Recent,
    /// Served time in ms when those were forgotten who had been silent.
    forgot_ms: u64,
}

impl Replay {
    /// Restores the newest checkpoint that can be used, and tells each that was read. Nothing behind it is
    /// read yet.
    pub(crate) fn begin(
        log: &Arc<dyn ShardLog>,
        config: &ShardConfig,
        snapshot: &Arc<Snapshot>,
        read: impl Fn(),
    ) -> Result<Self, RecoveryError> {
        let mut shard = Shard::new(config.clone(), snapshot.clone());
        let LogRange { first, next } = log.range()?;
        let mut replayed = Replayed {
            from: first,
            ..Replayed::default()
        };
        let mut covered = 0;
        let mut before = u64::MAX;
        while let Some((position, state)) = log.load_checkpoint_before(before)? {
            read();
            match shard.restore(&state) {
                Ok(next) => {
                    covered = next;
                    replayed.from = next.max(first);
                    replayed.state_bytes = state.len() as u64;
                    break;
                }
                Err(error @ CheckpointError::Newer { .. }) => return Err(error.into()),
                Err(error) => {
                    // The one before leads to the same: more is replayed.
                    tracing::warn!(shard = config.shard.shard, position, %error, "the checkpoint is passed over");
                    shard = Shard::new(config.clone(), snapshot.clone());
                    before = position;
                }
            }
        }
        if covered < first {
            tracing::error!(
                region = config.shard.region,
                shard = config.shard.shard,
                first,
                covered,
                "neither of the checkpoints that cover what retention has removed can be read: rooms \
                 without kept messages begin anew, and message ids of the removed part are forgotten"
            );
        }
        let begin = replayed
            .from
            .min(next.saturating_sub(RECENT_RECORDS).max(first));
        Ok(Self {
            shard,
            next: begin,
            end: next,
            replayed,
            recent: Recent::default(),
            forgot_ms: 0,
        })
    }

    /// Reads on to the log's end. What the checkpoint covers is only remembered as recent.
    fn read_on(&mut self, log: &Arc<dyn ShardLog>, progress: &Progress) -> Result<(), StoreError> {
        loop {
            let more = self.read_page(log)?;
            progress.read();
            if !more {
                return Ok(());
            }
        }
    }

    /// Reads a page; whether there may be more.
    pub(crate) fn read_page(&mut self, log: &Arc<dyn ShardLog>) -> Result<bool, StoreError> {
        let page = log.read(self.next, PAGE_RECORDS, PAGE_BYTES)?;
        for record in page.records {
            if record.position >= self.replayed.from {
                self.shard.replay(&record);
                self.replayed.records += 1;
                self.replayed.bytes += record.encoded_len() as u64;
            }
            self.recent.push(record);
        }
        let (_, served_ms, _) = self.shard.log_state();
        if served_ms >= self.forgot_ms + FORGET_MS {
            self.forgot_ms = served_ms;
            self.shard.forget_silent();
        }
        let done = page.next >= page.end || page.next == self.next;
        (self.next, self.end) = (page.next, page.end);
        Ok(!done)
    }
}

/// Reads the checkpoint and the log behind it, or goes on from what was `followed`, acquires the shard
/// unless it is `held` already, and reads what came in between.
pub(crate) fn recover(
    log: &Arc<dyn ShardLog>,
    config: &ShardConfig,
    snapshot: &Arc<Snapshot>,
    (held, followed): (Option<Acquisition>, Option<Replay>),
    epochs: Epochs,
    progress: &Progress,
) -> Result<Recovered, RecoveryError> {
    let mut followed_bytes = 0;
    let mut replay = match followed {
        Some(mut followed) => {
            followed_bytes = followed.replayed.bytes;
            followed.replayed = Replayed {
                from: followed.next,
                state_bytes: followed.replayed.state_bytes,
                ..Replayed::default()
            };
            followed
        }
        None => Replay::begin(log, config, snapshot, || progress.read())?,
    };
    progress.made();
    replay.shard.set_snapshot(snapshot.clone());
    replay.read_on(log, progress)?;
    let (epoch, served_ms, _) = replay.shard.log_state();
    let acquisition = match held {
        Some(held) => Ok(held),
        None => acquire(log, config, (epoch, served_ms), epochs),
    };
    let (standing, next_position) = match acquisition {
        Ok(Acquisition { fence, acquired }) => {
            progress.read();
            // An owner before this one may have committed between the replay and the acquisition.
            replay.read_on(log, progress)?;
            if replay.next != acquired.range.next {
                // Another one has acquired the shard since.
                let (current, ..) = replay.shard.log_state();
                let fenced = StoreError::Fenced {
                    held: fence.shard_epoch,
                    current: ShardEpoch(current),
                };
                return Err(fenced.into());
            }
            (Standing::Owner(fence), acquired.range.next)
        }
        // Where others may own the shard, nobody shows what it does not own.
        Err(RecoveryError::Store(full @ StoreError::StorageFull { .. }))
            if epochs == Epochs::Next || log.caps().exclusive =>
        {
            // Of an epoch that is over, and an incarnation that never acquired anything.
            let fence = fence(config, ShardEpoch(epoch), random_incarnation()?);
            (Standing::Reader(fence, full), replay.next)
        }
        Err(error) => return Err(error),
    };
    Ok(Recovered {
        shard: replay.shard,
        standing,
        next_position,
        followed: followed_bytes,
        replayed: replay.replayed,
        recent: replay.recent,
    })
}

/// The fence of an ownership of this shard.
pub(crate) fn fence(
    config: &ShardConfig,
    shard_epoch: ShardEpoch,
    owner_incarnation: Incarnation,
) -> Fence {
    Fence {
        region: Arc::from(config.shard.region.as_str()),
        shard: gb6_core_model::ShardId(config.shard.shard),
        shard_epoch,
        owner_incarnation,
    }
}

/// What an acquire record begun now says.
pub(crate) fn acquisition(served_ms: u64) -> Acquire {
    Acquire {
        time: unix_ms(),
        served_ms,
    }
}

/// Acquires the shard above `log_state`: the highest epoch and the served time that the log says.
fn acquire(
    log: &Arc<dyn ShardLog>,
    config: &ShardConfig,
    (mut highest, served_ms): (u64, u64),
    epochs: Epochs,
) -> Result<Acquisition, RecoveryError> {
    let incarnation = random_incarnation()?;
    let mut tries = 0;
    loop {
        tries += 1;
        let epoch = epochs.above(ShardEpoch(highest))?;
        let fence = fence(config, epoch, incarnation);
        let wanted = acquisition(served_ms);
        match wait(|done| log.acquire(fence.clone(), wanted, done)) {
            Err(StoreError::Fenced { current, .. }) if tries < ACQUIRE_TRIES => {
                highest = current.0;
            }
            Err(error) => return Err(error.into()),
            Ok(acquired) => return Ok(Acquisition { fence, acquired }),
        }
    }
}

/// A number that no other life of this node has.
pub(crate) fn random_incarnation() -> Result<Incarnation, StoreError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::Unavailable {
            cause: "the system gives no randomness".into(),
        })?;
    Ok(Incarnation(u64::from_ne_bytes(bytes).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::limits;
    use gb6_core_ports::contract::log as contract;
    use gb6_core_ports::memory::MemoryStorage;
    use gb6_core_wire::mesh::ShardRef;
    use gb6_core_wire::record::{Kind, Origin, Record};

    use crate::keeper::Ownership;

    /// Some publishes and ends of sessions at a served time in ms, by edges of their own.
    fn by_edges(served_ms: u64, first: u64) -> Vec<Record> {
        let by = |n: u64, edge_incarnation: u64| Record {
            position: first + n,
            served_ms,
            origin: Some(Origin {
                edge_incarnation,
                session: 1,
                number: 1,
                ..Origin::default()
            }),
            ..contract::messages(first + n, "room:a", 1).remove(0)
        };
        let end = |n: u64, process: u64| Record {
            kind: Kind::Session.into(),
            offset: 0,
            ..by(n, process)
        };
        let (publish, end) = (by(0, served_ms * 2 + 1), end(1, served_ms * 2 + 2));
        vec![publish, end]
    }

    #[test]
    fn who_was_replaced_before_it_had_read_to_its_own_beginning_does_not_serve() {
        let storage = MemoryStorage::default();
        let log: Arc<dyn ShardLog> = Arc::new(storage.open());
        let config = ShardConfig::new(ShardRef {
            region: "eu".into(),
            shard: 0,
        });
        let fence = contract::fence(1);
        let acquired = contract::acquire(&*log, &fence).expect("acquired");
        let held = |acquired: &Acquired| Acquisition {
            fence: fence.clone(),
            acquired: acquired.clone(),
        };
        let begun = |acquired: &Acquired| {
            let held = (Some(held(acquired)), None);
            let progress = Progress::of(Ownership::Placed);
            recover(
                &log,
                &config,
                &Arc::default(),
                held,
                Epochs::Next,
                &progress,
            )
        };
        assert!(begun(&acquired).is_ok());
        let newer = contract::acquire(&storage.open(), &contract::fence(2));
        assert!(newer.is_ok());
        let error = begun(&acquired).err().expect("it is refused");
        let RecoveryError::Store(StoreError::Fenced { held, current }) = error else {
            panic!("{error}");
        };
        assert_eq!((held, current), (ShardEpoch(1), ShardEpoch(2)));
    }

    #[test]
    fn who_follows_a_log_for_long_does_not_remember_all_that_ever_published() {
        let storage = MemoryStorage::default();
        let log: Arc<dyn ShardLog> = Arc::new(storage.open());
        let fence = contract::fence(1);
        let mut next = contract::acquire(&*log, &fence)
            .expect("acquired")
            .range
            .next;
        let config = ShardConfig::new(ShardRef {
            region: "eu".into(),
            shard: 0,
        });
        let mut replay = Replay::begin(&log, &config, &Arc::default(), || ()).expect("a replay");
        let step = 500;
        let within = (limits::RESEND_WINDOW_MS + FORGET_MS) / step + 1;
        for n in 1..=4 * within {
            let batch = by_edges(n * step, next);
            next += batch.len() as u64;
            contract::append(&*log, &fence, batch).expect("appended");
            replay
                .read_on(&log, &Progress::of(Ownership::Placed))
                .expect("read");
            let gauges = replay.shard.gauges();
            let expected = n.min(limits::RESEND_WINDOW_MS / step) as usize;
            let bounds = expected..=within as usize;
            assert!(bounds.contains(&gauges.numbers), "{gauges:?}");
            assert!(bounds.contains(&gauges.session_processes), "{gauges:?}");
        }
    }
}
