//! What every long-running command needs of its process: limits, logs, a runtime, signals.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context;
use gb6_core_obs::logs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long what still blocks a thread may take once everything was drained.
const LEFTOVERS: Duration = Duration::from_secs(1);
/// Signals so close to the first are one request: a terminal or `timeout` sends to the process and
/// again to its group.
const SAME_REQUEST: Duration = Duration::from_millis(300);
/// The exit code of a process that was told twice to stop.
const IMPATIENT: i32 = 130;

/// Runs `node` until it has ended, which it should when [`Stop::asked`] says so.
///
/// # Errors
/// Whatever `node` says, or that there can be no logs, runtime or signals.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>>>(
    format: logs::Format,
    filter: &str,
    node: impl FnOnce(Stop) -> F,
) -> anyhow::Result<()> {
    logs::init(format, filter)?;
    raise_file_limit();
    gb6_core_mesh::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime can not be started")?;
    let result = runtime.block_on(async { node(Stop::listen()?).await });
    runtime.shutdown_timeout(LEFTOVERS);
    result
}

/// Every client is a file, and the soft limit is often 1,024: programs that use `select` need it
/// so low, this one does not.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(files = ?limit.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// Whether the process is to stop: at SIGTERM or SIGINT it drains, at the second one it exits.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("signals can not be listened to");
        let (terminate, interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (ask, asked) = watch::channel(false);
        tokio::spawn(follow(terminate, interrupt, ask));
        Ok(Self { asked })
    }

    /// Waits until the process is to stop.
    pub(crate) async fn asked(&self) {
        let mut asked = self.asked.clone();
        // The task that sends ends only with the runtime.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// What `future` comes to; `None` if the process is to stop before.
    pub(crate) async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            value = future => Some(value),
        }
    }
}

async fn follow(mut terminate: Signal, mut interrupt: Signal, ask: watch::Sender<bool>) {
    let mut first: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        match first {
            None => {
                first = Some(Instant::now());
                ask.send_replace(true);
                eprintln!("Stopping: finishing what is in flight. A second signal stops at once.");
            }
            Some(first) if first.elapsed() < SAME_REQUEST => {}
            Some(_) => {
                eprintln!("Told twice: stopping at once.");
                std::process::exit(IMPATIENT);
            }
        }
    }
}
