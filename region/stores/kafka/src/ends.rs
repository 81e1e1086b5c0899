//! Where a partition ends, when it seems to have lost what was read of it. A leader that was cut off from
//! the others, and does not know it, says that it ends early and is wrong. What such a leader can not do
//! is take a message as durably as any other: so it is asked by writing one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_ports::{Fence, StoreError};
use parking_lot::{Condvar, Mutex};

use crate::cluster::Cluster;
use crate::frame;
use crate::producer::{Delivery, Receiver};

/// What is wrong with a partition of which everything before `read` was read, and that ends at `said` as
/// its leader says. `proven` asks by writing.
///
/// # Errors
/// `Unavailable`: the leader is not to be believed, or it can not be told now. Anything else: what
/// `lost` says.
pub(crate) fn check(
    read: u64,
    said: u64,
    proven: impl FnOnce() -> Result<u64, StoreError>,
    lost: impl FnOnce(u64) -> StoreError,
) -> Result<(), StoreError> {
    if read <= said {
        return Ok(());
    }
    let unavailable = |cause: String| StoreError::Unavailable { cause };
    match proven() {
        Ok(end) if end < read => Err(lost(end)),
        Ok(_) => Err(unavailable(format!(
            "a broker says that the partition ends at offset {said}, and it goes on at {read}: it does not lead any more"
        ))),
        Err(error) => Err(unavailable(format!(
            "a broker says that the partition ends at offset {said}, what lies up to {read} was read, and which is right can not be told now: {error}"
        ))),
    }
}

/// The offset that a message gets which is written now and counts for nothing: it is of no ownership.
/// Blocks.
///
/// # Errors
/// It was not written, as far as is known within `patience`.
pub(crate) fn proven(
    cluster: &Cluster,
    shard: ShardId,
    patience: Duration,
) -> Result<u64, StoreError> {
    let nobody = Fence {
        region: String::new().into(),
        shard,
        shard_epoch: ShardEpoch(0),
        owner_incarnation: Incarnation(0),
    };
    let message = frame::encode_batch(&nobody, 0, &[]);
    let asked = Arc::new(Asked::default());
    let delivery = Delivery {
        receiver: asked.clone(),
        token: 0,
    };
    let partition = shard.0 as i32;
    cluster
        .producer
        .send(&cluster.topic, partition, &message, delivery)?;
    let deadline = Instant::now() + patience;
    let mut answer = asked.answer.lock();
    loop {
        if let Some(answer) = answer.take() {
            return answer;
        }
        if asked.given.wait_until(&mut answer, deadline).timed_out() {
            return Err(StoreError::Unavailable {
                cause: format!("Kafka took no message within {patience:?}"),
            });
        }
    }
}

#[derive(Default)]
struct Asked {
    answer: Mutex<Option<Result<u64, StoreError>>>,
    given: Condvar,
}

impl Receiver for Asked {
    fn delivered(self: Arc<Self>, _: u64, result: Result<u64, StoreError>) {
        *self.answer.lock() = Some(result);
        self.given.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(end: u64) -> StoreError {
        StoreError::Conflict {
            what: format!("it ends at {end}"),
        }
    }

    #[test]
    fn a_leaders_word_alone_breaks_nothing() {
        let unasked = || panic!("nothing seems to be lost");
        assert_eq!(check(7, 7, unasked, lost), Ok(()));
        let stale = check(9, 7, || Ok(9), lost).expect_err("it has more");
        assert!(stale.retryable(), "{stale}");
        let silent = || {
            Err(StoreError::OutcomeUnknown {
                cause: "no answer".into(),
            })
        };
        let unknown = check(9, 7, silent, lost).expect_err("nobody knows");
        assert!(unknown.retryable(), "{unknown}");
        assert!(unknown.to_string().contains("no answer"), "{unknown}");
        // What takes a message behind fewer than were read has lost some.
        assert_eq!(check(9, 7, || Ok(7), lost), Err(lost(7)));
    }
}
