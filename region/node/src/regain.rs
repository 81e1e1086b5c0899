//! A shard that can be read and not be written: its disk has no space for an acquire record. It is
//! asked for again until there is.
//!
//! Reading without owning is safe here because the data directory is locked by this process: what
//! the log holds is final, was made durable before it is shown, and nobody else can add to it.
//! Nothing is written before the acquisition, so nothing new can be acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_ports::{ShardLog, StoreError};
use gb6_region_shard::ShardConfig;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::recovery::{Acquisition, acquire, random_incarnation};

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
    config: ShardConfig,
    /// The highest shard epoch of the log, and its served time in ms.
    log_state: (u64, u64),
    /// What the last attempt failed with.
    full: StoreError,
    pause: Duration,
    again: Instant,
    pending: Option<oneshot::Receiver<Result<Acquisition, StoreError>>>,
}

impl Regain {
    pub(crate) fn new(
        log: Arc<dyn ShardLog>,
        config: ShardConfig,
        log_state: (u64, u64),
        full: StoreError,
    ) -> Self {
        Self {
            log,
            config,
            log_state,
            full,
            pause: PAUSE,
            again: Instant::now() + PAUSE,
            pending: None,
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

    fn attempt(&self) -> oneshot::Receiver<Result<Acquisition, StoreError>> {
        let (done, pending) = oneshot::channel();
        let (log, config, log_state) = (self.log.clone(), self.config.clone(), self.log_state);
        tokio::task::spawn_blocking(move || {
            let answer = random_incarnation()
                .and_then(|incarnation| acquire(&log, &config, log_state, incarnation));
            // The actor polls for it, or has ended.
            let _ = done.send(answer);
        });
        pending
    }
}
