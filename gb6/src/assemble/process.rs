//! What every long-running command needs of its process: limits, logs, a runtime, signals.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context;
use gb6_core_obs::{logs, panics};
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
    panics::install();
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

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is what is looked at"
)]
mod tests {
    use std::process::Command;

    use gb6_core_obs::Metrics;

    use super::*;

    /// Set for the process that this test starts, which is the same program.
    const CHILD: &str = "GB6_TEST_PANICS";
    /// What a panic's text must not bring into the log.
    const SECRET: &str = "hush";

    /// As a node whose task, thread and main part have defects, all of which something looks after.
    fn child() {
        let node = async |_: Stop| {
            let task = tokio::spawn(async { panic!("a task's defect") });
            assert!(task.await.is_err());
            let secret = SECRET.to_owned();
            let thread = std::thread::Builder::new().name("standby-12".into());
            let thread = thread.spawn(move || panic!("no customer of the token {secret}"));
            assert!(thread.unwrap().join().is_err());
            print!("{}", Metrics::new().text());
            Ok(())
        };
        run(logs::Format::Json, "info", node).unwrap();
    }

    #[test]
    fn panics_of_tasks_and_threads_are_counted_and_told_in_a_line_without_data() {
        if std::env::var_os(CHILD).is_some() {
            return child();
        }
        let name = "assemble::process::tests::panics_of_tasks_and_threads_are_counted_and_told_in_a_line_without_data";
        // Where errors are logged, and where the filter shows none of them.
        for filter in ["info", "gb6_region_node=debug"] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(CHILD, "1")
                .env_remove("RUST_BACKTRACE")
                .env(logs::FILTER_VARIABLE, filter)
                .output()
                .unwrap();
            let metrics = String::from_utf8(output.stdout).unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{metrics}{said}");
            for (thread, count) in [("tokio-rt-worker", 1), ("standby", 1), ("main", 0)] {
                let line = format!("gb6_panics_total{{thread=\"{thread}\"}} {count}\n");
                assert!(metrics.contains(&line), "{metrics}");
            }
            let told: Vec<&str> = said.lines().filter(|l| l.contains("a panic")).collect();
            assert_eq!(told.len(), 2, "{said}");
            assert!(told[0].contains("a task's defect") && told[0].contains("tokio-rt-worker"));
            assert!(told[1].contains("standby-12"), "{said}");
            let place = told.iter().all(|line| line.contains("process.rs:"));
            assert!(place && !said.contains(SECRET), "{said}");
        }
    }
}
