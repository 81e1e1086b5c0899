//! Attempts at one operation: how long each may take, when it is repeated, and what is said when time
//! is over.

use std::future::Future;
use std::time::Duration;

use gb6_core_ports::StoreError;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Instant, sleep, timeout_at};

use super::Inner;
use super::error::Failure;

/// Pauses between attempts: the first, and the longest; each is varied by half.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The slowest rate at which bytes may move, in bytes a second: beyond the deadline an operation may take
/// what its bytes take at this rate.
const RATE_MIN: f64 = 1024.0 * 1024.0;

/// How long a server may be silent in one attempt at an operation with this deadline: so that one lost
/// packet leaves time for two more attempts.
pub(super) fn attempt_limit(deadline: Duration) -> Duration {
    deadline / 3
}

/// Attempts at one operation. What is repeated must have the same effect when it is done twice.
pub(super) struct Attempts<'a> {
    inner: &'a Inner,
    operation: &'static str,
    /// When no more attempts begin.
    until: Instant,
    /// How long one attempt may take, beside what its bytes take.
    limit: Duration,
    /// What its bytes take.
    moving: Duration,
    pause: Duration,
    /// Why an attempt may have been done without our knowing.
    unknown: Option<String>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(inner: &'a Inner, operation: &'static str, bytes: u64) -> Self {
        Self {
            inner,
            operation,
            until: Instant::now() + inner.config.deadline,
            limit: attempt_limit(inner.config.deadline),
            moving: Duration::from_secs_f64(bytes as f64 / RATE_MIN),
            pause: PAUSE,
            unknown: None,
        }
    }

    /// With another deadline.
    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.until = Instant::now() + deadline;
        self
    }

    /// Makes one attempt. The outer error: it is over.
    pub(super) async fn make<T>(
        &mut self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Result<T, Failure>, StoreError> {
        let end = self.until.min(Instant::now() + self.limit) + self.moving;
        // Before anything is sent: without credentials, nothing was.
        match timeout_at(end, self.inner.client.credentials().get_credential()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let cause = format!("no credentials: {}", Failure::of(&error).cause());
                return Ok(Err(Failure::NotTaken(cause)));
            }
            Err(_) => return Ok(Err(Failure::NotTaken("no credentials in time".to_owned()))),
        }
        match timeout_at(end, request).await {
            Ok(Ok(done)) => Ok(Ok(done)),
            Ok(Err(error)) => match Failure::of(&error) {
                failure @ (Failure::Refused(_) | Failure::Full(_)) => Err(self.over(Some(failure))),
                failure => Ok(Err(failure)),
            },
            Err(_) => {
                let cause = format!("no answer within {:?}", self.limit + self.moving);
                Ok(Err(Failure::Unknown(cause)))
            }
        }
    }

    /// Waits before the next attempt; an error where there is no time for one.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<(), StoreError> {
        if let Failure::Unknown(cause) = &failure {
            self.unknown = Some(cause.clone());
        }
        let mut byte = [0];
        // Without chance the pause is only less varied.
        let _ = SystemRandom::new().fill(&mut byte);
        let pause = self.pause.mul_f64(0.5 + f64::from(byte[0]) / 256.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if Instant::now() + pause >= self.until {
            return Err(self.over(Some(failure)));
        }
        tracing::debug!(
            operation = self.operation,
            cause = failure.cause(),
            "an attempt on S3 failed and is repeated"
        );
        sleep(pause).await;
        Ok(())
    }

    /// Repeats `request` until it is done or time is over. For what writes nothing new when it is
    /// repeated.
    pub(super) async fn repeat<T, F>(
        &mut self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        loop {
            match self.make(request()).await? {
                Ok(done) => return Ok(done),
                Err(failure) => self.pause(failure).await?,
            }
        }
    }

    /// What is said when no more attempts are made.
    fn over(&self, last: Option<Failure>) -> StoreError {
        let place = &self.inner.config;
        let told = |cause: &str| format!("{place}: {}: {cause}", self.operation);
        if self.operation == "put"
            && let Some(cause) = &self.unknown
        {
            return StoreError::OutcomeUnknown { cause: told(cause) };
        }
        match last {
            Some(Failure::Full(cause)) => StoreError::StorageFull { path: told(&cause) },
            Some(failure) => StoreError::Unavailable {
                cause: told(failure.cause()),
            },
            None => StoreError::Unavailable {
                cause: told("no answer"),
            },
        }
    }
}
