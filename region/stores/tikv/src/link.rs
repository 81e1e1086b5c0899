//! The connection to TiKV: a step of a call ends in time whatever the client does, and a connection
//! that no longer works is given up for a new one.
//!
//! Each connection has a runtime of its own, with one thread. Some waits of the client have no
//! deadline (connecting to a PD that hangs, with its lock held), and its tasks outlive the call that
//! began them: ending the runtime ends them too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tikv_client::TransactionClient;
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::error::{Failure, describe};
use crate::metrics::TikvMetrics;
use crate::rooms::snapshot;

/// After a connect that failed, others fail at once for so long.
const AGAIN: Duration = Duration::from_millis(500);
/// How much longer than a read connecting may take, with its many questions that follow each other.
const CONNECT_STEPS: u32 = 8;
/// How much longer than a read nothing is answered before a connection is given up.
const BROKEN_STEPS: u32 = 4;
/// Questions of a commit that follow each other: prewrite, timestamp, commit, and whether it was made, which
/// is asked once more for each page of many keys.
pub(crate) const COMMIT_STEPS: u32 = 4;
/// Between attempts of a read that met what passes soon.
const PAUSE: Duration = Duration::from_millis(50);

/// The connection of one store to its cluster.
pub(crate) struct Link(Arc<Shared>);

struct Shared {
    config: Config,
    /// What is read to see that a connection works.
    key: Vec<u8>,
    state: Mutex<State>,
    changed: Condvar,
    metrics: TikvMetrics,
}

enum State {
    Open(Arc<Session>),
    /// A thread is at it; whoever needs it waits.
    Connecting,
    /// Not before then.
    Closed {
        again: Instant,
        why: String,
    },
}

/// One connection. Its transactions belong to it: their steps run on its runtime.
pub(crate) struct Session {
    client: TransactionClient,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    timeout: Duration,
    health: Mutex<Health>,
    metrics: TikvMetrics,
}

impl Link {
    /// Connects nowhere: the first call does. `key` is read to see that a connection works.
    pub(crate) fn new(config: Config, key: Vec<u8>, metrics: TikvMetrics) -> Self {
        Self(Arc::new(Shared {
            config,
            key,
            state: Mutex::new(State::closed(Duration::ZERO, String::new())),
            changed: Condvar::new(),
            metrics,
        }))
    }

    pub(crate) fn place(&self) -> String {
        self.0.config.place()
    }

    /// The connection, made where there is none. Waits for it no longer than for a step.
    pub(crate) fn session(&self) -> Result<Arc<Session>, Failure> {
        let shared = &self.0;
        let deadline = Instant::now() + shared.config.timeout;
        let mut state = shared.state.lock();
        loop {
            match &*state {
                State::Open(session) if session.is_broken() => {
                    tracing::warn!(place = %self.place(), "the connection to TiKV is given up: nothing was answered for too long");
                    *state = State::closed(Duration::ZERO, String::new());
                }
                State::Open(session) => return Ok(session.clone()),
                State::Closed { again, why } if Instant::now() < *again => {
                    return Err(Failure::Unreachable(why.clone()));
                }
                State::Closed { .. } => *state = self.begin_to_connect(),
                State::Connecting => {
                    if shared.changed.wait_until(&mut state, deadline).timed_out() {
                        return Err(Failure::Unreachable("PD or a store does not answer".into()));
                    }
                }
            }
        }
    }

    /// Whether a thread is at it.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(*self.0.state.lock(), State::Connecting)
    }

    /// On a thread of its own: it may take longer than whoever needs it waits.
    fn begin_to_connect(&self) -> State {
        let shared = self.0.clone();
        let thread = thread::Builder::new().name("tikv-connect".into());
        let spawned = thread.spawn(move || {
            let connected = shared.connect();
            *shared.state.lock() = match connected {
                Ok(session) => State::Open(Arc::new(session)),
                Err(why) => State::closed(AGAIN, why),
            };
            shared.changed.notify_all();
        });
        match spawned {
            Ok(_) => State::Connecting,
            Err(error) => State::closed(AGAIN, format!("the system gives no thread: {error}")),
        }
    }
}

impl State {
    fn closed(pause: Duration, why: String) -> Self {
        State::Closed {
            again: Instant::now() + pause,
            why,
        }
    }
}

impl Shared {
    fn connect(&self) -> Result<Session, String> {
        let began = Instant::now();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tikv")
            .enable_all()
            .build()
            .map_err(|e| format!("the system gives no thread: {e}"))?;
        let mut config = tikv_client::Config::default().with_timeout(self.config.timeout / 2);
        if let Some(tls) = &self.config.tls {
            config = config.with_security(&tls.ca, &tls.cert, &tls.key);
        }
        let endpoints = self.config.endpoints.clone();
        let deadline = began + self.config.timeout * CONNECT_STEPS;
        let connected = bounded(&runtime, deadline, async {
            let client = TransactionClient::new_with_config(endpoints, config).await?;
            // With it the client learns where the stores are, which the first step need not wait for.
            let (mut snapshot, _) = snapshot(&client).await?;
            snapshot.get(self.key.clone()).await?;
            Ok(client)
        });
        match connected {
            Ok(client) => {
                self.metrics.connects.inc();
                self.metrics.took("connect", began);
                Ok(Session {
                    client,
                    runtime: Some(runtime),
                    timeout: self.config.timeout,
                    health: Mutex::new(Health::new(Instant::now())),
                    metrics: self.metrics.clone(),
                })
            }
            Err(failure) => {
                runtime.shutdown_background();
                self.metrics.failed("connect", &failure);
                Err(match failure {
                    Failure::Client(error) => describe(&error),
                    Failure::Deadline => "PD or a store does not answer".into(),
                    other => other.text(&self.config.place()),
                })
            }
        }
    }
}

impl Session {
    /// Runs one step to its end or its deadline, on the calling thread.
    pub(crate) fn run<T>(
        &self,
        step: &'static str,
        work: impl AsyncFnOnce(&TransactionClient) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.run_within(self.timeout, step, work)
    }

    /// As [`Session::run`], for a commit, whose questions follow each other.
    pub(crate) fn commit<T>(
        &self,
        step: &'static str,
        work: impl AsyncFnOnce(&TransactionClient) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.run_within(self.timeout * COMMIT_STEPS, step, work)
    }

    /// As [`Session::run`], with a deadline of its own.
    pub(crate) fn run_within<T>(
        &self,
        timeout: Duration,
        step: &'static str,
        work: impl AsyncFnOnce(&TransactionClient) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let done = match &self.runtime {
            Some(runtime) => bounded(runtime, began + timeout, work(&self.client)),
            None => Err(Failure::Deadline),
        };
        self.note(step, began, &done);
        done
    }

    /// As [`Session::run`], for what only reads: repeated until its deadline where it met what passes
    /// soon.
    pub(crate) fn read<T>(
        &self,
        step: &'static str,
        work: impl AsyncFn(&TransactionClient) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.run(step, async |client| {
            loop {
                match work(client).await {
                    Err(failure) if failure.passes_soon() => tokio::time::sleep(PAUSE).await,
                    done => return done,
                }
            }
        })
    }

    fn note<T>(&self, step: &'static str, began: Instant, done: &Result<T, Failure>) {
        match done {
            Ok(_) => self.metrics.took(step, began),
            Err(failure) => self.metrics.failed(step, failure),
        }
        let mut health = self.health.lock();
        match done.as_ref().err() {
            Some(failure) if !failure.is_answer() => health.failed(began),
            _ => health.worked(Instant::now()),
        }
    }

    fn is_broken(&self) -> bool {
        self.health.lock().is_broken(Instant::now(), self.timeout)
    }
}

/// Whether a connection works. A failure of one part of the cluster does not break it while other
/// parts answer.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// When TiKV last answered.
    good: Instant,
    /// Since when every step failed.
    failing: Option<Instant>,
}

impl Health {
    fn new(now: Instant) -> Self {
        Self {
            good: now,
            failing: None,
        }
    }

    fn worked(&mut self, now: Instant) {
        self.good = now;
        self.failing = None;
    }

    /// A step that began then failed.
    fn failed(&mut self, began: Instant) {
        self.failing.get_or_insert(began.max(self.good));
    }

    /// Nothing was answered for so long that it has to be made anew. Not sooner, since what the client
    /// learned of the cluster goes with it.
    fn is_broken(&self, now: Instant, timeout: Duration) -> bool {
        let patience = timeout * BROKEN_STEPS;
        self.failing
            .is_some_and(|since| now.saturating_duration_since(since) >= patience)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs `work` on the calling thread until the deadline; what it began on the runtime goes on.
fn bounded<T>(
    runtime: &Runtime,
    deadline: Instant,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let bounded = async { tokio::time::timeout_at(deadline.into(), work).await };
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded))) {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Failure::Deadline),
        Err(_) => Err(Failure::Panicked),
    }
}

impl TikvMetrics {
    fn took(&self, step: &'static str, began: Instant) {
        let step = self.step_seconds.with(&[step]);
        step.observe(began.elapsed().as_secs_f64());
    }

    fn failed(&self, step: &'static str, failure: &Failure) {
        self.failures.with(&[step, failure.kind()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_on_which_everything_fails_is_broken() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(10) / BROKEN_STEPS);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(start);
        assert!(!health.is_broken(at(1000), timeout), "idle is not broken");
        health.failed(at(1000));
        assert!(!health.is_broken(at(1009), timeout));
        assert!(health.is_broken(at(1010), timeout));
        health.worked(at(1011));
        assert!(!health.is_broken(at(1012), timeout));
        // It began before another step worked.
        health.failed(at(1005));
        assert!(!health.is_broken(at(1015), timeout));
        health.failed(at(1020));
        assert!(health.is_broken(at(1021), timeout), "since the last answer");
    }

    #[test]
    fn a_panic_of_the_client_is_a_failure() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let deadline = Instant::now() + Duration::from_secs(10);
        let done: Result<(), Failure> = bounded(&runtime, deadline, async { panic!("a defect") });
        assert!(matches!(done, Err(Failure::Panicked)));
        let done: Result<(), Failure> = bounded(&runtime, Instant::now(), std::future::pending());
        assert!(matches!(done, Err(Failure::Deadline)));
    }
}
