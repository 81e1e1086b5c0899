//! Batches of an owner on their way into its shard's partition: where the next one begins, which are taken,
//! which share a message, and which wait for the word that they count.
//!
//! Two messages are under way at a time. What is given meanwhile is gathered, and becomes one message when the
//! older one is answered: the more is given, the larger messages become. Kafka's client would gather too, but
//! while messages wait in it that it may not send yet (five of a partition are under way) its thread spins.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::Position;
use gb6_core_ports::{Commit, Completion, Fence, StoreError};
use gb6_core_wire::record::Record;

use crate::frame::{Draft, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader};

/// Most records in one batch, and in one message.
pub(crate) const BATCH_RECORDS_MAX: usize = 4096;
/// Most encoded bytes in one batch of several records, and in one message of several.
pub(crate) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of batches of one handle that may wait for their answer, where its part of the node's is not less.
pub(crate) const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages of one shard that are under way at once: one more than what the next answer is about. With
/// more of them each is smaller, and costs the broker as much.
pub(crate) const UNDER_WAY_MAX: usize = 2;

/// A batch as it was given, encoded.
pub(crate) struct Given {
    draft: Draft,
    /// The position of its first record, if it has one.
    first: Option<Position>,
    /// The first record that does not follow the one before it: its position, and that which it should have.
    gap: Option<(Position, Position)>,
}

impl Given {
    /// Of records that are given under `fence`.
    pub(crate) fn new(fence: &Fence, mut batch: Vec<Record>) -> Self {
        let first = batch.first().map(|record| record.position);
        let mut gap = None;
        for (record, position) in batch.iter_mut().zip(first.unwrap_or_default()..) {
            if record.position != position {
                gap = gap.or(Some((record.position, position)));
            }
            record.shard_epoch = fence.shard_epoch.0;
            record.owner_incarnation = fence.owner_incarnation.0;
        }
        let draft = Draft::of(&batch);
        Self { draft, first, gap }
    }

    fn len(&self) -> usize {
        self.draft.count() as usize
    }
}

/// A batch that waits for its answer.
struct Waiting {
    first: Position,
    next: Position,
    bytes: usize,
    since: Instant,
    done: Completion<Commit>,
}

impl Waiting {
    /// Bytes that it counts for while it waits; one without records takes room too.
    fn room(&self) -> usize {
        self.bytes + FRAME_HEADER_BYTES
    }
}

/// A message that was handed over.
pub(crate) struct Sent {
    token: u64,
    pub(crate) header: FrameHeader,
    pub(crate) message: Bytes,
    /// Where Kafka says that it lies.
    pub(crate) offset: Option<u64>,
    batches: Vec<Waiting>,
}

impl Sent {
    /// How many batches share it.
    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    fn next(&self) -> Position {
        self.header.first + u64::from(self.header.count)
    }

    /// What its batches are answered at `now`, when it counts.
    pub(crate) fn commits(
        self,
        now: Instant,
    ) -> impl Iterator<Item = (Completion<Commit>, Commit)> {
        let shared = self.header.count;
        self.batches.into_iter().map(move |batch| {
            let micros = now.saturating_duration_since(batch.since).as_micros() as u64;
            let commit = Commit {
                first: batch.first,
                next: batch.next,
                elapsed_us: micros,
                sync_us: micros,
                shared,
                bytes: batch.bytes as u64,
            };
            (batch.done, commit)
        })
    }
}

/// A message that is not handed over yet.
struct Gathered {
    /// Its count is not known yet.
    header: FrameHeader,
    count: u32,
    bytes: usize,
    drafts: Vec<Draft>,
    batches: Vec<Waiting>,
}

impl Gathered {
    /// Whether a batch may share it.
    fn has_room(&self, draft: &Draft) -> bool {
        self.bytes + draft.bytes() <= BATCH_BYTES_MAX
            && (self.count + draft.count()) as usize <= BATCH_RECORDS_MAX
    }

    fn push(&mut self, draft: Draft, batch: Waiting) {
        self.count += draft.count();
        self.bytes += draft.bytes();
        self.drafts.push(draft);
        self.batches.push(batch);
    }
}

/// Those of one handle, in the order in which they were given.
pub(crate) struct Staging {
    /// Where the next batch begins: behind everything that waits.
    pub(crate) next: Position,
    /// Why the last batch was refused: those that were given behind it, before their giver could know,
    /// fail in the same way.
    pub(crate) refused: Option<StoreError>,
    sent: VecDeque<Sent>,
    gathered: VecDeque<Gathered>,
    bytes: usize,
    bytes_max: usize,
}

impl Staging {
    /// Of a log that ends before `next`.
    pub(crate) fn new(next: Position) -> Self {
        Self {
            next,
            refused: None,
            sent: VecDeque::new(),
            gathered: VecDeque::new(),
            bytes: 0,
            bytes_max: WAITING_BYTES_MAX,
        }
    }

    /// Takes batches while fewer than so many bytes wait.
    pub(crate) fn bound(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a batch is taken.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&mut self, batch: &Given) -> Result<(), StoreError> {
        match (&self.refused, batch.first) {
            // Numbered as if the refused ones had been committed.
            (Some(error), Some(first)) if first > self.next => return Err(error.clone()),
            (_, Some(_)) => self.refused = None,
            // One without records has no number.
            (_, None) => {}
        }
        let elsewhere = batch.first.filter(|first| *first != self.next);
        let elsewhere = elsewhere.map(|first| (first, self.next));
        if let Some((position, expected)) = elsewhere.or(batch.gap) {
            return Err(StoreError::Conflict {
                what: format!("a record has position {position}, the log goes on at {expected}"),
            });
        }
        let too_large = |size: usize, limit: usize| {
            Err(StoreError::TooLarge {
                size: size as u64,
                limit: limit as u64,
            })
        };
        // overflow: refused; whoever gives batches has to wait.
        if self.bytes > self.bytes_max {
            return Err(StoreError::Backpressure {
                waiting: self.bytes as u64,
                limit: self.bytes_max as u64,
            });
        }
        let bytes = batch.draft.bytes();
        match batch.len() {
            0 | 1 if bytes + FRAME_HEADER_BYTES > FRAME_BYTES_MAX => {
                too_large(bytes, FRAME_BYTES_MAX)
            }
            2.. if bytes > BATCH_BYTES_MAX => too_large(bytes, BATCH_BYTES_MAX),
            count if count > BATCH_RECORDS_MAX => too_large(count, BATCH_RECORDS_MAX),
            _ => Ok(()),
        }
    }

    /// Takes a batch that passed [`Staging::check`].
    pub(crate) fn push(
        &mut self,
        fence: &Fence,
        batch: Given,
        now: Instant,
        done: Completion<Commit>,
    ) {
        let first = self.next;
        self.next += batch.len() as u64;
        let bytes = batch.draft.bytes();
        let waiting = Waiting {
            first,
            next: self.next,
            bytes,
            since: now,
            done,
        };
        self.bytes += waiting.room();
        if !self
            .gathered
            .back()
            .is_some_and(|last| last.has_room(&batch.draft))
        {
            // overflow: what waits is bounded in bytes.
            self.gathered.push_back(Gathered {
                header: FrameHeader::of(fence, first, 0),
                count: 0,
                bytes: 0,
                drafts: Vec::new(),
                batches: Vec::new(),
            });
        }
        if let Some(last) = self.gathered.back_mut() {
            last.push(batch.draft, waiting);
        }
    }

    /// Whether a message may be handed over.
    pub(crate) fn may_send(&self) -> bool {
        self.sent.len() < UNDER_WAY_MAX && !self.gathered.is_empty()
    }

    /// The next message, which is handed over as `token` now.
    pub(crate) fn send(&mut self, token: u64) -> Option<Bytes> {
        if !self.may_send() {
            return None;
        }
        let gathered = self.gathered.pop_front()?;
        let header = FrameHeader {
            count: gathered.count,
            ..gathered.header
        };
        let message = Draft::join(gathered.drafts).finish(&header);
        self.sent.push_back(Sent {
            token,
            header,
            message: message.clone(),
            offset: None,
            batches: gathered.batches,
        });
        Some(message)
    }

    /// Where a message begins that is handed over now.
    pub(crate) fn sent_to(&self) -> Position {
        let gathered = self.gathered.front();
        gathered.map_or(self.next, |gathered| gathered.header.first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.gathered.is_empty()
    }

    /// How many messages were handed over.
    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&Sent> {
        self.sent.get(at)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Sent> {
        self.sent.get_mut(at)
    }

    /// Which was handed over as `token`.
    pub(crate) fn by_token(&self, token: u64) -> Option<usize> {
        self.sent.iter().position(|sent| sent.token == token)
    }

    /// Which lies at `offset`.
    pub(crate) fn by_offset(&self, offset: u64) -> Option<usize> {
        self.sent
            .iter()
            .position(|sent| sent.offset == Some(offset))
    }

    /// Whether one lies behind `offset`.
    pub(crate) fn any_behind(&self, offset: u64) -> bool {
        let is_behind = |sent: &Sent| sent.offset.is_some_and(|at| at > offset);
        self.sent.iter().any(is_behind)
    }

    /// The first that has waited for longer than `timeout` at `now`.
    pub(crate) fn late(&self, now: Instant, timeout: Duration) -> Option<usize> {
        let is_late = |oldest: &Waiting| now.duration_since(oldest.since) > timeout;
        self.sent
            .iter()
            .position(|sent| sent.batches.first().is_some_and(is_late))
    }

    /// Takes the first one if it is that of these positions and bytes.
    pub(crate) fn take_first(
        &mut self,
        (first, next): (Position, Position),
        message: &Bytes,
    ) -> Option<Sent> {
        let is_it = |sent: &mut Sent| {
            (sent.header.first, sent.next()) == (first, next)
                // Its own bytes need no comparing.
                && (std::ptr::eq(&*sent.message, &**message) || sent.message == *message)
        };
        let sent = self.sent.pop_front_if(is_it)?;
        self.bytes -= sent.batches.iter().map(Waiting::room).sum::<usize>();
        Some(sent)
    }

    /// Takes what shares the message at `at`, and everything behind it. With each goes how many messages
    /// behind `at` it was in.
    pub(crate) fn take_from(&mut self, at: usize) -> Vec<(usize, Completion<Commit>)> {
        let sent = self.sent.drain(at..).map(|sent| sent.batches);
        let gathered = self.gathered.drain(..).map(|gathered| gathered.batches);
        let mut taken = Vec::new();
        for (index, batches) in sent.chain(gathered).enumerate() {
            for batch in batches {
                self.bytes -= batch.room();
                taken.push((index, batch.done));
            }
        }
        taken
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Completion<Commit>> + use<> {
        self.take_from(0).into_iter().map(|(_, done)| done)
    }
}
