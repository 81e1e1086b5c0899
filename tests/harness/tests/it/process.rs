//! Processes, with programs that every machine has.

use std::time::Duration;

use gb6_tests_harness::process::{PATIENCE, Process, Scratch};
use tokio::io::{AsyncBufReadExt, BufReader};

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|w| (*w).to_owned()).collect()
}

#[tokio::test]
async fn output_log_pause_and_kill() {
    let scratch = Scratch::new("process").unwrap();
    let log = scratch.path().join("p.log");
    // Says a line for each that it is asked for, so that a pause shows.
    let script = "echo begun >&2; echo ready; while :; do sleep 0.01; echo tick; done";
    let program = words(&["sh", "-c", script]);
    let (mut process, stdout) = Process::spawn("p", &program, scratch.path(), &log).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "ready");
    assert_eq!(process.log_tail(), "begun\n");
    assert!(process.resident_bytes().unwrap() > 0 && process.open_files().unwrap() >= 3);

    process.pause();
    let quiet = Duration::from_millis(300);
    // What it wrote before the pause may still stand in the pipe.
    while let Ok(line) = tokio::time::timeout(quiet, lines.next_line()).await {
        assert_eq!(line.unwrap().unwrap(), "tick");
    }
    process.resume();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    assert_eq!(line.unwrap().unwrap().unwrap(), "tick");

    assert!(process.is_running());
    process.kill().await.unwrap();
    assert!(!process.is_running());
    process.kill().await.unwrap();
    assert_eq!(process.resident_bytes(), None);
}

#[tokio::test]
async fn the_end_is_waited_for_with_a_deadline() {
    let scratch = Scratch::new("process").unwrap();
    let log = scratch.path().join("p.log");
    let program = words(&["sleep", "30"]);
    let (mut process, _) = Process::spawn("p", &program, scratch.path(), &log).unwrap();
    let error = process.wait(Duration::from_millis(50)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("p: its end took longer than 50ms")
    );
    process.terminate();
    let status = process.wait(PATIENCE).await.unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn a_dropped_process_is_killed() {
    let scratch = Scratch::new("process").unwrap();
    let log = scratch.path().join("p.log");
    let program = words(&["sleep", "30"]);
    let (process, _stdout) = Process::spawn("p", &program, scratch.path(), &log).unwrap();
    let status = format!("/proc/{}/stat", process.pid());
    drop(process);
    let gone = async {
        // Killed is gone, or a zombie until the runtime reaps it.
        while std::fs::read_to_string(&status).is_ok_and(|s| !s.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
