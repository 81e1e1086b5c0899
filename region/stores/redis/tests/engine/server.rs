//! Servers for these tests: the one that is given, and ones that a test starts, because it kills them.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_region_stores_redis::Config;
use tokio::runtime::Runtime;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The URI of the Redis that tests share.
pub(crate) fn given() -> String {
    std::env::var("GB6_TEST_REDIS").expect(
        "GB6_TEST_REDIS names no Redis: run `make test-engines`, which starts one, or `redis-server --bind 127.0.0.1 --port 6399 --save '' --appendonly no` and set GB6_TEST_REDIS=redis://127.0.0.1:6399",
    )
}

/// Waits until something holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A name of a region that no other test and no earlier run uses.
pub(crate) fn region() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_nanos();
    format!("t{}-{count}-{now}", std::process::id())
}

/// What an engine runs in.
pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The sum of a metric over its labels.
pub(crate) fn metric(metrics: &Metrics, name: &str, label: &str) -> f64 {
    let text = metrics.text();
    let lines = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A port that is free, and given to nobody else.
pub(crate) fn free_port() -> u16 {
    gb6_tests_harness::process::free_port().expect("a port")
}

/// A server of one's own. It ends with this.
pub(crate) struct Server {
    pub(crate) port: u16,
    args: Vec<String>,
    dir: tempfile::TempDir,
    child: Child,
}

impl Server {
    /// Starts one with further arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at(free_port(), args)
    }

    /// Starts one at a port.
    pub(crate) fn start_at(port: u16, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(port, &args, dir.path());
        let server = Self {
            port,
            args,
            dir,
            child,
        };
        server.wait();
        server
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn config(&self, options: &str) -> Config {
        Config::parse(&format!("{}?{options}", self.uri())).expect("a URI")
    }

    fn wait(&self) {
        until("redis-server listens", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        });
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([name, &pid]).status();
        assert!(done.expect("kill").success());
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("it has ended");
    }

    /// Starts it again, empty.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.args, self.dir.path());
        self.wait();
    }

    /// Stops it where it is: its sockets stay open and are not answered.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Runs a command of Redis.
    pub(crate) fn command(&self, args: &[&str]) -> String {
        self.command_with(&[], args)
    }

    /// Runs a command of Redis; `login` are the arguments with which `redis-cli` comes in.
    pub(crate) fn command_with(&self, login: &[&str], args: &[&str]) -> String {
        let port = self.port.to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &port]);
        command.args(login).args(args);
        let out = command.output().expect("redis-cli");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that a test has killed is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, args: &[String], dir: &std::path::Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    if !args.iter().any(|arg| arg == "--tls-port") {
        command.args(["--port", &port.to_string()]);
    }
    command.args(args).arg("--dir").arg(dir);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect(
        "redis-server can not be started: install Redis 7 (Debian: apt-get install redis-server)",
    )
}
