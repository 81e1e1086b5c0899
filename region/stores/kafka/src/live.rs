//! A shard's live part as one handle knows it: what it asks of the log (`staging`, `confirms`), and which
//! messages count (`counted`). No threads and no clients here: messages, deliveries and the time go in,
//! answers come out.

mod counted;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::{Position, ShardEpoch, ShardId};
use gb6_core_ports::{Acquire, Acquired, Commit, Completion, Fence, StoreError};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};

use crate::confirms::{Confirm, Confirms};
use crate::frame::{self, FIRST_OF_ACQUIRE, FrameHeader};
use crate::kept::Kept;
use crate::staging::{Given, Staging};
use crate::tail::Tail;

/// What is told to who waits.
pub(crate) enum Answer {
    Commit(Completion<Commit>, Result<Commit, StoreError>),
    Acquire(Completion<Acquired>, Box<Result<Acquired, StoreError>>),
}

impl Answer {
    pub(crate) fn give(self) {
        match self {
            Answer::Commit(done, answer) => done.finish(answer),
            Answer::Acquire(done, answer) => done.finish(*answer),
        }
    }
}

/// A message to be produced.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Names it in [`Live::delivered`] and [`Live::failed`].
    pub(crate) token: u64,
    pub(crate) message: Bytes,
}

struct Acquiring {
    token: u64,
    fence: Fence,
    header: FrameHeader,
    served_ms: u64,
    message: Bytes,
    offset: Option<u64>,
    deadline: Instant,
    done: Completion<Acquired>,
}

/// The ownership that this handle acquired last.
struct Holding {
    fence: Fence,
    /// Why nothing more is written under it.
    failed: Option<StoreError>,
}

/// What happened since somebody looked, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) fenced: u64,
    pub(crate) passed_over: u64,
    pub(crate) foreign: u64,
}

/// See the module.
pub(crate) struct Live {
    topic: String,
    shard: ShardId,
    timeout: Duration,
    tail: Tail,
    kept: Kept,
    holding: Option<Holding>,
    acquiring: Option<Acquiring>,
    staging: Staging,
    confirms: Confirms,
    tokens: u64,
    answers: VecDeque<Answer>,
    /// Why nothing can be sent.
    unreachable: Option<StoreError>,
    /// Why nothing more can be read.
    broken: Option<StoreError>,
    pub(crate) counts: Counts,
    /// The first kept position of the whole log.
    pub(crate) first: Position,
    /// When a batch of this handle was last found to count.
    pub(crate) wrote: Option<Instant>,
}

impl Live {
    /// Of a shard whose archive ends with `tail`.
    pub(crate) fn new(
        topic: &str,
        shard: ShardId,
        tail: Tail,
        timeout: Duration,
        cache_bytes_max: usize,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            shard,
            timeout,
            tail,
            kept: Kept::new(tail, cache_bytes_max),
            holding: None,
            acquiring: None,
            staging: Staging::new(tail.next),
            confirms: Confirms::default(),
            tokens: 0,
            answers: VecDeque::new(),
            unreachable: None,
            broken: None,
            counts: Counts::default(),
            first: 0,
            wrote: None,
        }
    }

    /// What is known of the log's end.
    pub(crate) fn tail(&self) -> Tail {
        self.tail
    }

    /// Where batches lie in Kafka, and the newest of them.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Keeps no more than so many bytes of the newest batches, and takes batches while fewer than so many
    /// bytes of them wait.
    pub(crate) fn bound(&mut self, cached_max: usize, waiting_max: usize) {
        self.kept.bound(cached_max);
        self.staging.bound(waiting_max);
    }

    /// Bytes of batches that wait for their answer.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.staging.bytes()
    }

    /// Why nothing more can be read, if so.
    pub(crate) fn check_whole(&self) -> Result<(), StoreError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Nothing more can be read.
    pub(crate) fn breaks(&mut self, error: StoreError) {
        if self.broken.is_none() {
            tracing::error!(topic = self.topic, shard = %self.shard, %error, "the log can not be read on");
            self.broken = Some(error.clone());
        }
        self.lose(&error);
    }

    /// Whether `fence` is the ownership of this handle and the newest.
    pub(crate) fn check(&self, fence: &Fence) -> Result<(), StoreError> {
        self.check_whole()?;
        let held = self.holding.as_ref().filter(|held| held.fence == *fence);
        match held {
            Some(held) if self.owns(&held.fence) => held.failed.clone().map_or(Ok(()), Err),
            _ => Err(self.fenced(fence)),
        }
    }

    /// The ownership under which this handle writes, as far as it knows.
    pub(crate) fn fence(&self) -> Result<Fence, StoreError> {
        let held = self.holding.as_ref().map(|held| held.fence.clone());
        let Some(fence) = held else {
            return Err(StoreError::Fenced {
                held: ShardEpoch(0),
                current: self.tail.epoch,
            });
        };
        self.check(&fence)?;
        Ok(fence)
    }

    fn owns(&self, fence: &Fence) -> bool {
        self.tail
            .owned_by(fence.shard_epoch, fence.owner_incarnation)
    }

    fn fenced(&self, fence: &Fence) -> StoreError {
        StoreError::Fenced {
            held: fence.shard_epoch,
            current: self.tail.epoch,
        }
    }

    /// Whether this handle owns the shard, as far as it knows.
    pub(crate) fn is_owner(&self) -> bool {
        self.holding
            .as_ref()
            .is_some_and(|held| held.failed.is_none() && self.owns(&held.fence))
    }

    /// Whether a message of this handle lies behind others that it has not seen.
    pub(crate) fn waits_for_others(&self) -> bool {
        let next = self.tail.offset;
        self.acquiring.is_some() || self.confirms.any_behind(next) || self.staging.any_behind(next)
    }

    /// Whether a batch waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.staging.is_empty() || self.acquiring.is_some()
    }

    /// Whether answers are due.
    pub(crate) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Answers that are due, in order.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Whether anything can be sent: while `error` is set, nothing is begun.
    pub(crate) fn reachable(&mut self, error: Option<StoreError>) {
        self.unreachable = error;
    }

    /// Begins to acquire. What is answered is to be produced; else `done` has its answer.
    pub(crate) fn acquire(
        &mut self,
        fence: Fence,
        acquire: Acquire,
        now: Instant,
        patience: Duration,
        done: Completion<Acquired>,
    ) -> Option<Outgoing> {
        // Whatever was given under the ownership before is passed over behind this one, by everybody.
        self.lose(&StoreError::OutcomeUnknown {
            cause: "the shard is being acquired again".into(),
        });
        self.holding = None;
        self.staging.refused = None;
        let refused = match self.check_whole() {
            Err(error) => Some(error),
            Ok(()) if fence.shard_epoch <= self.tail.epoch => Some(self.fenced(&fence)),
            Ok(()) => self.unreachable.clone(),
        };
        if let Some(error) = refused {
            self.answers
                .push_back(Answer::Acquire(done, Box::new(Err(error))));
            return None;
        }
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Acquire as i32,
            shard_epoch: fence.shard_epoch.0,
            owner_incarnation: fence.owner_incarnation.0,
            time: acquire.time,
            served_ms: acquire.served_ms,
            ..Record::default()
        };
        let message = frame::encode_acquire(&fence, &record);
        let token = self.token();
        self.acquiring = Some(Acquiring {
            token,
            header: FrameHeader::of(&fence, FIRST_OF_ACQUIRE, 1),
            served_ms: acquire.served_ms,
            fence,
            message: message.clone(),
            offset: None,
            deadline: now + patience,
            done,
        });
        Some(Outgoing { token, message })
    }

    /// Asks whether `fence` is the newest ownership. What is answered is to be produced; [`Live::confirmed`]
    /// tells what came of it. Changes nothing of what is appended, whatever becomes of it.
    ///
    /// # Errors
    /// It is known already, or can not be asked now.
    pub(crate) fn confirm(&mut self, fence: &Fence) -> Result<Outgoing, StoreError> {
        self.check(fence)?;
        if let Some(error) = &self.unreachable {
            return Err(error.clone());
        }
        self.confirms.check_room()?;
        let message = frame::encode_batch(fence, self.staging.sent_to(), &[]);
        let token = self.token();
        let confirm = Confirm {
            fence: fence.clone(),
            header: FrameHeader::of(fence, self.staging.sent_to(), 0),
            message: message.clone(),
            offset: None,
            failed: None,
        };
        self.confirms.add(token, confirm);
        Ok(Outgoing { token, message })
    }

    /// What came of a question, once that is known.
    pub(crate) fn confirmed(&self, token: u64) -> Option<Result<(), StoreError>> {
        let confirm = self.confirms.get(token)?;
        let owned = self.check(&confirm.fence);
        match (&confirm.failed, confirm.offset) {
            _ if owned.is_err() => Some(owned),
            // Its batch lies where this ownership was the newest: ownerships follow each other, and it is
            // the newest still.
            (_, Some(offset)) if offset < self.tail.offset => Some(Ok(())),
            (Some(error), _) => Some(Err(StoreError::Unavailable {
                cause: format!("it is not proved who owns the shard: {error}"),
            })),
            _ => None,
        }
    }

    /// Nobody waits any more for what came of a question.
    pub(crate) fn forget_confirm(&mut self, token: u64) {
        self.confirms.forget(token);
    }

    /// Takes a batch: [`Live::outgoing`] may have something to produce then. Else `done` has its answer.
    pub(crate) fn append(
        &mut self,
        fence: &Fence,
        batch: Given,
        now: Instant,
        done: Completion<Commit>,
    ) {
        let taken = match (self.check(fence), &self.unreachable) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(error)) => Err(error.clone()),
            (Ok(()), None) => self.staging.check(&batch),
        };
        match taken {
            Ok(()) => self.staging.push(fence, batch, now, done),
            Err(error) => {
                if error.retryable() {
                    self.staging.refused = Some(error.clone());
                }
                self.answers.push_back(Answer::Commit(done, Err(error)));
            }
        }
    }

    /// Whether [`Live::outgoing`] has something.
    pub(crate) fn has_outgoing(&self) -> bool {
        self.staging.may_send()
    }

    /// The next message that is to be produced, of one batch or of those that were given meanwhile. They are
    /// produced in the order in which they come from here.
    pub(crate) fn outgoing(&mut self) -> Option<Outgoing> {
        let token = self.tokens + 1;
        let message = self.staging.send(token)?;
        self.tokens = token;
        Some(Outgoing { token, message })
    }

    /// A message of this handle was not delivered, because of `error`.
    pub(crate) fn failed(&mut self, token: u64, error: &StoreError) {
        if let Some(confirm) = self.confirms.get_mut(token) {
            confirm.failed = Some(error.clone());
        } else if let Some(acquiring) = self.acquiring.take_if(|a| a.token == token) {
            let answer = Box::new(Err(error.clone()));
            self.answers
                .push_back(Answer::Acquire(acquiring.done, answer));
        } else if let Some(at) = self.staging.by_token(token) {
            self.fail_from(at, Some(error));
        }
    }

    /// What `error` says of the batches in the message at `at`, where it says surely that they were not written.
    fn certain(&self, at: usize, error: Option<&StoreError>) -> Option<StoreError> {
        match error? {
            // Alone each may be taken.
            StoreError::TooLarge { .. } if self.staging.get(at)?.batches() > 1 => {
                Some(StoreError::Unavailable {
                    cause: "Kafka takes no message as large as several batches are together".into(),
                })
            }
            error if error.retryable() || matches!(error, StoreError::TooLarge { .. }) => {
                Some(error.clone())
            }
            _ => None,
        }
    }

    /// Fails the batches in the message at `at` and everything behind it, because of `error` or, without one, because it
    /// was passed over.
    fn fail_from(&mut self, at: usize, error: Option<&StoreError>) {
        let Some(fence) = self.holding.as_ref().map(|held| held.fence.clone()) else {
            return;
        };
        let lost = (!self.owns(&fence)).then(|| self.fenced(&fence));
        let last = at + 1 == self.staging.sent();
        let certain = self.certain(at, error);
        let unknown = lost.clone().unwrap_or_else(|| StoreError::OutcomeUnknown {
            cause: match error {
                Some(error) => format!("{error}; the shard must be acquired again"),
                None => "a batch before this one failed; the shard must be acquired again".into(),
            },
        });
        let first = self.staging.get(at).map(|sent| sent.header.first);
        // What was not handed over yet is as certain as the last one that was.
        for (index, done) in self.staging.take_from(at) {
            let own = match (&certain, &lost) {
                (Some(certain), None) if last || index == 0 => certain.clone(),
                _ => unknown.clone(),
            };
            self.answers.push_back(Answer::Commit(done, Err(own)));
        }
        if lost.is_some() {
            self.counts.fenced += 1;
            return;
        }
        match (certain, last, first) {
            // Nothing of it was written, and nothing is under way that could take its place.
            (Some(certain), true, Some(first)) => {
                self.staging.next = first;
                self.staging.refused = Some(certain);
            }
            _ => {
                if let Some(held) = &mut self.holding {
                    held.failed.get_or_insert(unknown);
                }
            }
        }
    }

    /// Everything that waits fails with `error`.
    fn lose(&mut self, error: &StoreError) {
        for done in self.staging.take_all() {
            self.answers
                .push_back(Answer::Commit(done, Err(error.clone())));
        }
        if let Some(acquiring) = self.acquiring.take() {
            let answer = Box::new(Err(error.clone()));
            self.answers
                .push_back(Answer::Acquire(acquiring.done, answer));
        }
        if let Some(held) = &mut self.holding {
            held.failed.get_or_insert_with(|| error.clone());
        }
    }

    /// The handle is closed: nothing is begun any more, and what waits is answered.
    pub(crate) fn close(&mut self) {
        self.lose(&StoreError::OutcomeUnknown {
            cause: "the log was closed before Kafka answered".into(),
        });
        self.broken.get_or_insert(StoreError::Closed);
    }

    /// Fails what has waited for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(at) = self.staging.late(now, self.timeout) {
            let cause = format!("Kafka did not answer within {:?}", self.timeout);
            self.fail_from(at, Some(&StoreError::OutcomeUnknown { cause }));
        }
        if let Some(acquiring) = self.acquiring.take_if(|a| now > a.deadline) {
            let cause = "Kafka did not show the acquisition in time".to_owned();
            let answer = Box::new(Err(StoreError::OutcomeUnknown { cause }));
            self.answers
                .push_back(Answer::Acquire(acquiring.done, answer));
        }
    }

    /// What is known of the log's end, and the bytes of all batches before it.
    pub(crate) fn end(&self) -> (Tail, u64) {
        (self.tail, self.kept.bytes())
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
