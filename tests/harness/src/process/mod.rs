//! Server processes that tests start, watch, pause and kill: one at a time here, `gb6 dev` and
//! whole meshes in the modules below.

mod dev;
mod mesh;
mod ports;
mod probe;
mod token;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncRead;
use tokio::process::{Child, ChildStdout, Command};

pub use dev::{DevOptions, DevServer, Ready};
pub use mesh::{ChangeNode, ChangeSnapshot, Mesh, MeshOptions, Node};
pub use ports::free_port;
pub use probe::{Answer, Metrics, http_get, http_request};
pub use token::{Claims, expired_after, forge, hs256, member};

/// How long a server may take to be ready, or to end, before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a server does not do what the test wants.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not built.
    #[error("{} does not exist: build it with `cargo build -p gb6`, or name another one in GB6_BIN", .0.display())]
    NoBinary(PathBuf),
    /// The program can not be started, or a file of it can not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The program ended before it was ready.
    #[error("{name} ended with {status} before it was ready; its log ends with:\n{log}")]
    Ended {
        /// Which one.
        name: String,
        /// How.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Waiting took too long.
    #[error("{name}: {what} took longer than {patience:?}; its log ends with:\n{log}")]
    Late {
        /// Which one.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// The end of its log.
        log: String,
    },
    /// It answered something that makes no sense.
    #[error("{name} answered {answer:?} where {wanted} was expected")]
    Answer {
        /// Which one.
        name: String,
        /// What it said.
        answer: String,
        /// What was expected.
        wanted: String,
    },
}

impl ProcessError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| ProcessError::Io { what, source }
    }
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .and_then(Path::parent)
        .unwrap_or(here)
        .to_owned()
}

/// Where builds go.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The `gb6` that is tested: `GB6_BIN`, or the development build.
///
/// # Errors
/// There is none.
pub fn gb6_binary() -> Result<PathBuf, ProcessError> {
    let path = match std::env::var_os("GB6_BIN") {
        Some(path) => workspace().join(path),
        None => target_dir().join("debug/gb6"),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(ProcessError::NoBinary(path))
    }
}

/// A directory for one test's data, on the disk of the build. It is deleted when it is dropped,
/// except by a test that fails: that one says where it is.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new directory.
    ///
    /// # Errors
    /// It can not be made.
    pub fn new(name: &str) -> Result<Self, ProcessError> {
        let parent = target_dir().join("test-data");
        let what = format!("can not make a directory in {}", parent.display());
        std::fs::create_dir_all(&parent)
            .and_then(|()| {
                tempfile::Builder::new()
                    .prefix(&format!("{name}-"))
                    .tempdir_in(&parent)
            })
            .map(Scratch)
            .map_err(ProcessError::io(what))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!(
                "the data of the failed test is kept in {}",
                self.path().display()
            );
        }
    }
}

/// A running program whose standard error goes to a file. It is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `directory`. Its standard error is appended to `log`; its standard
    /// output is returned.
    ///
    /// # Errors
    /// It can not be started.
    pub fn spawn(
        name: &str,
        program: &[String],
        directory: &Path,
        log: &Path,
    ) -> Result<(Self, ChildStdout), ProcessError> {
        let shown = || format!("can not start {}", program.join(" "));
        let stderr = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(ProcessError::io(shown()))?;
        let missing = || std::io::Error::other("no program is named");
        let (first, arguments) = program
            .split_first()
            .ok_or_else(missing)
            .map_err(ProcessError::io(shown()))?;
        let mut child = Command::new(first)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(ProcessError::io(shown()))?;
        let missing = || std::io::Error::other("the process has no id or no output");
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let (Some(pid), Some(stdout)) = (pid, child.stdout.take()) else {
            return Err(ProcessError::io(shown())(missing()));
        };
        let process = Process {
            name: name.to_owned(),
            child,
            pid,
            log: log.to_owned(),
        };
        Ok((process, stdout))
    }

    /// Its name in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal; nothing happens where the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        // A process that was waited for may have given its id to another one.
        if self.is_running() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone in time.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL);
        self.wait(PATIENCE).await.map(|_| ())
    }

    /// SIGSTOP: it keeps everything and does nothing.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on after [`Process::pause`].
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: it is asked to end.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => {
                status.map_err(ProcessError::io(format!("can not wait for {}", self.name)))
            }
            Err(_) => Err(self.late("its end", patience)),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    /// Resident memory in bytes; `None` once it has ended.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Open file descriptors; `None` once it has ended.
    pub fn open_files(&self) -> Option<usize> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?;
        Some(files.count())
    }

    pub(super) fn late(&self, what: &str, patience: Duration) -> ProcessError {
        ProcessError::Late {
            name: self.name.clone(),
            what: what.to_owned(),
            patience,
            log: self.log_tail(),
        }
    }

    /// The error of a process that ended while something was waited for.
    pub(super) fn ended(&mut self) -> Option<ProcessError> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(ProcessError::Ended {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.log_tail(),
        })
    }
}

/// Reads and forgets what a process prints, so that it never waits for a reader nor fails without
/// one.
fn drain(mut output: impl AsyncRead + Unpin + Send + 'static) {
    tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
}

/// The last lines of a log, or why there are none.
pub(crate) fn log_tail(log: &Path) -> String {
    tail(log).unwrap_or_else(|e| format!("({} can not be read: {e})", log.display()))
}

/// The last 8 KiB of a file, from a line's beginning.
fn tail(path: &Path) -> std::io::Result<String> {
    const BYTES: u64 = 8 * 1024;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => rest.to_owned(),
        _ => text,
    })
}
