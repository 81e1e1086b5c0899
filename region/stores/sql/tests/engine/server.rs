//! PostgreSQL servers of a test's own, for faults: killed, paused, promoted. Never as root.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One server.
pub(crate) struct Server {
    data: PathBuf,
    pub(crate) port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

/// A directory that the servers' user may enter.
pub(crate) fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path(), all).unwrap();
    dir
}

fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("no PostgreSQL is installed: scripts/install-engines.sh installs it")
        .map(|entry| entry.unwrap().path().join("bin"))
        .collect();
    found.sort();
    found.pop().unwrap()
}

/// A program of PostgreSQL, as a user that is not root.
fn program(name: &str) -> Command {
    let path = programs().join(name);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--",
    ]);
    command.arg(path);
    command
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Server {
    /// A new primary; each setting as `name=value`.
    pub(crate) fn primary(dir: &Path, name: &str, settings: &[&str]) -> Self {
        let data = dir.join(name);
        succeed(program("initdb").arg("-D").arg(&data).args([
            "-U",
            "gb6",
            "-A",
            "trust",
            "--no-instructions",
            "-E",
            "UTF8",
        ]));
        let mut server = Self::at(data, settings);
        server.start();
        server.sql("CREATE DATABASE map");
        server
    }

    /// A standby that follows `primary`.
    pub(crate) fn standby(dir: &Path, name: &str, primary: &Server) -> Self {
        let data = dir.join(name);
        let from = format!(
            "host=127.0.0.1 port={} user=gb6 application_name={name}",
            primary.port
        );
        succeed(program("pg_basebackup").arg("-D").arg(&data).args([
            "-X",
            "stream",
            "--checkpoint=fast",
            "-R",
            "-d",
            &from,
        ]));
        let mut server = Self::at(data, &[]);
        server.start();
        server
    }

    fn at(data: PathBuf, settings: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            data,
            port: free.local_addr().unwrap().port(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            process: None,
        }
    }

    /// Starts it; with its data where it was stopped.
    pub(crate) fn start(&mut self) {
        let mut command = program("postgres");
        command.arg("-D").arg(&self.data);
        command.args(["-p", &self.port.to_string()]);
        let common = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=16MB",
            "log_min_messages=fatal",
        ];
        let own = self.settings.iter().map(String::as_str);
        for setting in common.into_iter().chain(own) {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that all its processes are paused and killed together.
        self.process = Some(command.process_group(0).spawn().unwrap());
        let begun = Instant::now();
        while !self.answers() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        let mut psql = self.psql("postgres");
        psql.args(["-c", "SELECT 1"]);
        psql.output().unwrap().status.success()
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(programs().join("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
        ]);
        psql.args(["-U", "gb6", "-d", database, "-p", &self.port.to_string()]);
        psql.env("PGCONNECT_TIMEOUT", "2").stdin(Stdio::null());
        psql
    }

    /// Runs a statement as the superuser.
    pub(crate) fn sql(&self, sql: &str) {
        succeed(self.psql("postgres").args(["-c", sql]));
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.process.as_ref().unwrap().id());
        succeed(Command::new("kill").args([signal, "--", &group]));
    }

    /// Kills it and all its sessions at once.
    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        self.process.take().unwrap().wait().unwrap();
        // Sessions have groups of their own: they end when they see that their server is gone.
        let begun = Instant::now();
        while in_use(&self.data) {
            assert!(begun.elapsed() < Duration::from_secs(60), "sessions stay");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
    }

    /// Stops all its processes where they are.
    pub(crate) fn pause(&self) {
        for pid in processes(&self.data) {
            // One that has just ended needs no pause.
            let _ = Command::new("kill").args(["-STOP", &pid]).output();
        }
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        for pid in processes(&self.data) {
            let _ = Command::new("kill").args(["-CONT", &pid]).output();
        }
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        succeed(
            program("pg_ctl")
                .arg("promote")
                .arg("-D")
                .arg(&self.data)
                .args(["-w", "-t", "30"]),
        );
    }

    /// Changes a setting while it runs.
    pub(crate) fn set(&self, setting: &str) {
        self.sql(&format!("ALTER SYSTEM SET {setting}"));
        self.sql("SELECT pg_reload_conf()");
    }

    /// Appends to its configuration file, where `set` may change it again.
    pub(crate) fn configure(&self, line: &str) {
        let path = self.data.join("postgresql.auto.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    /// The address, as in URIs.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in processes(&self.data) {
            let _ = Command::new("kill").args(["-KILL", &pid]).output();
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }
}

/// The processes of the server with this data: each works in its directory.
fn processes(data: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| {
        let entry = entry.ok()?;
        let at = std::fs::read_link(entry.path().join("cwd")).ok()?;
        (at == data).then(|| entry.file_name().to_string_lossy().into_owned())
    })
    .collect()
}

fn in_use(data: &Path) -> bool {
    !processes(data).is_empty()
}
