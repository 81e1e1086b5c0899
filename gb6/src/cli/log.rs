//! `gb6 log`: looks at logs without a server, also while one is running.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use gb6_region_stores_embedded::inspect::{LogInfo, Verified, inspect, logs_at, verify};
use gb6_region_stores_embedded::{LoadNote, TailNote};

use super::exit::{Failure, print};

#[derive(Subcommand, Debug)]
pub(crate) enum LogCommand {
    /// Show what a log holds: positions, segments, owners, consumers
    Inspect {
        /// A data directory, or the folder of one shard in it
        dir: PathBuf,
    },
    /// Read every record and checkpoint and check all of it; exit code 1 if anything is wrong
    Verify {
        /// A data directory, or the folder of one shard in it
        dir: PathBuf,
    },
}

impl LogCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            LogCommand::Inspect { dir } => {
                for log in logs_at(&dir)? {
                    print(&shown(&log, &inspect(&log)?))?;
                }
                Ok(())
            }
            LogCommand::Verify { dir } => {
                let mut whole = true;
                for log in logs_at(&dir)? {
                    let found = verify(&log);
                    whole &= found.problems.is_empty();
                    print(&judged(&log, &found))?;
                }
                if whole { Ok(()) } else { Err(Failure::Said) }
            }
        }
    }
}

// Writing to a string can not fail, so these results say nothing.

fn shown(log: &Path, info: &LogInfo) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: positions {} to {}, shard epoch {}",
        log.display(),
        info.range.first,
        info.range.next,
        info.epoch
    );
    for segment in &info.segments {
        let _ = writeln!(
            out,
            "  segment {}.{}  {}/{}  positions {} to {}  {} records  {} bytes  epoch {}  owner {:016x}  {}",
            segment.seq,
            segment.generation,
            segment.region,
            segment.shard,
            segment.range.first,
            segment.range.next,
            segment.records,
            segment.bytes,
            segment.shard_epoch,
            segment.owner_incarnation,
            if segment.sealed { "sealed" } else { "open" }
        );
    }
    for consumer in &info.consumers {
        let lapsed = if consumer.lapsed { "  lapsed" } else { "" };
        let _ = writeln!(
            out,
            "  consumer {} at {}{lapsed}",
            consumer.name, consumer.position
        );
    }
    let _ = match info.checkpoint {
        Some(position) => writeln!(out, "  checkpoint at {position}"),
        None => writeln!(out, "  no checkpoint"),
    };
    notes(&mut out, &info.notes);
    out
}

fn judged(log: &Path, found: &Verified) -> String {
    let mut out = String::new();
    let verdict = match found.problems.len() {
        0 => "whole".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let _ = writeln!(
        out,
        "{}: {verdict}; positions {} to {}, {} records of {} rooms and {} checkpoints read",
        log.display(),
        found.range.first,
        found.range.next,
        found.records,
        found.rooms,
        found.checkpoints
    );
    for problem in &found.problems {
        let _ = writeln!(out, "  {problem}");
    }
    notes(&mut out, &found.notes);
    out
}

/// What readers pass over; it was never acknowledged, so nothing is lost by it.
fn notes(out: &mut String, notes: &[LoadNote]) {
    for note in notes {
        let what = match note.what {
            TailNote::TornWrite => "a write that was cut short",
            TailNote::FencedOwner => "batches of an owner that had lost the shard",
        };
        let _ = writeln!(
            out,
            "  passed over in segment {} from byte {} (position {}): {what}, never acknowledged",
            note.segment, note.byte, note.position
        );
    }
}
