//! The table of goals and the file of results.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

/// One line of the table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    /// The goal in words.
    pub(crate) goal: String,
    /// Our figure.
    pub(crate) figure: String,
    /// What it is compared with.
    pub(crate) reference: String,
    /// The one by the other.
    pub(crate) ratio: Option<f64>,
    /// Whether the goal is met; `None`: there is none, or it could not be told.
    pub(crate) met: Option<bool>,
}

/// A bound that a ratio must keep.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    /// At most.
    AtMost(f64),
    /// At least.
    AtLeast(f64),
}

impl Bound {
    /// Whether `value` keeps it.
    pub(crate) fn is_kept(self, value: f64) -> bool {
        match self {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }
}

impl Row {
    /// A goal about the ratio of two figures.
    pub(crate) fn ratio(
        what: &str,
        goal: &str,
        bound: Bound,
        ours: (f64, String),
        other: (f64, String),
    ) -> Self {
        let ratio = (other.0 > 0.0).then(|| ours.0 / other.0);
        Row {
            what: what.to_owned(),
            goal: goal.to_owned(),
            figure: ours.1,
            reference: other.1,
            ratio,
            met: ratio.map(|ratio| bound.is_kept(ratio)),
        }
    }

    /// A goal that a figure keeps or not.
    pub(crate) fn plain(what: &str, goal: &str, figure: String, met: Option<bool>) -> Self {
        Row {
            what: what.to_owned(),
            goal: goal.to_owned(),
            figure,
            reference: String::new(),
            ratio: None,
            met,
        }
    }
}

/// The rows as a table for a terminal.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = ["what", "goal", "figure", "compared with", "ratio", "met"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        lines.push([
            row.what.clone(),
            row.goal.clone(),
            row.figure.clone(),
            row.reference.clone(),
            row.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            match row.met {
                Some(true) => "yes".to_owned(),
                Some(false) => "NO".to_owned(),
                None => "-".to_owned(),
            },
        ]);
    }
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        let mut text = String::from("|");
        for (width, cell) in widths.iter().zip(line) {
            // Writing to a string can not fail.
            let _ = write!(text, " {cell:<width$} |");
        }
        out.push_str(text.trim_end());
        out.push('\n');
        if n == 0 {
            out.push('|');
            for width in widths {
                out.push_str(&"-".repeat(width + 2));
                out.push('|');
            }
            out.push('\n');
        }
    }
    out
}

/// Writes how it was measured, rows and single runs to `<dir>/bench-<unix time>.json`.
///
/// # Errors
/// The file can not be written.
pub(crate) fn write(dir: &Path, rows: &[Row], runs: &[Value], plan: &Value) -> Result<PathBuf> {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let path = dir.join(format!("bench-{time}.json"));
    let all = json!({
        "unix_time": time,
        "version": env!("CARGO_PKG_VERSION"),
        "plan": plan,
        "machine": machine(),
        "goals": rows,
        "runs": runs,
    });
    let text = serde_json::to_vec_pretty(&all).context("writing the results")?;
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// What the figures depend on.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo").lines().find_map(|line| {
        Some(
            line.strip_prefix("model name")?
                .trim()
                .trim_start_matches(": ")
                .to_owned(),
        )
    });
    json!({
        "processors": crate::process::processors().len(),
        "processor": processor,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
    })
}

/// The median; 0 without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn goals_are_judged_by_their_ratio() {
        let row = |ours, other, bound| {
            Row::ratio("w", "g", bound, (ours, "o".into()), (other, "p".into())).met
        };
        assert_eq!(row(17.0, 10.0, Bound::AtMost(1.7)), Some(true));
        assert_eq!(row(18.0, 10.0, Bound::AtMost(1.7)), Some(false));
        assert_eq!(row(20.0, 10.0, Bound::AtLeast(2.0)), Some(true));
        assert_eq!(row(1.0, 0.0, Bound::AtMost(1.7)), None);
    }

    #[test]
    fn a_table_has_a_line_for_each_goal() {
        let rows = [
            Row::plain("idle", "at most 7.4 kB", "7.0 kB".into(), Some(true)),
            Row::plain("long name of it", "", "x".into(), None),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(
            lines.iter().all(|line| line.len() == lines[0].len()),
            "{text}"
        );
    }

    #[test]
    fn results_are_json_with_the_machine_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &[], &[json!({"a": 1})], &json!({"rounds": 1})).unwrap();
        let text = std::fs::read(path).unwrap();
        let read: Value = serde_json::from_slice(&text).unwrap();
        assert!(read["machine"]["processors"].as_u64().unwrap() > 0);
        assert_eq!(read["runs"][0]["a"], 1);
    }
}
