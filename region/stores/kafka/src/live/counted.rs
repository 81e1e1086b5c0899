//! What the messages of the partition mean for a handle: which count, and what becomes of its own that wait
//! for that.

use std::time::Instant;

use bytes::Bytes;
use gb6_core_model::Position;
use gb6_core_ports::{Acquired, Fence, LogRange, StoreError};

use super::{Acquiring, Answer, Holding, Live};
use crate::frame::{FrameError, FrameHeader};
use crate::kept::{Batch, damage, read_message};
use crate::tail::{Passed, Tail, Verdict};

impl Live {
    /// Kafka has a message of this handle at `offset`, durably.
    ///
    /// # Errors
    /// The log is damaged.
    pub(crate) fn delivered(
        &mut self,
        token: u64,
        offset: u64,
        now: Instant,
    ) -> Result<(), StoreError> {
        let seen = offset < self.tail.offset;
        if let Some(confirm) = self.confirms.get_mut(token) {
            confirm.offset = Some(offset);
        } else if let Some(acquiring) = self.acquiring.as_mut().filter(|a| a.token == token) {
            acquiring.offset = Some(offset);
            if seen {
                self.acquisition_lost();
            }
        } else if let Some(at) = self.staging.by_token(token) {
            if seen {
                // It was read back, and did not count.
                self.fail_from(at, None);
            } else if let Some(sent) = self.staging.get_mut(at) {
                sent.offset = Some(offset);
            }
        }
        self.advance(now)
    }

    /// Takes messages of this handle's own as far as nothing lies between.
    fn advance(&mut self, now: Instant) -> Result<(), StoreError> {
        loop {
            let next = self.tail.offset;
            let sent = || self.staging.get(self.staging.by_offset(next)?);
            let own = match &self.acquiring {
                Some(own) if own.offset == Some(next) => {
                    Some((own.header, own.served_ms, &own.message))
                }
                _ => sent().map(|own| (own.header, 0, &own.message)),
            };
            let asked = || {
                let confirm = self.confirms.at(next)?;
                Some((confirm.header, 0, &confirm.message))
            };
            let Some((header, served_ms, message)) = own.or_else(asked) else {
                return Ok(());
            };
            let message = message.clone();
            self.apply(next, header, served_ms, message, now)?;
        }
    }

    /// A message was read from the partition. Those that are known already are passed over.
    ///
    /// # Errors
    /// `Corrupt`, `Format`: nothing behind it can be read.
    pub(crate) fn seen(
        &mut self,
        offset: u64,
        message: Bytes,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.check_whole()?;
        if offset >= self.tail.offset {
            self.take(offset, message, now)?;
            self.advance(now)?;
        }
        Ok(())
    }

    fn take(&mut self, offset: u64, message: Bytes, now: Instant) -> Result<(), StoreError> {
        let read = read_message(self.shard, &message);
        let (header, served_ms) = match read {
            Ok(read) => read,
            Err(FrameError::Foreign) => {
                self.tail.pass(offset);
                self.counts.foreign += 1;
                tracing::warn!(topic = self.topic, shard = %self.shard, offset, "a message that gb6 did not write is passed over: nobody else may write to this topic");
                return Ok(());
            }
            Err(error) => {
                let error = damage(&self.topic, Some(offset), self.tail.next, &error);
                self.breaks(error.clone());
                return Err(error);
            }
        };
        self.apply(offset, header, served_ms, message, now)
    }

    fn apply(
        &mut self,
        offset: u64,
        header: FrameHeader,
        served_ms: u64,
        message: Bytes,
        now: Instant,
    ) -> Result<(), StoreError> {
        let before = Tail {
            offset,
            ..self.tail
        };
        match self.tail.take(offset, &header, served_ms) {
            Verdict::Acquired(_) => {
                self.keep(before, header, message);
                self.acquired(&header)
            }
            Verdict::Committed(first) => {
                // One without records only shows who owns the shard.
                if header.count > 0 {
                    self.keep(before, header, message.clone());
                }
                self.committed(&header, first, &message, now);
                Ok(())
            }
            Verdict::PassedOver(why) => {
                self.counts.passed_over += 1;
                self.passed_over(offset, why);
                Ok(())
            }
        }
    }

    fn keep(&mut self, before: Tail, header: FrameHeader, message: Bytes) {
        let batch = Batch {
            first: before.next,
            next: self.tail.next,
            header,
            served_ms: self.tail.served_ms,
            message,
        };
        self.kept.push(before, batch);
    }

    fn acquired(&mut self, header: &FrameHeader) -> Result<(), StoreError> {
        let ours = |fence: &Fence| self.owns(fence);
        if let Some(held) = &self.holding
            && !ours(&held.fence)
        {
            let error = self.fenced(&held.fence);
            if !self.staging.is_empty() {
                self.counts.fenced += 1;
            }
            for done in self.staging.take_all() {
                self.answers
                    .push_back(Answer::Commit(done, Err(error.clone())));
            }
        }
        let is_ours = |a: &mut Acquiring| {
            (a.fence.shard_epoch, a.fence.owner_incarnation)
                == (header.shard_epoch, header.owner_incarnation)
        };
        let Some(acquiring) = self.acquiring.take_if(is_ours) else {
            return Ok(());
        };
        let batch = self.kept.newest().map(|batch| batch.records(&self.topic));
        let record = match batch {
            Some(Ok(records)) => records.into_iter().next(),
            Some(Err(error)) => return Err(error),
            None => None,
        };
        self.staging.next = self.tail.next;
        self.holding = Some(Holding {
            fence: acquiring.fence,
            failed: None,
        });
        let acquired = Acquired {
            record: record.unwrap_or_default(),
            range: LogRange {
                first: self.first,
                next: self.tail.next,
            },
        };
        self.answers
            .push_back(Answer::Acquire(acquiring.done, Box::new(Ok(acquired))));
        Ok(())
    }

    fn committed(&mut self, header: &FrameHeader, first: Position, message: &Bytes, now: Instant) {
        let next = self.tail.next;
        if let Some(sent) = self.staging.take_first((first, next), message) {
            self.wrote = Some(now);
            let answers = sent.commits(now);
            self.answers
                .extend(answers.map(|(done, commit)| Answer::Commit(done, Ok(commit))));
            return;
        }
        // Something else of ours is in that place, of which it was said that it was not written: what
        // waits does not count any more, and nothing can be given behind it.
        let is_ours = self.holding.as_ref().is_some_and(|held| {
            (held.fence.shard_epoch, held.fence.owner_incarnation)
                == (header.shard_epoch, header.owner_incarnation)
        });
        if is_ours && header.count > 0 {
            self.fail_from(0, None);
        }
    }

    fn passed_over(&mut self, offset: u64, why: Passed) {
        let acquiring = self.acquiring.as_ref();
        if acquiring.is_some_and(|a| a.offset == Some(offset)) {
            self.acquisition_lost();
        } else if let Some(at) = self.staging.by_offset(offset) {
            tracing::debug!(topic = self.topic, shard = %self.shard, offset, ?why, "a batch of ours does not count");
            self.fail_from(at, None);
        }
    }

    fn acquisition_lost(&mut self) {
        if let Some(acquiring) = self.acquiring.take() {
            self.counts.fenced += 1;
            let error = self.fenced(&acquiring.fence);
            self.answers
                .push_back(Answer::Acquire(acquiring.done, Box::new(Err(error))));
        }
    }

    /// What lies before `tail` is in the archive. `bytes` is what [`Live::end`] said of it, if it did.
    /// Where the archive is ahead of what was read, reading goes on there.
    pub(crate) fn archived(&mut self, tail: Tail, bytes: Option<u64>) {
        if tail.offset > self.tail.offset {
            // What waits may have counted there, before the ownership that archived it began.
            let unknown = StoreError::OutcomeUnknown {
                cause: "the log was archived by another owner before this batch was seen in it"
                    .into(),
            };
            for done in self.staging.take_all() {
                self.answers
                    .push_back(Answer::Commit(done, Err(unknown.clone())));
                if let Some(held) = &mut self.holding {
                    held.failed.get_or_insert_with(|| unknown.clone());
                }
            }
            self.tail = tail;
            self.staging.next = self.staging.next.max(tail.next);
        }
        self.kept.archived(tail, bytes);
    }
}
