//! The webhook of one instance in one shard: reads its events from the log, sends them in order, and
//! notes how far it is, which the log remembers.
//!
//! One request is under way at a time, and the next begins when it was taken, so that a user's events
//! arrive in order: all of them are in one shard. What was sent and not yet remembered when the node
//! ends is sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::{Position, Webhooks};
use gb6_core_outbound::{Limits, Outbound, OutboundError, Request, Target, signature};
use gb6_core_ports::StoreError;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::event::{Event, request_body};
use super::feed::{Follower, Next};
use super::metrics::{Waiting, WebhookMetrics};
use super::reads::{Reads, What};
use super::source::{EVENTS_MAX, Read, Source, consumer_name};
use crate::panics::Panics;
use crate::positions::{Positions, Step};
use crate::recovery::unix_ms;

/// Events of one request.
const BATCH_EVENTS_MAX: usize = 100;
/// Bytes of an answer: nothing in it is looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Pause after an error of the log.
const LOG_RETRY: Duration = Duration::from_secs(5);
const SIGNATURE: HeaderName = HeaderName::from_static("gb6-signature");

/// How often things are done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Least pause before a request is repeated.
    pub(crate) retry_min: Duration,
    /// The longest.
    pub(crate) retry_max: Duration,
    /// How often the log is looked at while there is nothing to send.
    pub(crate) look: Duration,
}

impl Pace {
    /// With these pauses, and the usual times otherwise.
    pub(crate) fn new(retry_min: Duration, retry_max: Duration) -> Self {
        Self {
            retry_min,
            retry_max,
            look: Duration::from_secs(5),
        }
    }

    /// The pause behind so many failures in a row: doubled each time up to the longest, and each
    /// time between half of that and all of it, so that receivers are not asked by all at once.
    fn pause(&self, failures: u32) -> Duration {
        let times = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let most = self.retry_min.saturating_mul(times).min(self.retry_max);
        let pause = most.mul_f64(rand::random_range(0.5..=1.0));
        pause.max(self.retry_min)
    }
}

/// What all webhooks of a node share.
pub(crate) struct Shared {
    pub(crate) outbound: Outbound,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) pace: Pace,
    pub(crate) reads: Reads,
    pub(crate) panics: Panics,
}

/// Why a request has to be repeated.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("the receiver answered {0}, and not 2xx")]
    Status(u16),
}

impl Failure {
    fn name(&self) -> &'static str {
        match self {
            Failure::Outbound(error) => error.name(),
            Failure::Status(_) => "status",
        }
    }
}

impl Shared {
    /// Sends `body` for `instance`; `Ok`: the receiver has taken it.
    async fn send(&self, instance: &str, to: &Webhooks, body: Vec<u8>) -> Result<(), Failure> {
        let signed = signature(to.secret.as_bytes(), unix_ms() / 1000, &body);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("gb6"));
        let signed = HeaderValue::try_from(signed).expect("digits and signs are a header's value");
        headers.insert(SIGNATURE, signed);
        let request = Request {
            method: Method::POST,
            target: Target::parse(&to.url)?,
            headers,
            body: body.into(),
        };
        let limits = Limits {
            deadline: Duration::from_millis(to.timeout_ms),
            body_bytes_max: ANSWER_BYTES_MAX,
        };
        let sending = self.outbound.send_for(instance, request, limits);
        let status = sending.await?.status;
        match status.is_success() {
            true => Ok(()),
            false => Err(Failure::Status(status.as_u16())),
        }
    }
}

/// The webhook of one instance in one shard.
pub(super) struct Consumer {
    pub(super) shard: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) config: watch::Receiver<Webhooks>,
    pub(super) stop: watch::Receiver<bool>,
    source: Arc<Source>,
    follower: Follower,
    name: String,
    positions: Arc<Positions>,
    /// Held by what reads the log, which ends before anything else begins.
    at_work: Arc<Mutex<()>>,
    /// Events that were read and not yet taken, in the log's order.
    pending: VecDeque<Event>,
    /// Everything before it was read.
    read_to: Position,
    /// Something was taken that was not noted.
    taken: bool,
    /// Requests that failed in a row.
    failures: u32,
    /// The log failed when it was worked on last.
    log_fails: bool,
}

impl Consumer {
    pub(super) fn new(
        shard: u32,
        shared: Arc<Shared>,
        (source, follower): (Source, Follower),
        positions: Arc<Positions>,
        config: watch::Receiver<Webhooks>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shard,
            shared,
            config,
            stop,
            name: consumer_name(&source.instance),
            positions,
            source: Arc::new(source),
            follower,
            at_work: Arc::default(),
            pending: VecDeque::new(),
            read_to: 0,
            taken: false,
            failures: 0,
            log_fails: false,
        }
    }

    /// Sends until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let registered = tokio::select! {
            biased;
            // Who could say so has ended: that means the same.
            _ = stop.wait_for(|stop| *stop) => false,
            () = self.register() => true,
        };
        if registered {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = self.follow() => {}
            }
        }
        // Waits for what still reads the log.
        let _ended = self.at_work.lock().await;
    }

    async fn register(&mut self) {
        loop {
            let source = self.source.clone();
            match self.positions.ask(move |_| source.register()).await {
                Ok(place) => {
                    if place.lapsed {
                        self.lapsed();
                    }
                    self.read_to = place.position;
                    self.positions.begins(&self.name, place.position);
                    return;
                }
                Err(error) => {
                    self.log_failed("its consumer can not be registered", &error)
                        .await
                }
            }
        }
    }

    /// Reads, sends, notes: for ever.
    async fn follow(&mut self) {
        loop {
            if self.pending.is_empty() {
                match self.fill().await {
                    Ok(true) => {}
                    Ok(false) => self.idle().await,
                    Err(StoreError::Trimmed { first }) => {
                        self.lapsed();
                        self.read_to = first;
                    }
                    Err(error) => self.log_failed("the log can not be read", &error).await,
                }
            } else {
                self.deliver().await;
            }
            self.tell();
            let step = Step {
                position: self.position(),
                taken: std::mem::take(&mut self.taken),
                fails: self.failures > 0,
            };
            if self.positions.note(&self.name, step) {
                self.lapsed();
            }
        }
    }

    /// Reads on; whether there may be more.
    async fn fill(&mut self) -> Result<bool, StoreError> {
        let from = self.read_to;
        let next = self.follower.next(from, EVENTS_MAX);
        let read = match next {
            Next::Nothing(to) => {
                self.read_to = to;
                return Ok(false);
            }
            next => self.read(from, next).await?,
        };
        self.log_fails = false;
        self.read_to = read.to;
        self.follower.passed(read.to);
        self.pending.extend(read.events);
        if read.skipped > 0 {
            let skipped = self
                .shared
                .metrics
                .skipped
                .with(&[self.source.instance.as_str()]);
            skipped.inc_by(read.skipped);
        }
        Ok(read.to > from)
    }

    /// Sends the next batch, once.
    async fn deliver(&mut self) {
        let to = self.config.borrow_and_update().clone();
        let events = self.pending.iter().take(BATCH_EVENTS_MAX);
        let passed = events.len();
        let Some((body, count)) = request_body(events, &to.events) else {
            self.pending.drain(..passed);
            return;
        };
        let mut config = self.config.clone();
        let began = Instant::now();
        let result = tokio::select! {
            result = self.shared.send(&self.source.instance, &to, body) => result,
            // What it is waited for is not wanted there any more.
            Ok(()) = config.changed() => return self.failures = 0,
        };
        let metrics = &self.shared.metrics;
        metrics.seconds.observe(began.elapsed().as_secs_f64());
        let instance = self.source.instance.as_str();
        match result {
            Ok(()) => {
                metrics.sent.with(&[instance]).inc_by(count as u64);
                if self.failures > 0 {
                    tracing::info!(instance, shard = self.shard, "the webhook is taken again");
                }
                self.failures = 0;
                self.taken = true;
                self.pending.drain(..passed);
            }
            Err(error) => {
                metrics.failed.with(&[instance, error.name()]).inc();
                self.failures = self.failures.saturating_add(1);
                let pause = self.shared.pace.pause(self.failures);
                // One line when it begins; a receiver that is away for long fills no log.
                match self.failures {
                    1 => {
                        tracing::warn!(instance, shard = self.shard, %error, "the webhook is not taken, and is repeated");
                    }
                    failures => {
                        tracing::debug!(instance, shard = self.shard, %error, failures, ?pause, "the webhook is still not taken");
                    }
                }
                self.tell();
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    Ok(()) = config.changed() => self.failures = 0,
                }
            }
        }
    }

    /// Waits for something new.
    async fn idle(&self) {
        tokio::select! {
            () = self.follower.changed() => {}
            // For a look at the log.
            () = tokio::time::sleep(self.shared.pace.look) => {}
        }
    }

    /// Where it would go on.
    fn position(&self) -> Position {
        let waiting = self.pending.front().map(|event| event.position);
        waiting.unwrap_or(self.read_to)
    }

    fn lapsed(&self) {
        let instance = self.source.instance.as_str();
        self.shared.metrics.lapsed.with(&[instance]).inc();
        tracing::error!(
            instance,
            shard = self.shard,
            "the webhook was so far behind that the log's retention went on without it: events may be lost"
        );
    }

    fn tell(&self) {
        let waiting = Waiting {
            events: self.pending.len(),
            oldest: self.pending.front().map(|event| event.time),
            feed: self.follower.feed.clone(),
        };
        let metrics = &self.shared.metrics;
        metrics.waits(&self.source.instance, self.shard, waiting);
    }

    async fn log_failed(&mut self, what: &'static str, error: &StoreError) {
        self.trouble(what, error);
        tokio::time::sleep(LOG_RETRY).await;
    }

    /// One line when it begins; a log that fails for long fills no other.
    fn trouble(&mut self, what: &'static str, error: &StoreError) {
        let (instance, shard) = (self.source.instance.as_str(), self.shard);
        match std::mem::replace(&mut self.log_fails, true) {
            false => {
                tracing::warn!(instance, shard, %error, what, "the webhook has trouble with the log, and tries again");
            }
            true => tracing::debug!(instance, shard, %error, what, "the trouble goes on"),
        }
    }

    /// Reads the log off the async threads, one thing at a time, even where the last one was not waited
    /// for, in one of the node's places.
    async fn read(&self, from: Position, next: Next) -> Result<Read, StoreError> {
        let what = What {
            scan: matches!(next, Next::Scan),
            archived: from < self.source.log.archived_before(),
        };
        let at_work = self.at_work.clone().lock_owned().await;
        let place = self.shared.reads.place(what).await;
        let source = self.source.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = source.read(from, next);
            // What it holds of the log goes before anybody hears that it has ended.
            drop(source);
            drop((place, at_work));
            result
        });
        done.await.unwrap_or_else(|error| {
            Err(StoreError::Unavailable {
                cause: format!("reading failed: {error}"),
            })
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.ended(&self.source.instance, self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_the_least_to_the_longest() {
        let pace = Pace::new(Duration::from_secs(1), Duration::from_secs(300));
        let mut bounds = Vec::new();
        for failures in [1, 2, 3, 8, 9, 40, u32::MAX] {
            let pauses: Vec<_> = (0..200).map(|_| pace.pause(failures)).collect();
            let least = pauses.iter().min().map(Duration::as_secs);
            let most = pauses.iter().max().map(|p| p.as_secs_f64().ceil() as u64);
            bounds.push((least.unwrap_or(0), most.unwrap_or(0)));
            assert!(pauses.iter().any(|p| *p != pauses[0]), "they are spread");
        }
        for (bound, (least, most)) in bounds.iter().zip([
            (1, 2),
            (2, 4),
            (4, 8),
            (128, 256),
            (150, 300),
            (150, 300),
            (150, 300),
        ]) {
            assert!(bound.0 >= least && bound.1 <= most, "{bounds:?}");
        }
    }
}
