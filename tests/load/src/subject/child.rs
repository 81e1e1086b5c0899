//! Processes that a run starts: on loopback, with their output in a file, and ended with the run
//! whatever happens.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::START_TIMEOUT;
use crate::process::Pinning;

/// Bytes of a log that are shown when its process fails.
const LOG_SHOWN: usize = 4_000;

/// A process of ours. Dropping it ends it.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `program` where servers run; what it prints on standard error goes to
    /// `<dir>/<name>.log`.
    ///
    /// # Errors
    /// It can not be started.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[&OsStr],
        dir: &Path,
        pinning: Pinning,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let errors = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        // A new process runs where the thread that starts it may run.
        let child = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    pinning.as_server()?;
                    command
                        .spawn()
                        .with_context(|| format!("starting {}", program.display()))
                })
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread that starts {name} has panicked")))
        })?;
        Ok(Running {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line that it prints on standard output.
    ///
    /// # Errors
    /// It ends or says nothing in time: with the end of its log.
    pub(crate) fn first_line(&mut self) -> Result<String> {
        let output = self
            .child
            .stdout
            .take()
            .with_context(|| format!("the output of {} was read already", self.name))?;
        // One message: the channel never holds more, and its reader may be gone by then.
        // overflow: one line is ever sent.
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = String::new();
            let read = reader.by_ref().take(1 << 20).read_line(&mut line);
            let _ = tell.send(read.map(|_| line));
            // Whatever else it prints must not block it.
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        });
        match told.recv_timeout(START_TIMEOUT) {
            Ok(Ok(line)) if !line.is_empty() => Ok(line),
            Ok(Ok(_)) => Err(self.failure("ended before it was ready")),
            Ok(Err(e)) => Err(e).with_context(|| format!("reading the output of {}", self.name)),
            Err(_) => Err(self.failure("was not ready in time")),
        }
    }

    /// Waits until `ready` answers something.
    ///
    /// # Errors
    /// The process ends or the time is over: with the end of its log.
    pub(crate) fn wait_for<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(self.failure("ended before it was ready"));
            }
            if Instant::now() >= deadline {
                return Err(self.failure("was not ready in time"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it answers 200 to `GET /readyz`.
    ///
    /// # Errors
    /// As [`Running::wait_for`].
    pub(crate) fn wait_http(&mut self, addr: SocketAddr) -> Result<()> {
        self.wait_for(|| is_ready(addr).then_some(()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It fails: with the end of its log.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.wait_for_end()?;
        if !status.success() {
            bail!(self.failure(&format!("failed with {status}")));
        }
        Ok(())
    }

    fn wait_for_end(&mut self) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a process")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.failure("did not end in time"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let shown = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_SHOWN)..]);
        anyhow!("{} {what}; the end of its log:\n{shown}", self.name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(addr: SocketAddr) -> bool {
    let limit = Duration::from_secs(2);
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&addr, limit)?;
        socket.set_read_timeout(Some(limit))?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        socket.read_exact(&mut head)?;
        Ok(&head[8..] == b" 200")
    };
    ask().unwrap_or(false)
}

/// A TCP port on loopback that nobody listens on, for servers that must be told one.
///
/// # Errors
/// There is none.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}

/// The same for UDP.
///
/// # Errors
/// There is none.
pub(crate) fn free_udp_port() -> Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(socket.local_addr().context("finding a free port")?.port())
}
