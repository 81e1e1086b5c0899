//! How many reads of logs for webhooks go on at once at a node: each keeps a thread, and those of pages some
//! megabytes. What an archive is needed for has places of its own: it may not answer while logs do.

use std::sync::Arc;

use gb6_core_obs::metrics::{Gauge, Metrics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::recoveries::Counted;

/// Reads of pages, of logs and of archives each.
const SCANS_MAX: usize = 4;
/// Reads of single records, of logs and of archives each.
const SINGLE_MAX: usize = 16;

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct What {
    /// A page, and not single records.
    pub(crate) scan: bool,
    /// It may lie in the archive.
    pub(crate) archived: bool,
}

/// The places of a node.
pub(crate) struct Reads {
    // overflow: who reads waits. Each webhook reads one thing at once.
    of_logs: Places,
    of_archives: Places,
    waiting: Gauge,
}

struct Places {
    scans: Arc<Semaphore>,
    single: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            single: Arc::new(Semaphore::new(SINGLE_MAX)),
        }
    }
}

impl Reads {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            of_logs: Places::default(),
            of_archives: Places::default(),
            waiting: metrics.gauge(
                "gb6_webhook_reads_waiting",
                "Reads of logs for webhooks that wait, because as many as may go on at once.",
            ),
        }
    }

    /// A place, once there is one. Safe to cancel.
    pub(super) async fn place(&self, what: What) -> Option<OwnedSemaphorePermit> {
        let places = match what.archived {
            true => &self.of_archives,
            false => &self.of_logs,
        };
        let places = match what.scan {
            true => &places.scans,
            false => &places.single,
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Some(place);
        }
        let _waiting = Counted::new(&self.waiting);
        // Closed by nobody.
        places.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn reads_of_an_archive_that_is_away_keep_no_place_of_others() {
        let reads = Reads::new(&Metrics::bare());
        for (scan, most) in [(true, SCANS_MAX), (false, SINGLE_MAX)] {
            let away = What {
                scan,
                archived: true,
            };
            let mut kept = Vec::new();
            for _ in 0..most {
                kept.push(reads.place(away).await);
            }
            let mut further = Box::pin(reads.place(away));
            let moment = Duration::from_millis(50);
            let waited = tokio::time::timeout(moment, &mut further).await;
            assert!(waited.is_err(), "more than there are places");
            assert_eq!(reads.waiting.get(), 1);
            drop(further);
            assert_eq!(reads.waiting.get(), 0);
            let here = What {
                archived: false,
                ..away
            };
            assert!(reads.place(here).await.is_some());
            drop(kept);
            assert!(reads.place(away).await.is_some());
        }
    }
}
