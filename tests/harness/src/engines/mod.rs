//! The real engines of a region (Kafka, PostgreSQL, Redis, and doubles of TiKV and S3), for tests that
//! kill, pause and restart them. They start through `scripts/engine.sh`, the one place that knows how.
//! `tests/engines/README.md` says which are real and what the doubles do not show.
//!
//! Most tests share the engines that `make test-engines` starts and names in `GB6_TEST_*`; those here
//! are a test's own.

mod front;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::process::{free_port, log_tail, workspace};

pub use front::Front;

/// How long a start may take, beyond the deadline that the script itself has: it says more.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// How long a killed process may take to be gone.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether a process is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Apache Kafka.
    Kafka,
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
    /// PD, and a double of TiKV.
    Tikv,
    /// A double of S3.
    S3,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Kafka,
        Kind::Postgres,
        Kind::Redis,
        Kind::Tikv,
        Kind::S3,
    ];

    /// Its name for `scripts/engine.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kafka => "kafka",
            Kind::Postgres => "postgres",
            Kind::Redis => "redis",
            Kind::Tikv => "tikv",
            Kind::S3 => "s3",
        }
    }
}

/// Why an engine does not do what the test wants.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The script said no; its words tell what to do.
    #[error("scripts/engine.sh {command}: {said}")]
    Script {
        /// What it was asked.
        command: String,
        /// What it said.
        said: String,
    },
    /// A file or a process could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process that was killed is still there.
    #[error("{engine}: {process} did not end within {patience:?}")]
    Late {
        /// Which engine.
        engine: &'static str,
        /// Which of its processes.
        process: String,
        /// How long was waited.
        patience: Duration,
    },
    /// The engine has no process of that name, or it does not run.
    #[error("{engine} has no running process {process:?}; it has: {known}")]
    Unknown {
        /// Which engine.
        engine: &'static str,
        /// What was asked for.
        process: String,
        /// Those that run.
        known: String,
    },
}

impl EngineError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| EngineError::Io { what, source }
    }
}

/// A running engine. Its processes are killed when this is dropped, and when the test's process ends
/// without dropping it. Its data stays in its directory.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    directory: PathBuf,
    addresses: Vec<String>,
    ports: Vec<u16>,
}

impl Engine {
    /// Starts an engine with its data in `directory`, which PostgreSQL's own user must be able to reach,
    /// and waits until it answers. `options` are those of `scripts/engine.sh`, such as `--brokers` `3`.
    ///
    /// # Errors
    /// It is not installed, or does not answer in time: the error has its last log lines.
    pub async fn start(
        kind: Kind,
        directory: &Path,
        options: &[&str],
    ) -> Result<Self, EngineError> {
        let ports = ports(kind, options).await?;
        Self::start_on(kind, directory, ports, options).await
    }

    /// As [`Engine::start`], behind proxies: every address that clients have of the engine, also those
    /// that it tells them, is one of the front's.
    ///
    /// # Errors
    /// As [`Engine::start`]; or no port is free.
    pub async fn start_behind(
        kind: Kind,
        directory: &Path,
        options: &[&str],
    ) -> Result<(Self, Front), EngineError> {
        let ports = ports(kind, options).await?;
        let front = Front::start(&ports)
            .await
            .map_err(EngineError::io("no port is free for a proxy"))?;
        let advertised = front.addresses().join(",");
        let mut all = vec!["--advertised", advertised.as_str()];
        all.extend(options);
        let engine = Self::start_on(kind, directory, ports, &all).await?;
        Ok((engine, front))
    }

    async fn start_on(
        kind: Kind,
        directory: &Path,
        ports: Vec<u16>,
        options: &[&str],
    ) -> Result<Self, EngineError> {
        let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut engine = Engine {
            kind,
            directory: directory.to_owned(),
            addresses: Vec::new(),
            ports,
        };
        let listed = listed.join(",");
        let mut arguments = vec![listed.as_str()];
        arguments.extend(options);
        // With the engine in hand, so that what a failed start leaves is killed.
        engine.begin(&arguments).await?;
        Ok(engine)
    }

    async fn begin(&mut self, arguments: &[&str]) -> Result<(), EngineError> {
        let directory = self.directory.display().to_string();
        let mut all = vec!["start", self.kind.name(), directory.as_str()];
        all.extend(arguments);
        let said = script(&all).await?;
        self.addresses = said.lines().map(str::to_owned).collect();
        Ok(())
    }

    /// Which engine it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How clients reach it, as in `GB6_TEST_*`: `host:port,…` of Kafka's brokers, PD's `host:port`, else
    /// a URL.
    pub fn address(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    /// That, and what else there is: PostgreSQL's replica, Redis over TLS.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where it listens itself, for clients first; what is behind a [`Front`].
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let address = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        self.ports.iter().map(address).collect()
    }

    /// Where its data and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its processes that run, by their names.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        running(&self.directory)
    }

    /// The end of the log of one of its processes, for what a failed test says.
    pub fn log_tail(&self, name: &str) -> String {
        log_tail(&self.directory.join(format!("{name}.log")))
    }

    /// SIGKILL to all of its processes and their children, PostgreSQL's sessions, and waits until they are gone.
    ///
    /// # Errors
    /// One is not gone in time.
    pub async fn kill(&self) -> Result<(), EngineError> {
        for name in self.pids().into_keys() {
            self.signal(&name, Signal::KILL)?;
        }
        for name in self.names()? {
            self.gone(&name).await?;
        }
        Ok(())
    }

    /// SIGKILL to one process, such as `broker-2`, and its children, and waits until it is gone.
    ///
    /// # Errors
    /// There is no such process, or it is not gone in time.
    pub async fn kill_one(&self, name: &str) -> Result<(), EngineError> {
        self.signal(name, Signal::KILL)?;
        self.gone(name).await
    }

    /// SIGSTOP to all of its processes: they keep their connections and do nothing. PostgreSQL's sessions
    /// are processes of their own, which are stopped too.
    ///
    /// # Errors
    /// A process can not be signalled.
    pub fn pause(&self) -> Result<(), EngineError> {
        self.each(Signal::STOP)
    }

    /// SIGCONT to all of its processes: they go on after [`Engine::pause`].
    ///
    /// # Errors
    /// A process can not be signalled.
    pub fn resume(&self) -> Result<(), EngineError> {
        self.each(Signal::CONT)
    }

    /// SIGSTOP to one process and its children.
    ///
    /// # Errors
    /// There is no such process.
    pub fn pause_one(&self, name: &str) -> Result<(), EngineError> {
        self.signal(name, Signal::STOP)
    }

    /// SIGCONT to one process and its children.
    ///
    /// # Errors
    /// There is no such process.
    pub fn resume_one(&self, name: &str) -> Result<(), EngineError> {
        self.signal(name, Signal::CONT)
    }

    /// Starts again, on its data and ports, those of its processes that do not run, and waits until they
    /// answer.
    ///
    /// # Errors
    /// One does not answer in time.
    pub async fn restart(&mut self) -> Result<(), EngineError> {
        self.begin(&[]).await
    }

    /// PostgreSQL's replica becomes a primary, which waits for no standby of its own.
    ///
    /// # Errors
    /// There is no replica, or it does not answer.
    pub async fn promote(&self) -> Result<(), EngineError> {
        let directory = self.directory.display().to_string();
        let promoted = script(&["promote", self.kind.name(), &directory]).await;
        promoted.map(drop)
    }

    /// What a tool of Kafka prints, such as `TopicCommand`, which asks this engine past its front.
    ///
    /// # Errors
    /// The tool fails.
    pub async fn tool(&self, name: &str, arguments: &[&str]) -> Result<String, EngineError> {
        let servers: Vec<String> = self.sockets().iter().map(ToString::to_string).collect();
        let mut all = vec!["tool", self.kind.name(), name, "--bootstrap-server"];
        all.push(servers.first().map_or("", String::as_str));
        all.extend(arguments);
        script(&all).await
    }

    /// Asks all of its processes to end, and waits until they have.
    ///
    /// # Errors
    /// The script fails.
    pub async fn stop(&self) -> Result<(), EngineError> {
        let directory = self.directory.display().to_string();
        script(&["stop", self.kind.name(), &directory])
            .await
            .map(drop)
    }

    fn each(&self, signal: Signal) -> Result<(), EngineError> {
        for name in self.pids().into_keys() {
            self.signal(&name, signal)?;
        }
        Ok(())
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<(), EngineError> {
        let pids = self.pids();
        let unknown = || EngineError::Unknown {
            engine: self.kind.name(),
            process: name.to_owned(),
            known: pids.keys().cloned().collect::<Vec<_>>().join(", "),
        };
        let pid = *pids.get(name).ok_or_else(unknown)?;
        // Of a parent that has ended nobody finds them any more; left alone, they would still answer.
        let children = children(pid);
        send(pid, signal).map_err(EngineError::io(format!("{} {name}", self.kind.name())))?;
        for child in children {
            // One that has ended meanwhile needs no signal.
            let _ = send(child, signal);
        }
        Ok(())
    }

    /// The names of its processes, whether they run or not.
    fn names(&self) -> Result<Vec<String>, EngineError> {
        let file = self.directory.join("pid");
        let text = std::fs::read_to_string(&file)
            .map_err(EngineError::io(format!("can not read {}", file.display())))?;
        let names = text.lines().filter_map(|l| l.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    async fn gone(&self, name: &str) -> Result<(), EngineError> {
        let begun = Instant::now();
        while self.pids().contains_key(name) {
            if begun.elapsed() > END_PATIENCE {
                return Err(EngineError::Late {
                    engine: self.kind.name(),
                    process: name.to_owned(),
                    patience: END_PATIENCE,
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for name in self.pids().into_keys() {
            let _ = self.signal(&name, Signal::KILL);
        }
        // The directory may be removed next: nobody may still write there.
        let begun = Instant::now();
        while !self.pids().is_empty() && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Free ports, as many as the engine needs.
async fn ports(kind: Kind, options: &[&str]) -> Result<Vec<u16>, EngineError> {
    let mut arguments = vec!["ports", kind.name()];
    arguments.extend(options);
    let said = script(&arguments).await?;
    let wrong = || EngineError::Script {
        command: arguments.join(" "),
        said: format!("{said:?} is no number"),
    };
    let count: usize = said.trim().parse().map_err(|_| wrong())?;
    (0..count)
        .map(|_| free_port().map_err(EngineError::io("no port is free")))
        .collect()
}

/// Runs `scripts/engine.sh` to its end and returns what it printed. The engine ends with this process.
async fn script(arguments: &[&str]) -> Result<String, EngineError> {
    let command = arguments.join(" ");
    let output = Command::new(workspace().join("scripts/engine.sh"))
        .args(arguments)
        .env("GB6_ENGINE_OWNER", std::process::id().to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = |said: String| EngineError::Script {
        command: command.clone(),
        said,
    };
    let output = tokio::time::timeout(START_PATIENCE, output)
        .await
        .map_err(|_| said(format!("no end within {START_PATIENCE:?}")))?
        .map_err(EngineError::io("can not run scripts/engine.sh"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(said(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// The processes of `DIR/pid` (`NAME PID START`) that run. The start tells a process from a later one
/// that was given its number.
fn running(directory: &Path) -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string(directory.join("pid")).unwrap_or_default();
    let process = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let pid: u32 = words.next()?.parse().ok()?;
        (stat(pid)?.start == words.next()?).then_some((name, pid))
    };
    text.lines().filter_map(process).collect()
}

/// What `/proc/PID/stat` says of a process that has not ended (proc(5)).
struct Stat {
    parent: u32,
    start: String,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in brackets, may contain anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // A zombie has ended, only its parent has not looked yet; but while it has further threads, these
    // still hold its sockets and files.
    let ended = *fields.first()? == "Z" && fields.get(17)?.parse().unwrap_or(0) <= 1;
    (!ended).then_some(())?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        start: (*fields.get(19)?).to_owned(),
    })
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|child| stat(*child).is_some_and(|s| s.parent == pid))
        .collect()
}

fn send(pid: u32, signal: Signal) -> std::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("no process has this number"))?;
    kill_process(pid, signal).map_err(Into::into)
}
