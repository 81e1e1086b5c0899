//! `history-check FILE...`: checks recorded histories, all files as one, and exits with 1 when a
//! promise is broken.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context;
use gb6_tests_harness::history::{Checker, read_events};

fn main() -> anyhow::Result<ExitCode> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: history-check FILE...    (JSON lines, one event each)");
        return Ok(ExitCode::from(2));
    }
    let mut checker = Checker::new();
    for file in &files {
        let open = File::open(file).with_context(|| format!("{file} can not be opened"))?;
        for event in read_events(BufReader::new(open)) {
            checker.add(&event.with_context(|| format!("in {file}"))?);
        }
    }
    match checker.finish() {
        Ok(summary) => {
            println!("ok: {summary}");
            Ok(ExitCode::SUCCESS)
        }
        Err(violations) => {
            for violation in &violations {
                println!("{violation}");
            }
            println!("{} broken promises", violations.len());
            Ok(ExitCode::FAILURE)
        }
    }
}
