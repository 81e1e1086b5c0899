//! How this node's own record is written: once, or a second time beside the first where that has no answer.
//!
//! A connection of the store that hangs without being closed (a router that forgot it, a machine that is
//! gone) is given up when its call's time is over, which is longer than a lease: others would take the
//! node's shards for nothing. So a change without an answer after a part of the lease is made again beside
//! the first, on another connection.
//!
//! Both are the same compare-and-set, on the same revision: at most one of them is made, and whichever it
//! is, the record is the same. The one that comes late finds the record at a later revision, and changes
//! nothing. A record that does not exist yet has no such revision, and is written once at a time: the late
//! one could bring it back after it was removed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Counter;
use gb6_core_ports::StoreError;
use gb6_region_assign::{Expected, Written};

use crate::panics::Guard;
use crate::store::{Change, Shared, spawn};

/// Threads that make attempts: one may still hang from the change before.
const LANES: usize = 3;
/// Attempts at one change.
const ATTEMPTS_MAX: u32 = 2;
/// How often it is looked whether a thread has come free, where all hang.
const LOOK: Duration = Duration::from_secs(1);

/// An attempt that has ended.
struct Ended {
    lane: usize,
    /// Of which change.
    number: u64,
    outcome: Written,
}

/// What makes the changes of this node's record, one after the other.
pub(crate) struct Beats {
    // overflow: none. A thread has one attempt at a time.
    lanes: Vec<SyncSender<(u64, Arc<Change>)>>,
    free: Vec<usize>,
    ended: Receiver<Ended>,
    /// The number of the last change.
    number: u64,
    /// After so long without an answer a change is made again.
    patience: Duration,
    again: Counter,
}

impl Beats {
    /// Starts the threads; they end when this is dropped, and what they do has ended.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(
        shared: &Shared,
        patience: Duration,
        again: Counter,
        guard: &Arc<Guard>,
    ) -> Result<Self, StoreError> {
        // overflow: none. Each thread has at most one answer that was not taken.
        let (ends, ended) = sync_channel(LANES);
        let mut lanes = Vec::new();
        for lane in 0..LANES {
            // overflow: none. Only a thread that is free is given one.
            let (attempts, attempted) = sync_channel::<(u64, Arc<Change>)>(1);
            let (shared, ends, guard) = (shared.clone(), ends.clone(), guard.clone());
            spawn(&format!("assign-beat-{lane}"), move || {
                while let Ok((number, change)) = attempted.recv() {
                    let outcome = shared.attempt(&change, &guard);
                    let ended = Ended {
                        lane,
                        number,
                        outcome,
                    };
                    if ends.send(ended).is_err() {
                        return;
                    }
                }
            })?;
            lanes.push(attempts);
        }
        Ok(Self {
            free: (0..lanes.len()).collect(),
            lanes,
            ended,
            number: 0,
            patience,
            again,
        })
    }

    /// Makes a change: the first answer counts that says what has become of it.
    pub(crate) fn make(&mut self, change: &Arc<Change>) -> Written {
        self.number += 1;
        let attempts_max = match change.expected {
            Expected::Absent => 1,
            Expected::Revision(_) => ATTEMPTS_MAX,
        };
        let (mut attempts, mut under_way) = (0, 0);
        let mut next_at = Instant::now();
        loop {
            let more = attempts < attempts_max;
            if more && next_at <= Instant::now() && self.attempt(change) {
                attempts += 1;
                under_way += 1;
                next_at = Instant::now() + self.patience;
                if attempts > 1 {
                    self.again.inc();
                }
                continue;
            }
            let wait = match more && !self.free.is_empty() {
                true => next_at.saturating_duration_since(Instant::now()),
                false => LOOK,
            };
            let ended = match self.ended.recv_timeout(wait) {
                Ok(ended) => ended,
                Err(RecvTimeoutError::Timeout) => continue,
                // No thread is left, which is told as what it may be.
                Err(RecvTimeoutError::Disconnected) => return Written::Unknown,
            };
            self.free.push(ended.lane);
            if ended.number != self.number {
                continue;
            }
            under_way -= 1;
            match ended.outcome {
                // It says nothing of an attempt beside it.
                Written::Failed if under_way > 0 => {}
                outcome => return outcome,
            }
        }
    }

    /// Begins an attempt; `false`: no thread is free.
    fn attempt(&mut self, change: &Arc<Change>) -> bool {
        let Some(lane) = self.free.pop() else {
            return false;
        };
        let attempt = (self.number, change.clone());
        self.lanes[lane].try_send(attempt).is_ok()
    }
}

#[cfg(test)]
mod tests;
