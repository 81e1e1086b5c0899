//! The shards' logs, and the way of each process to them: what Kafka does to an owner. A request that
//! was given up may still arrive, an answer may be lost, and what comes from an owner that was
//! replaced counts for nothing.

use std::sync::Arc;

use gb6_core_ports::{Acquire, Acquired, Commit, Fence, ShardLog, StoreError, wait};
use gb6_core_wire::record::Record;

use super::faults::Peer;
use super::world::{Event, NodesWorld};

/// How long whoever writes waits for the answer, in ms.
const WRITE_MS: u64 = 3_000;
/// How long an owner waits to hear that it still is one, in ms.
const CONFIRM_MS: u64 = 2_000;

/// Who asks: an owner of a shard in one of its attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asker {
    pub(crate) node: usize,
    pub(crate) shard: usize,
    pub(crate) attempt: u64,
}

/// What a log is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Acquire(Fence, Acquire),
    Append(Fence, Arc<Vec<Record>>),
    Confirm(Fence),
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Acquired(Result<Box<Acquired>, StoreError>),
    Appended(Result<Commit, StoreError>),
    Confirmed(Result<(), StoreError>),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    asker: Asker,
    request: u64,
    ask: Ask,
    given_up_at: u64,
}

/// An answer on its way.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) asker: Asker,
    pub(crate) request: u64,
    pub(crate) answer: Answer,
}

impl NodesWorld {
    /// Sends a request; its number.
    pub(crate) fn ask_log(&mut self, asker: Asker, ask: Ask) -> u64 {
        let request = self.token();
        let waits = match ask {
            Ask::Confirm(_) => CONFIRM_MS,
            Ask::Acquire(..) | Ask::Append(..) => WRITE_MS,
        };
        let given_up_at = self.now + waits;
        let slow = if self.rng.one_in(40) { 30 } else { 3 };
        let at = self.now + self.rng.range(1, slow);
        let asked = Asked {
            asker,
            request,
            ask,
            given_up_at,
        };
        self.at(at, Event::LogAsked(Box::new(asked)));
        self.at(given_up_at, Event::LogSilent(asker, request));
        request
    }

    /// A request has come to the log's end of the way.
    pub(crate) fn log_asked(&mut self, asked: Asked) {
        if let Some(until) = self.cut(asked.asker.node, Peer::Log) {
            // Lost, or sent again by what lies below until it arrives.
            if !self.rng.one_in(3) {
                let at = until + self.rng.range(0, 60);
                self.at(at, Event::LogAsked(Box::new(asked)));
            }
            return;
        }
        let Asked {
            asker,
            request,
            ask,
            given_up_at,
        } = asked;
        let log = self.own.logs[asker.shard].open();
        self.own.counts.late += u64::from(self.now > given_up_at);
        let mut takes = self.rng.range(1, 4);
        let answer = match ask {
            Ask::Acquire(fence, acquire) => {
                let acquired = wait(|done| log.acquire(fence, acquire, done));
                Answer::Acquired(acquired.map(Box::new))
            }
            Ask::Append(fence, records) => {
                takes += self.own.log_stall_ms;
                let appended = wait(|done| log.append(&fence, records.to_vec(), done));
                self.own.counts.fenced +=
                    u64::from(matches!(appended, Err(StoreError::Fenced { .. })));
                Answer::Appended(appended)
            }
            Ask::Confirm(fence) => Answer::Confirmed(log.confirm(&fence)),
        };
        let mut at = self.now + takes;
        if let Some(until) = self.cut(asker.node, Peer::Log) {
            at = until + self.rng.range(0, 60);
        }
        let answered = Answered {
            asker,
            request,
            answer,
        };
        self.at(at, Event::LogAnswers(Box::new(answered)));
    }
}
