//! What a shard's actor does by time: it looks after checkpoints, retention and a shard that is to
//! be acquired again, and shows its numbers.

use std::collections::BTreeSet;
use std::time::Instant;

use gb6_core_ports::StoreError;

use crate::checks;
use crate::metrics::ShardNumbers;
use crate::recovery::unix_ms;
use crate::regain::{Regain, Regained};
use crate::retention;
use crate::worker::{Ended, Worker};

impl Worker {
    /// What is done every now and then: time passes in the machine, checkpoints and retention are
    /// looked after, and what metrics show is brought up to date.
    pub(crate) fn tick(&mut self) -> Option<Ended> {
        self.shard.tick(self.now_ms(), unix_ms());
        self.ownership.log_silent_for(self.reader.log.silence());
        match self.regain.as_mut().map(Regain::poll) {
            None => {
                self.poll_checkpoint();
                if !self.poll_retention() {
                    return Some(Ended::Lost);
                }
            }
            Some(Regained::NotYet) => {}
            Some(Regained::Acquired(acquisition)) => {
                tracing::info!(shard = %self.reader.shard, "there is space again: the shard is acquired");
                return Some(Ended::Acquired(acquisition));
            }
            Some(Regained::Lost(error)) => {
                tracing::error!(shard = %self.reader.shard, %error, "the shard can not be acquired");
                return Some(Ended::Lost);
            }
        }
        let gauges = self.shard.gauges();
        checks::within_bounds(self.shard.config(), &gauges);
        let mut numbers = self.numbers.lock();
        *numbers = ShardNumbers {
            counters: self.shard.counters(),
            gauges,
            serving: self.shard.is_serving(),
            read_only: self.regain.is_some(),
            shard_epoch: self.fence.shard_epoch.0,
            tail_bytes: self.reader.tail.lock().bytes(),
            indexed: self.reader.index.applied(),
            next_position: self.shard.log_state().2,
            index_errors: self.reader.index.errors(),
            ..*numbers
        };
        None
    }

    fn poll_checkpoint(&mut self) {
        let now = Instant::now();
        match self.checkpoints.poll(now) {
            Some(Ok(saved)) => {
                let mut numbers = self.numbers.lock();
                numbers.checkpoint_position = saved.position;
                numbers.checkpoint_bytes = self.checkpoints.state_bytes();
            }
            Some(Err(error)) => {
                tracing::warn!(shard = %self.reader.shard, %error, "a checkpoint was not saved, and is tried again; until then a restart reads more of the log");
            }
            None => {}
        }
        if self.checkpoints.is_due(now) {
            let state = self.shard.checkpoint();
            self.checkpoints.save(self.reader.log.clone(), state, now);
        }
    }

    /// The last checkpoint of a drain: the next start replays nothing.
    pub(crate) async fn checkpoint_now(&mut self) {
        if self.regain.is_some() {
            return;
        }
        let (position, state) = self.shard.checkpoint();
        let log = self.reader.log.clone();
        let saving = tokio::task::spawn_blocking(move || log.save_checkpoint(position, &state));
        if let Ok(Err(error)) = saving.await {
            tracing::warn!(shard = %self.reader.shard, %error, "the last checkpoint was not saved");
        }
    }

    /// Forgets which messages were erased once neither log nor memory has their bodies.
    fn forget_erased(&mut self) {
        let pending: BTreeSet<_> = self.shard.erasures().cloned().collect();
        let tail = self.reader.tail.lock();
        self.reader.erased.lock().retain(|room, offset| {
            let in_memory = tail.first(room).is_some_and(|first| first <= offset);
            in_memory || pending.contains(&(room.clone(), offset))
        });
    }

    /// Looks what retention came to, and begins a run when one is due. `false` when the log takes no
    /// writes before it is acquired again: nobody may publish for long, and find out.
    fn poll_retention(&mut self) -> bool {
        if let Some(running) = &mut self.retaining {
            match running.poll() {
                Some(Ok(outcome)) => {
                    for (room, offset) in outcome.erased {
                        self.shard.erased(room, offset);
                    }
                    self.forget_erased();
                    if outcome.freed_bytes > 0 {
                        tracing::info!(shard = %self.reader.shard, bytes = outcome.freed_bytes, "space given back");
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(shard = %self.reader.shard, %error, "space could not be given back");
                    if let StoreError::OutcomeUnknown { .. } | StoreError::Closed = error {
                        return false;
                    }
                }
                None => return true,
            }
            self.retaining = None;
        }
        if self.retained_at.elapsed() < self.retention_every {
            return true;
        }
        self.retained_at = Instant::now();
        let plan = retention::Plan {
            fence: self.fence.clone(),
            first: self
                .shard
                .trimmed_rooms()
                .into_iter()
                .map(|(room, first)| ((room.instance, room.channel), first))
                .collect(),
            erase: self.shard.erasures().cloned().collect(),
            settled: self.checkpoints.settled(),
            next: self.shard.log_state().2,
        };
        self.retaining = Some(retention::Running::begin(self.reader.clone(), plan));
        true
    }
}
