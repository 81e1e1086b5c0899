//! The binary, from outside: what it prints where, its exit codes, what survives a restart.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where something is missing"
)]

mod api;
mod backup;
mod bench;
mod commands;
mod deploy;
mod dev;
mod dev_config;
mod directory;
mod mesh;
mod relay;
mod scripts;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Long enough for a loaded machine; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, in `dir`, without the variables of whoever runs the tests.
pub(crate) fn gb6(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gb6"));
    command.current_dir(dir);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GB6_")) {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    gb6(dir).args(args).output().unwrap()
}

/// What it printed on standard output, having succeeded.
pub(crate) fn printed(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it said on standard error, having failed with `code`.
pub(crate) fn refused(dir: &Path, args: &[&str], code: i32) -> String {
    let output = run(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// A process that runs until it is told to stop; killed when dropped.
pub(crate) struct Node {
    child: Child,
    /// The line of `--ready-json`.
    pub(crate) ready: Value,
    lines: mpsc::Receiver<String>,
    said: Option<JoinHandle<String>>,
}

impl Node {
    /// Starts it with `--ready-json`, and waits for the line.
    pub(crate) fn start(mut command: impl std::borrow::BorrowMut<Command>) -> Self {
        let mut node = Self::start_unready(command.borrow_mut().arg("--ready-json"));
        node.wait_ready();
        node
    }

    pub(crate) fn start_unready(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The receiver may be gone at the end of a test.
            stdout
                .lines()
                .map_while(Result::ok)
                .all(|line| send.send(line).is_ok());
        });
        let mut stderr = child.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            said
        });
        Self {
            child,
            ready: Value::Null,
            lines,
            said: Some(said),
        }
    }

    pub(crate) fn wait_ready(&mut self) {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => self.ready = serde_json::from_str(&line).unwrap(),
            Err(_) => {
                let _ = self.child.kill();
                panic!("not ready; it said: {}", self.said());
            }
        }
    }

    fn said(&mut self) -> String {
        self.said
            .take()
            .map(|said| said.join().unwrap())
            .unwrap_or_default()
    }

    /// What `key` of the ready line says.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.ready[key]
            .as_str()
            .unwrap_or_else(|| panic!("no {key} in {}", self.ready))
    }

    /// Where it listens.
    pub(crate) fn http(&self) -> SocketAddr {
        self.address("http")
    }

    /// Where its metrics are.
    pub(crate) fn metrics(&self) -> SocketAddr {
        match self.ready.get("admin") {
            Some(_) => self.address("admin"),
            None => self.http(),
        }
    }

    fn address(&self, key: &str) -> SocketAddr {
        let address = self.text(key).strip_prefix("http://").unwrap();
        address.parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Tells it to stop, and answers how it ended, the lines that it printed after the first, and
    /// what it said.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<String>, String) {
        self.signal("-TERM");
        self.wait_end()
    }

    pub(crate) fn wait_end(&mut self) -> (ExitStatus, Vec<String>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        (status, self.lines.iter().collect(), self.said())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Waits until `what` is so.
pub(crate) fn eventually(name: &str, mut what: impl FnMut() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < PATIENCE, "never came: {name}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The answer to a GET: status and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // In one piece: who refuses it after its first bytes does not wait for the others.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}
