//! Every goal in one run: ours, the floors and the peers by turns, so that a ratio compares figures
//! of the same minutes on the same machine.

mod clients;
mod fanout;
mod publish;
mod storm;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{AllArgs, Part};
use crate::process::Pinning;
use crate::report::{self, Row, median};
use crate::subject::Workspace;

/// No measurement begins later than this after the start.
const BUDGET: Duration = Duration::from_secs(16 * 60);
const BUDGET_QUICK: Duration = Duration::from_secs(180);
struct All<'a> {
    args: &'a AllArgs,
    workspace: Workspace,
    rounds: usize,
    duration: Duration,
    warm_up: Duration,
    start: Instant,
    rows: Vec<Row>,
    runs: Vec<Value>,
}

/// Measures everything that was asked for.
///
/// # Errors
/// A part could not be measured. What could is printed and written all the same.
pub(crate) fn run(args: &AllArgs) -> Result<()> {
    let pinning = if args.no_pin {
        Pinning::Off
    } else {
        Pinning::auto()
    };
    pinning.as_load()?;
    let workspace = Workspace::new(&args.out, args.gb6.clone(), pinning)?;
    let mut all = All {
        args,
        workspace,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        duration: Duration::from_millis(if args.quick { 1500 } else { 4000 }),
        warm_up: Duration::from_millis(if args.quick { 500 } else { 1000 }),
        start: Instant::now(),
        rows: Vec::new(),
        runs: Vec::new(),
    };
    let parts: &[Part] = if args.only.is_empty() {
        &Part::ALL
    } else {
        &args.only
    };
    let mut failed = Vec::new();
    for part in parts {
        let result = match part {
            Part::Publish => all.publish(),
            Part::Fanout => all.fanout(),
            Part::Idle => all.idle(),
            Part::Reconnect => all.reconnect(),
            Part::Fairness => all.fairness(),
            Part::Secure => all.secure(),
            Part::Revoke => all.revoke(),
            Part::Protocols => all.protocols(),
            Part::Delta => all.delta(),
        };
        if let Err(error) = result {
            say(&format!("{part:?} could not be measured: {error:#}"));
            let name = format!("{part:?}").to_lowercase();
            all.rows.push(Row::plain(
                &name,
                "",
                "could not be measured".to_owned(),
                None,
            ));
            failed.push(name);
        }
    }
    let plan = json!({
        "quick": args.quick,
        "rounds": all.rounds,
        "seconds": all.duration.as_secs_f64(),
        "a_processor_for_each_side": pinning == Pinning::Split,
    });
    let path = report::write(&args.out, &all.rows, &all.runs, &plan)?;
    let mut output = std::io::stdout();
    writeln!(
        output,
        "{}\nResults and single runs: {}",
        report::table(&all.rows),
        path.display()
    )
    .context("printing the table")?;
    if !failed.is_empty() {
        bail!("could not be measured: {}", failed.join(", "));
    }
    Ok(())
}

fn say(text: &str) {
    // Progress is for people; without them nothing is missing.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn show_us(ns: f64) -> String {
    format!("{:.2} us", ns / 1000.0)
}

/// The median over rounds of one side.
fn over<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(figure))
}

impl All<'_> {
    /// Whether a measurement may still begin.
    fn check_budget(&self) -> Result<()> {
        let budget = if self.args.quick {
            BUDGET_QUICK
        } else {
            BUDGET
        };
        if self.start.elapsed() > budget {
            bail!("the time of {} s is over", budget.as_secs());
        }
        Ok(())
    }

    /// Keeps one run and shows it.
    fn keep(&mut self, kind: &str, figures: &(impl Serialize + std::fmt::Display)) {
        say(&format!(
            "[{:>4} s] {figures}",
            self.start.elapsed().as_secs()
        ));
        self.runs.push(json!({"kind": kind, "figures": figures}));
    }
}
