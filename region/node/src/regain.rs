//! A shard that can be read and not be written: its disk has no space for an acquire record. It is
//! asked for again until there is.
//!
//! Reading without owning is safe here because the log is this process' alone
//! ([`gb6_core_ports::LogCaps::exclusive`], or the placement says so): what it holds is final, was made durable before it is shown, and nobody else can add to it.
//! Nothing is written before the acquisition, so nothing new can be acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::ShardEpoch;
use gb6_core_ports::{ShardLog, StoreError, wait};
use gb6_region_shard::ShardConfig;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::keeper::Ownership;
use crate::recovery::{Acquisition, acquisition, fence, random_incarnation};

/// The first pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What an attempt came to.
pub(crate) enum Regained {
    /// There is no space yet, or no answer.
    NotYet,
    /// The shard is acquired, and can be served as its owner.
    Acquired(Box<Acquisition>),
    /// Something else is wrong: the log must be read again.
    Lost(StoreError),
}

/// Asks for a shard again and again.
pub(crate) struct Regain {
    log: Arc<dyn ShardLog>,
    /// What says under which epoch it is asked for.
    ownership: Ownership,
    config: ShardConfig,
    /// The highest shard epoch of the log, and its served time in ms.
    log_state: (u64, u64),
    /// What the last attempt failed with.
    full: StoreError,
    pause: Duration,
    again: Instant,
    pending: Option<oneshot::Receiver<Result<Acquisition, StoreError>>>,
    /// Whether attempts may still ask the log. Held while one asks: when this is dropped, whatever
    /// was asked lies in the log's queue, before what the next owner asks.
    wanted: Arc<Mutex<bool>>,
}

impl Drop for Regain {
    fn drop(&mut self) {
        *self.wanted.lock() = false;
    }
}

impl Regain {
    pub(crate) fn new(
        (log, ownership): (Arc<dyn ShardLog>, Ownership),
        config: ShardConfig,
        log_state: (u64, u64),
        full: StoreError,
    ) -> Self {
        Self {
            log,
            ownership,
            config,
            log_state,
            full,
            pause: PAUSE,
            again: Instant::now() + PAUSE,
            pending: None,
            wanted: Arc::new(Mutex::new(true)),
        }
    }

    /// Why nothing can be written.
    pub(crate) fn why(&self) -> StoreError {
        self.full.clone()
    }

    /// Begins an attempt when one is due, or answers what the last one came to.
    pub(crate) fn poll(&mut self) -> Regained {
        let Some(pending) = &mut self.pending else {
            if self.again <= Instant::now() {
                self.pending = Some(self.attempt());
            }
            return Regained::NotYet;
        };
        let answer = match pending.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return Regained::NotYet,
            Err(TryRecvError::Closed) => Err(StoreError::Unavailable {
                cause: "acquiring the shard failed".into(),
            }),
        };
        self.pending = None;
        match answer {
            Ok(acquisition) => Regained::Acquired(Box::new(acquisition)),
            Err(full @ StoreError::StorageFull { .. }) => {
                self.full = full;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.again = Instant::now() + self.pause;
                Regained::NotYet
            }
            Err(error) => Regained::Lost(error),
        }
    }

    /// Asks once, under one epoch: who finds a newer owner is not to fence it.
    fn attempt(&self) -> oneshot::Receiver<Result<Acquisition, StoreError>> {
        let (done, pending) = oneshot::channel();
        let (log, config, log_state) = (self.log.clone(), self.config.clone(), self.log_state);
        let (wanted, epochs) = (self.wanted.clone(), self.ownership.epochs());
        tokio::task::spawn_blocking(move || {
            let (epoch, served_ms) = log_state;
            let answer = random_incarnation().and_then(|incarnation| {
                // An assignment that must be raised first is raised where the log is read again.
                let epoch = epochs.above(ShardEpoch(epoch));
                let epoch = epoch.map_err(|error| StoreError::Unavailable {
                    cause: error.to_string(),
                })?;
                let fence = fence(&config, epoch, incarnation);
                let acquired = wait(|done| {
                    let wanted = wanted.lock();
                    // Else it answers because it is dropped, and nobody asks for what that is.
                    if *wanted {
                        log.acquire(fence.clone(), acquisition(served_ms), done);
                    }
                })?;
                Ok(Acquisition { fence, acquired })
            });
            // The actor polls for it, or has ended.
            let _ = done.send(answer);
        });
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_ports::contract::log as contract;
    use gb6_core_ports::memory::{MemoryLogConfig, MemoryStorage};
    use gb6_core_wire::mesh::ShardRef;
    use std::sync::mpsc;

    fn regain(storage: &MemoryStorage) -> Regain {
        let shard = ShardRef {
            region: "eu".into(),
            shard: 0,
        };
        let full = StoreError::StorageFull { path: "x".into() };
        let config = ShardConfig::new(shard);
        let log = Arc::new(storage.open());
        let mut regain = Regain::new((log, Ownership::Placed), config, (4, 0), full);
        regain.again = Instant::now();
        regain
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.max_blocking_threads(1).build().expect("a runtime")
    }

    #[test]
    fn an_attempt_that_finds_a_newer_owner_leaves_it_alone() {
        let storage = MemoryStorage::new(MemoryLogConfig::default());
        let owner = storage.open();
        contract::acquire(&owner, &contract::fence(5)).expect("acquired");
        runtime().block_on(async {
            let mut regain = regain(&storage);
            let error = loop {
                match regain.poll() {
                    Regained::NotYet => tokio::task::yield_now().await,
                    Regained::Acquired(_) => panic!("the owner is fenced"),
                    Regained::Lost(error) => break error,
                }
            };
            assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
        });
        let batch = contract::messages(1, "room:a", 1);
        contract::append(&owner, &contract::fence(5), batch).expect("the owner goes on");
    }

    #[test]
    fn an_attempt_whose_owner_has_ended_asks_for_nothing() {
        let storage = MemoryStorage::new(MemoryLogConfig::default());
        runtime().block_on(async {
            // overflow: it is only ever closed.
            let (release, waits) = mpsc::sync_channel::<()>(0);
            // The only thread that attempts run on is busy until the owner has ended.
            tokio::task::spawn_blocking(move || waits.recv());
            let mut regain = regain(&storage);
            assert!(matches!(regain.poll(), Regained::NotYet));
            drop(regain);
            drop(release);
            tokio::task::spawn_blocking(|| {}).await.expect("it ends");
        });
        assert_eq!(storage.open().range().expect("a range").next, 0);
    }
}
