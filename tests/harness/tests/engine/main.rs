//! The handle of engines, with the engines themselves: each starts, answers a client that we did not
//! write, is killed, paused and cut off, and comes back with its data.

#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod faults;
mod kafka;
mod postgres;
mod redis;
mod s3;
mod tikv;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::workspace;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that every user may enter, as PostgreSQL's must.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("gb6-engine-").tempdir();
        let dir = dir.unwrap();
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), all).unwrap();
        Self(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Runs a client to its end, with `input` on its standard input; what it printed.
async fn client(program: &[&str], input: &str) -> Result<String, String> {
    let (first, arguments) = program.split_first().unwrap();
    let path = if first.starts_with("scripts/") {
        workspace().join(first)
    } else {
        Path::new(first).to_owned()
    };
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A client that ends early closes its input: its status tells.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| format!("{program:?} took longer than {PATIENCE:?}"))?
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!(
            "{program:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// Kills everything of an engine, shows that nothing runs, and starts it again.
async fn kill_and_restart(engine: &mut Engine) {
    let before = engine.pids();
    assert!(!before.is_empty());
    engine.kill().await.unwrap();
    assert!(engine.pids().is_empty());
    let address = engine.address().to_owned();
    engine.restart().await.unwrap();
    let after = engine.pids();
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert!(before.iter().all(|(name, pid)| after[name] != *pid));
    assert_eq!(engine.address(), address);
}

/// The engine is stopped as its users do, and is gone.
async fn stop(engine: Engine, kind: Kind) {
    assert_eq!(engine.kind(), kind);
    engine.stop().await.unwrap();
    assert!(engine.pids().is_empty());
}
