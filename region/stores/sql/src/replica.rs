//! Replicas of a PostgreSQL database that answer reads which may be stale.
//!
//! How stale one is is measured, not believed: what the primary had flushed is compared with what the replica
//! has replayed, by this process's monotonic clock. A replica whose link to the primary is cut says itself that
//! it is up to date.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Server;
use crate::db::Db;
use crate::fault::Fault;
use crate::hosts::Hosts;
use crate::metrics::SqlMetrics;
use crate::pool::{Connector, Pool};
use crate::value::Statement;

/// How often the replicas are compared with the primary.
const EVERY: Duration = Duration::from_millis(500);
/// After a start they are compared more often, until one of them can be asked or this is over: who opened the
/// database for one reading waits for that.
const FIRST: Duration = Duration::from_secs(1);
/// How often then.
const FIRST_EVERY: Duration = Duration::from_millis(50);
/// How many of the primary's positions are remembered: two minutes' worth.
const POSITIONS: usize = 256;

/// Up to where the primary has written for good.
pub(crate) const FLUSHED: Statement = Statement::both(
    "replica_flushed",
    "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint",
);
/// Null where it is no replica.
const REPLAYED: Statement = Statement::both(
    "replica_replayed",
    "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END \
             - '0/0'::pg_lsn)::bigint",
);

/// One replica.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Its address.
    pub(crate) name: String,
    pub(crate) pool: Arc<Pool>,
    /// It has everything that was committed before this moment.
    fresh: Mutex<Option<Instant>>,
}

/// The replicas of a database.
#[derive(Debug)]
pub(crate) struct Replicas {
    all: Vec<Replica>,
    opened: Instant,
    /// Whether any could be asked since then.
    found: watch::Sender<bool>,
}

impl Default for Replicas {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            opened: Instant::now(),
            found: watch::Sender::new(false),
        }
    }
}

impl Replicas {
    /// Those that a configuration names.
    pub(crate) fn of(server: &Server, deadline: Duration, metrics: &SqlMetrics) -> Self {
        let one = |address| {
            let hosts = Hosts::reader(server, address, deadline);
            let connector = Connector::Postgres(hosts);
            Replica {
                name: address.to_string(),
                pool: Pool::new(connector, server.connections, deadline, metrics.clone()),
                fresh: Mutex::default(),
            }
        };
        Self {
            all: server.reads.iter().map(one).collect(),
            ..Self::default()
        }
    }

    /// One whose answers are no older than `bound`. Soon after the start it waits, up to `patience`, until one
    /// was found to be fit.
    pub(crate) async fn within(&self, bound: Duration, patience: Duration) -> Option<&Replica> {
        let patience = patience.min(FIRST.saturating_sub(self.opened.elapsed()));
        if !self.all.is_empty() && !patience.is_zero() {
            let mut found = self.found.subscribe();
            // Over or not, what is known then is what counts.
            let _ = tokio::time::timeout(patience, found.wait_for(|found| *found)).await;
        }
        self.all.iter().find(|replica| replica.within(bound))
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Replica] {
        &self.all
    }

    /// How long until they are compared again.
    fn pause(&self) -> Duration {
        let found = self
            .all
            .iter()
            .any(|replica| replica.fresh.lock().is_some());
        if found {
            self.found.send_replace(true);
        }
        match found || self.opened.elapsed() >= FIRST {
            true => EVERY,
            false => FIRST_EVERY,
        }
    }
}

impl Replica {
    /// Whether it has everything that was committed `bound` ago.
    pub(crate) fn within(&self, bound: Duration) -> bool {
        self.fresh
            .lock()
            .is_some_and(|fresh| fresh.elapsed() <= bound)
    }

    /// It failed: it is not asked again before it was compared.
    pub(crate) fn failed(&self) {
        *self.fresh.lock() = None;
    }

    async fn compare(&self, positions: &VecDeque<(Instant, u64)>) {
        let replayed = tokio::time::timeout(EVERY, self.replayed()).await;
        let fresh = match replayed {
            Ok(Ok(Some(replayed))) => {
                let reached = positions.iter().rev().find(|(_, at)| *at <= replayed);
                reached.map(|(when, _)| *when)
            }
            _ => None,
        };
        *self.fresh.lock() = fresh;
    }

    /// Up to where it has replayed; `None`: it is no replica.
    pub(crate) async fn replayed(&self) -> Result<Option<u64>, Fault> {
        let rows = self.pool.query(&REPLAYED, &[]).await?;
        match rows.first() {
            Some(row) if !row.is_null(0) => row.count(0).map(Some),
            _ => Ok(None),
        }
    }
}

/// Compares the replicas of a database with its primary, for ever.
pub(crate) async fn follow(db: Arc<Db>) {
    let mut positions: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        let asked = Instant::now();
        let flushed = tokio::time::timeout(db.deadline, db.query(&FLUSHED, &[])).await;
        if let Ok(Ok(rows)) = flushed
            && let Some(Ok(at)) = rows.first().map(|row| row.count(0))
        {
            // Another server's positions mean something else: it was promoted below what was seen.
            if positions.back().is_some_and(|(_, last)| *last > at) {
                positions.clear();
            }
            if positions.len() == POSITIONS {
                positions.pop_front();
            }
            positions.push_back((asked, at));
        }
        let replicas = db.replicas();
        join_all(replicas.all.iter().map(|one| one.compare(&positions))).await;
        tokio::time::sleep(replicas.pause()).await;
    }
}
