//! Taking ownership of a shard: checkpoint, replay, acquire. Blocks; runs off the async threads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, ShardEpoch};
use gb6_core_ports::{Acquire, Acquired, Fence, LogRange, ShardLog, StoreError, wait};
use gb6_region_shard::{CheckpointError, Shard, ShardConfig};
use prost::Message;

use crate::recent::Recent;

/// Records replayed at once.
const PAGE_RECORDS: usize = 8192;
/// Bytes replayed at once.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Records at the end of the log that are read although the checkpoint covers them: the index may
/// lack them.
const RECENT_RECORDS: u64 = 1024;
/// How often ownership is tried against others who try too.
const ACQUIRE_TRIES: u32 = 8;

/// Why a shard can not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A shard that is ready to serve.
pub(crate) struct Recovered {
    pub(crate) shard: Shard,
    pub(crate) standing: Standing,
    pub(crate) next_position: u64,
    pub(crate) replayed: Replayed,
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

/// Reads the checkpoint and the log behind it, acquires the shard unless it is `held` already, and
/// reads what came in between.
pub(crate) fn recover(
    log: &Arc<dyn ShardLog>,
    config: &ShardConfig,
    snapshot: &Arc<Snapshot>,
    held: Option<Acquisition>,
) -> Result<Recovered, RecoveryError> {
    let mut shard = Shard::new(config.clone(), snapshot.clone());
    let LogRange { first, next } = log.range()?;
    let mut replayed = Replayed {
        from: first,
        ..Replayed::default()
    };
    let mut covered = 0;
    let mut before = u64::MAX;
    while let Some((position, state)) = log.load_checkpoint_before(before)? {
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
    let mut recent = Recent::default();
    let begin = replayed
        .from
        .min(next.saturating_sub(RECENT_RECORDS).max(first));
    let next = replay(log, &mut shard, begin, &mut replayed, &mut recent)?;
    let (epoch, served_ms, _) = shard.log_state();
    let acquisition = match held {
        Some(held) => Ok(held),
        None => acquire(log, config, (epoch, served_ms), random_incarnation()?),
    };
    let (standing, next_position) = match acquisition {
        Ok(Acquisition { fence, acquired }) => {
            // An owner before this one may have committed between the replay and the acquisition.
            let next = replay(log, &mut shard, next, &mut replayed, &mut recent)?;
            debug_assert_eq!(next, acquired.range.next);
            (Standing::Owner(fence), acquired.range.next)
        }
        Err(full @ StoreError::StorageFull { .. }) => {
            // Of an epoch that is over, and an incarnation that never acquired anything.
            let fence = fence(config, ShardEpoch(epoch), random_incarnation()?);
            (Standing::Reader(fence, full), next)
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Recovered {
        shard,
        standing,
        next_position,
        replayed,
        recent,
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
    (mut epoch, served_ms): (u64, u64),
    incarnation: Incarnation,
) -> Result<Acquisition, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let fence = fence(config, ShardEpoch(epoch + 1), incarnation);
        let wanted = acquisition(served_ms);
        match wait(|done| log.acquire(fence.clone(), wanted, done)) {
            Err(StoreError::Fenced { current, .. }) if tries < ACQUIRE_TRIES => epoch = current.0,
            other => return other.map(|acquired| Acquisition { fence, acquired }),
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

/// Reads from `from` to the log's end; returns where it ended. What the checkpoint covers is only
/// remembered as recent.
fn replay(
    log: &Arc<dyn ShardLog>,
    shard: &mut Shard,
    mut from: u64,
    replayed: &mut Replayed,
    recent: &mut Recent,
) -> Result<u64, StoreError> {
    loop {
        let page = log.read(from, PAGE_RECORDS, PAGE_BYTES)?;
        for record in page.records {
            if record.position >= replayed.from {
                shard.replay(&record);
                replayed.records += 1;
                replayed.bytes += record.encoded_len() as u64;
            }
            recent.push(record);
        }
        let done = page.next >= page.end || page.next == from;
        from = page.next;
        if done {
            return Ok(from);
        }
    }
}
