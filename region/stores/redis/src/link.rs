//! Calls to Redis with a deadline and a breaker: the first call that is lost costs its deadline, and
//! from then on every call fails at once until a task in the background has a connection that
//! answers. Nothing has to be restarted for that.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::StoreError;
use parking_lot::Mutex;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::connect::{Connection, Use, late};
use crate::metrics::LinkMetrics;

/// Between attempts to connect, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// Lost calls in a row after which a cluster's connection is replaced: while one master fails, the
/// others go on, and the connection looks for the new one by itself.
const CLUSTER_LOSSES: u32 = 5;
/// Bytes of an error of the server that are passed on.
const ERROR_BYTES_MAX: usize = 200;

/// The connection for one purpose.
pub(crate) struct Link {
    inner: Arc<Inner>,
    /// Ends with the link.
    task: JoinHandle<()>,
}

struct Inner {
    config: Config,
    name: &'static str,
    retries: u32,
    runtime: Handle,
    state: Mutex<State>,
    /// Lost calls since the last answer.
    losses: AtomicU32,
    lost: Notify,
    metrics: LinkMetrics,
}

enum State {
    /// The breaker is closed: calls go out. The number tells connections apart.
    Connected(u64, Connection),
    /// It is open, and why.
    Lost(String),
}

/// What became of a call that has no answer.
enum Failed {
    /// The server refused it, or it was not sent.
    Refused(String),
    /// It was sent and not answered.
    Unknown(String),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Begins to connect; it answers at once. `name` is what metrics and logs call it.
    pub(crate) fn open(
        config: &Config,
        name: &'static str,
        retries: u32,
        runtime: &Handle,
        metrics: &Metrics,
    ) -> Self {
        let inner = Arc::new(Inner {
            config: config.clone(),
            name,
            retries,
            runtime: runtime.clone(),
            state: Mutex::new(State::Lost("not connected yet".into())),
            losses: AtomicU32::new(0),
            lost: Notify::new(),
            metrics: LinkMetrics::new(metrics, name),
        });
        let task = runtime.spawn(keep(inner.clone()));
        Self { inner, task }
    }

    /// Whether calls go out now.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(*self.inner.state.lock(), State::Connected(..))
    }

    /// Makes a call and blocks the calling thread for it.
    pub(crate) fn call<T, F>(&self, call: impl FnOnce(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.inner.runtime.block_on(self.run(call))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// `Unavailable`: it was refused or not sent. `OutcomeUnknown`: it was sent.
    pub(crate) async fn run<T, F>(
        &self,
        call: impl FnOnce(Connection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let inner = &self.inner;
        let (number, connection) = match &*inner.state.lock() {
            State::Connected(number, connection) => (*number, connection.clone()),
            State::Lost(why) => {
                inner.metrics.unsent.inc();
                let cause = format!("Redis at {} is not connected: {why}", inner.config);
                return Err(StoreError::Unavailable { cause });
            }
        };
        let began = Instant::now();
        let done = match tokio::time::timeout(inner.config.timeout, call(connection)).await {
            Ok(done) => done,
            Err(_) => Err(late("no answer in time")),
        };
        inner.metrics.seconds.observe(began.elapsed().as_secs_f64());
        match done {
            Ok(answer) => {
                inner.losses.store(0, Ordering::Relaxed);
                inner.metrics.answered.inc();
                Ok(answer)
            }
            Err(error) => Err(match inner.failed(number, &error) {
                Failed::Refused(cause) => StoreError::Unavailable { cause },
                Failed::Unknown(cause) => StoreError::OutcomeUnknown { cause },
            }),
        }
    }
}

impl Inner {
    /// A call was not answered well.
    fn failed(&self, number: u64, error: &RedisError) -> Failed {
        let cause = format!("Redis at {}: {}", self.config, told(error));
        if !is_loss(error) {
            self.losses.store(0, Ordering::Relaxed);
            self.metrics.refused.inc();
            if is_deposed(error) && !self.config.cluster {
                self.give_up(number, error);
            }
            return Failed::Refused(cause);
        }
        self.metrics.lost.inc();
        let losses = self.losses.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.config.cluster || losses >= CLUSTER_LOSSES {
            self.give_up(number, error);
        }
        Failed::Unknown(cause)
    }

    /// Opens the breaker, if it is still about this connection: others that used it say the same.
    fn give_up(&self, number: u64, error: &RedisError) {
        let mut state = self.state.lock();
        if matches!(*state, State::Connected(now, _) if now == number) {
            *state = State::Lost(told(error));
            self.lost.notify_one();
        }
    }
}

/// Whether the server is a replica now: behind the same name may be another primary.
fn is_deposed(error: &RedisError) -> bool {
    use ServerErrorKind::{MasterDown, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown))
}

/// Whether the connection is to blame, and not what was asked.
fn is_loss(error: &RedisError) -> bool {
    let server = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    !server && error.kind() != ErrorKind::UnexpectedReturnType
}

/// An error in few words. Redis repeats no argument in what it refuses, but its length is not ours.
pub(crate) fn told(error: &RedisError) -> String {
    let mut text = error.to_string();
    if text.len() > ERROR_BYTES_MAX {
        let end = (0..=ERROR_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// Has a connection for as long as the link lives.
async fn keep(inner: Arc<Inner>) {
    let how = Use {
        answer: inner.config.timeout,
        retries: inner.retries,
        pushes: None,
    };
    let (mut number, mut pause, mut silent) = (0, PAUSES[0], false);
    loop {
        match Connection::open(&inner.config, &how).await {
            Ok(connection) => {
                number += 1;
                pause = PAUSES[0];
                silent = false;
                inner.losses.store(0, Ordering::Relaxed);
                *inner.state.lock() = State::Connected(number, connection);
                inner.metrics.up.set(1);
                tracing::info!(redis = %inner.config, purpose = inner.name, "connected to Redis");
                inner.lost.notified().await;
                inner.metrics.up.set(0);
                inner.metrics.breaks.inc();
                if let State::Lost(why) = &*inner.state.lock() {
                    tracing::warn!(redis = %inner.config, purpose = inner.name, why, "Redis is lost: what only it does stands still until it is back");
                }
            }
            Err(error) => {
                let why = told(&error);
                if !silent {
                    silent = true;
                    tracing::warn!(redis = %inner.config, purpose = inner.name, why, "no connection to Redis: it is tried again until there is one");
                }
                *inner.state.lock() = State::Lost(why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES[1]);
            }
        }
    }
}
