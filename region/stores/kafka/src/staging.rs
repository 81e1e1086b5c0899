//! Batches of an owner on their way into its shard's partition: where the next one begins, which are taken,
//! and which wait for the word that they count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::Position;
use gb6_core_ports::{Commit, Completion, Fence, StoreError};
use gb6_core_wire::record::Record;

use crate::frame::{self, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader};

/// Most records in one batch.
pub(crate) const BATCH_RECORDS_MAX: usize = 4096;
/// Most encoded bytes in one batch of several records.
pub(crate) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of batches that may wait for their answer.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A batch that waits for its answer.
pub(crate) struct Pending {
    pub(crate) token: u64,
    pub(crate) first: Position,
    pub(crate) next: Position,
    pub(crate) header: FrameHeader,
    pub(crate) message: Bytes,
    pub(crate) since: Instant,
    /// Where Kafka says that it lies.
    pub(crate) offset: Option<u64>,
    pub(crate) done: Completion<Commit>,
}

impl Pending {
    /// What is answered at `now`, when it counts.
    pub(crate) fn commit(&self, now: Instant) -> Commit {
        let micros = now.saturating_duration_since(self.since).as_micros() as u64;
        Commit {
            first: self.first,
            next: self.next,
            elapsed_us: micros,
            sync_us: micros,
            shared: (self.next - self.first) as u32,
            bytes: self.message.len().saturating_sub(FRAME_HEADER_BYTES) as u64,
        }
    }
}

/// Those of one handle, in the order in which they were given.
pub(crate) struct Staging {
    /// Where the next batch begins: behind everything that waits.
    pub(crate) next: Position,
    /// Why the last batch was refused: those that were given behind it, before their giver could know,
    /// fail in the same way.
    pub(crate) refused: Option<StoreError>,
    pending: VecDeque<Pending>,
    bytes: usize,
}

impl Staging {
    /// Of a log that ends before `next`.
    pub(crate) fn new(next: Position) -> Self {
        Self {
            next,
            refused: None,
            pending: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Makes a batch's message, its records being numbered on from the last one.
    ///
    /// # Errors
    /// It is not taken.
    pub(crate) fn stage(
        &mut self,
        fence: &Fence,
        batch: &mut [Record],
    ) -> Result<Bytes, StoreError> {
        let given = batch.first().map_or(self.next, |r| r.position);
        match &self.refused {
            // Numbered as if the refused ones had been committed.
            Some(error) if given > self.next => return Err(error.clone()),
            // One without records has no number.
            _ if batch.is_empty() => {}
            _ => self.refused = None,
        }
        for (record, position) in batch.iter_mut().zip(self.next..) {
            if record.position != position {
                return Err(StoreError::Conflict {
                    what: format!(
                        "a record has position {}, the log goes on at {position}",
                        record.position
                    ),
                });
            }
            record.shard_epoch = fence.shard_epoch.0;
            record.owner_incarnation = fence.owner_incarnation.0;
        }
        let too_large = |size: usize, limit: usize| StoreError::TooLarge {
            size: size as u64,
            limit: limit as u64,
        };
        if batch.len() > BATCH_RECORDS_MAX {
            return Err(too_large(batch.len(), BATCH_RECORDS_MAX));
        }
        // overflow: refused; whoever gives batches has to wait.
        if self.bytes > WAITING_BYTES_MAX {
            return Err(StoreError::Backpressure {
                waiting: self.bytes as u64,
                limit: WAITING_BYTES_MAX as u64,
            });
        }
        let message = frame::encode_batch(fence, self.next, batch);
        let bytes = message.len() - FRAME_HEADER_BYTES;
        match batch.len() {
            0 | 1 if message.len() > FRAME_BYTES_MAX => Err(too_large(bytes, FRAME_BYTES_MAX)),
            2.. if bytes > BATCH_BYTES_MAX => Err(too_large(bytes, BATCH_BYTES_MAX)),
            _ => Ok(message),
        }
    }

    /// A message of [`Staging::stage`] with `count` records is under way as `token`.
    pub(crate) fn push(
        &mut self,
        fence: &Fence,
        count: usize,
        (token, message): (u64, Bytes),
        now: Instant,
        done: Completion<Commit>,
    ) {
        let first = self.next;
        self.next += count as u64;
        self.bytes += message.len();
        self.pending.push_back(Pending {
            token,
            first,
            next: self.next,
            header: FrameHeader::of(fence, first, count as u32),
            message,
            since: now,
            offset: None,
            done,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Pending> {
        self.pending.get(at)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Pending> {
        self.pending.get_mut(at)
    }

    /// Which is under way as `token`.
    pub(crate) fn by_token(&self, token: u64) -> Option<usize> {
        self.pending.iter().position(|p| p.token == token)
    }

    /// Which lies at `offset`.
    pub(crate) fn by_offset(&self, offset: u64) -> Option<usize> {
        self.pending.iter().position(|p| p.offset == Some(offset))
    }

    /// Whether one lies behind `offset`.
    pub(crate) fn any_behind(&self, offset: u64) -> bool {
        let is_behind = |p: &Pending| p.offset.is_some_and(|at| at > offset);
        self.pending.iter().any(is_behind)
    }

    /// The first that has waited for longer than `timeout` at `now`.
    pub(crate) fn late(&self, now: Instant, timeout: Duration) -> Option<usize> {
        let is_late = |p: &Pending| now.duration_since(p.since) > timeout;
        self.pending.iter().position(is_late)
    }

    /// Takes the first one if it is that of these positions and bytes.
    pub(crate) fn take_first(
        &mut self,
        (first, next): (Position, Position),
        message: &Bytes,
    ) -> Option<Pending> {
        let is_it = |p: &mut Pending| (p.first, p.next) == (first, next) && p.message == *message;
        let pending = self.pending.pop_front_if(is_it)?;
        self.bytes -= pending.message.len();
        Some(pending)
    }

    /// Takes the one at `at` and everything behind it.
    pub(crate) fn take_from(&mut self, at: usize) -> VecDeque<Pending> {
        let taken = self.pending.split_off(at);
        self.bytes -= taken.iter().map(|p| p.message.len()).sum::<usize>();
        taken
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> VecDeque<Pending> {
        self.bytes = 0;
        std::mem::take(&mut self.pending)
    }
}
