//! What geo shows of itself: metrics, and notes of its health.

use std::sync::{Arc, Mutex, PoisonError};

use gb6_core_obs::{Component, Counter, Gauge, Health, Metrics};
use gb6_core_ports::directory::DirectoryError;
use gb6_geo_config_plan::Problem;

/// The metrics.
#[derive(Clone)]
pub(crate) struct Seen {
    revision: Gauge,
    file_good: Gauge,
    refused: Counter,
    pub(crate) followers: Gauge,
    pub(crate) pushes: Counter,
    /// `None`: there is no directory.
    directory: Option<Arc<DirectorySeen>>,
}

struct DirectorySeen {
    up: Gauge,
    mistakes: Gauge,
    component: Component,
    now: Mutex<DirectoryNow>,
}

#[derive(Default)]
struct DirectoryNow {
    /// Why it can not be read.
    lost: Option<String>,
    /// What is wrong with its instances.
    problems: Vec<Problem>,
}

impl Seen {
    /// `directory`: the health of a node that has one.
    pub(crate) fn new(metrics: &Metrics, directory: Option<&Health>) -> Self {
        let directory = directory.map(|health| {
            let component = health.register("directory");
            // A node without it works by what it has read: notes say what is wrong.
            component.ready();
            Arc::new(DirectorySeen {
                up: metrics.gauge(
                    "gb6_geo_directory_up",
                    "Whether the directory could be read at the last look (1) or not (0).",
                ),
                mistakes: metrics.gauge(
                    "gb6_geo_directory_mistakes",
                    "Mistakes in instances of the directory; each is left out, or what was good before stays in force.",
                ),
                component,
                now: Mutex::default(),
            })
        });
        Self {
            revision: metrics.gauge(
                "gb6_geo_snapshot_revision",
                "Revision of the snapshot in force.",
            ),
            file_good: metrics.gauge(
                "gb6_geo_snapshot_file_good",
                "Whether the snapshot file as it is now is in force (1) or has a mistake (0).",
            ),
            refused: metrics.counter(
                "gb6_geo_snapshot_refused_total",
                "Changes of the snapshot file that were not taken over.",
            ),
            followers: metrics.gauge("gb6_geo_followers", "Nodes that follow the snapshot now."),
            pushes: metrics.counter("gb6_geo_pushes_total", "Snapshots sent to nodes."),
            directory,
        }
    }

    pub(crate) fn revision(&self, revision: u64) {
        self.revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    pub(crate) fn file(&self, good: bool) {
        self.file_good.set(i64::from(good));
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// The directory was looked at.
    pub(crate) fn directory(&self, result: Option<&Result<(), DirectoryError>>) {
        let (Some(seen), Some(result)) = (&self.directory, result) else {
            return;
        };
        seen.up.set(i64::from(result.is_ok()));
        let lost = result.as_ref().err().map(ToString::to_string);
        let mut now = seen.now.lock().unwrap_or_else(PoisonError::into_inner);
        match (&now.lost, &lost) {
            (None, Some(error)) => tracing::error!(
                error,
                "the directory can not be read: what was read last stays in force, and changes wait"
            ),
            (Some(_), None) => tracing::info!("the directory can be read again"),
            _ => {}
        }
        now.lost = lost;
        seen.component.note(now.note());
    }

    /// What is wrong with instances of the directory.
    pub(crate) fn problems(&self, problems: &[Problem]) {
        let Some(seen) = &self.directory else { return };
        let count = i64::try_from(problems.len()).unwrap_or(i64::MAX);
        seen.mistakes.set(count);
        let mut now = seen.now.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|p| !now.problems.contains(p)) {
            tracing::error!(%problem, "a mistake in the directory is not taken over");
        }
        now.problems = problems.to_vec();
        seen.component.note(now.note());
    }
}

impl DirectoryNow {
    fn note(&self) -> Option<String> {
        let mut notes = Vec::new();
        if let Some(error) = &self.lost {
            notes.push(format!(
                "it can not be read, and what was read last stays in force: {error}"
            ));
        }
        if !self.problems.is_empty() {
            let count = self.problems.len();
            notes.push(format!(
                "{count} mistakes in instances, which the log names"
            ));
        }
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}
