//! An owner in a process of its own, which can be stopped in its tracks.

use std::io::{BufRead, BufReader, Lines};
use std::process::{ChildStdout, Command, Stdio};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, append, fence, message};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Region;

/// The prefix of the topic; without it there is no owner to be.
const PREFIX: &str = "GB6_TEST_KAFKA_OWNER_PREFIX";
/// Appends that an owner tries after one failed.
const MORE: usize = 3;

/// The owner: does nothing where it was not asked for. Says each thing that happens to it in a line.
#[test]
fn owner() {
    let Ok(prefix) = std::env::var(PREFIX) else {
        return;
    };
    let region = Region::of(&prefix, "&archive_after_s=86400");
    let log = region.logs().open_shard(ShardId(3)).expect("opened");
    let mut next = acquire(&log, &fence(1)).expect("acquired").range.next;
    println!("acquired");
    let mut failures = 0;
    while failures <= MORE {
        let batch = vec![message(next, "room:owner", next, 100)];
        match append(&log, &fence(1), batch) {
            Ok(commit) => {
                println!("committed {}", commit.first);
                next = commit.next;
            }
            Err(error) => {
                println!("failed {error:?}");
                failures += 1;
            }
        }
    }
}

/// A running owner; it ends when this is dropped.
pub(crate) struct Owner {
    process: std::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Positions that it was told to be committed.
    pub(crate) committed: Vec<u64>,
    /// What it was told of others.
    pub(crate) failed: Vec<String>,
}

impl Owner {
    /// Starts one for the topic of `prefix`, and waits until it owns the shard.
    pub(crate) fn start(prefix: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args(["owner::owner", "--exact", "--nocapture", "--test-threads=1"])
            .env(PREFIX, prefix)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = process.stdout.take().expect("its output");
        let mut lines = BufReader::new(output).lines();
        // The test harness of the child writes on the same line.
        let acquired = lines.by_ref().map_while(Result::ok);
        let found = acquired.into_iter().any(|line| line.contains("acquired"));
        assert!(found, "it owns the shard");
        Self {
            process,
            lines,
            committed: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Reads what happened until `enough`, or until it ended.
    pub(crate) fn hear(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let Some(Ok(line)) = self.lines.next() else {
                return;
            };
            if let Some((_, position)) = line.split_once("committed ") {
                self.committed.push(position.parse().expect("a position"));
            } else if let Some((_, error)) = line.split_once("failed ") {
                self.failed.push(error.to_owned());
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("signalled");
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
