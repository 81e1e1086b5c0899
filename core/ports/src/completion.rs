//! How a write answers without a runtime: a callback that is always called exactly once.

use std::fmt;
use std::sync::mpsc;

use crate::error::StoreError;

type Callback<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// The receiver of one answer. It is called exactly once: by [`Completion::finish`], or with
/// [`StoreError::OutcomeUnknown`] when it is dropped unanswered (the engine's thread died), so
/// that nobody waits for ever. The callback runs on the engine's thread and must not block: send
/// the answer on and return.
pub struct Completion<T>(Option<Callback<T>>);

impl<T> Completion<T> {
    /// A completion that calls `callback`.
    pub fn new(callback: impl FnOnce(Result<T, StoreError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// Gives the answer.
    pub fn finish(mut self, answer: Result<T, StoreError>) {
        if let Some(callback) = self.0.take() {
            callback(answer);
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(StoreError::OutcomeUnknown {
                cause: "the log's writer ended before it answered".into(),
            }));
        }
    }
}

impl<T> fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}

/// Starts an operation and blocks the calling thread until it is answered:
/// `wait(|done| log.append(&fence, batch, done))`. For tests, tools and threads of their own;
/// never for an async thread.
pub fn wait<T: Send + 'static>(start: impl FnOnce(Completion<T>)) -> Result<T, StoreError> {
    // overflow: one answer is ever sent.
    let (sender, receiver) = mpsc::sync_channel(1);
    start(Completion::new(move |answer| {
        // The receiver lives until it has the answer.
        let _ = sender.send(answer);
    }));
    receiver.recv().unwrap_or_else(|_| {
        Err(StoreError::OutcomeUnknown {
            cause: "the operation ended without an answer".into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_arrives_once() {
        assert_eq!(wait(|done: Completion<u32>| done.finish(Ok(7))), Ok(7));
    }

    #[test]
    fn a_dropped_completion_answers_outcome_unknown() {
        let got = wait(|done: Completion<u32>| drop(done));
        assert!(matches!(got, Err(StoreError::OutcomeUnknown { .. })));
    }
}
