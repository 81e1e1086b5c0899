//! What the databases of one process report.

use std::time::Duration;

use gb6_core_obs::metrics::{Buckets, CounterFamily, Gauge, HistogramFamily, Label, Metrics};

use crate::fault::Fault;

/// Metrics of one port's database.
#[derive(Clone, Debug)]
pub(crate) struct SqlMetrics {
    port: &'static str,
    statements: CounterFamily,
    statement_seconds: HistogramFamily,
    pool_wait: HistogramFamily,
    connects: CounterFamily,
    #[cfg(feature = "postgres")]
    stale_reads: CounterFamily,
    pub(crate) connections: Gauge,
}

impl SqlMetrics {
    /// Those of `port`: `map` or `directory`.
    pub(crate) fn new(metrics: &Metrics, port: &'static str) -> Self {
        const PORT: Label = Label::new("port", 4);
        Self {
            port,
            statements: metrics.counter_family(
                "gb6_sql_statements_total",
                "Statements that a database was asked to run, by name and outcome.",
                &[
                    PORT,
                    Label::new("statement", 128),
                    Label::new("outcome", 12),
                ],
            ),
            statement_seconds: metrics.histogram_family(
                "gb6_sql_statement_seconds",
                "How long a database took for a statement; a commit is one.",
                Buckets::SECONDS,
                &[PORT],
            ),
            pool_wait: metrics.histogram_family(
                "gb6_sql_pool_wait_seconds",
                "How long a call waited for a connection to a database, a new one included.",
                Buckets::SECONDS,
                &[PORT],
            ),
            connects: metrics.counter_family(
                "gb6_sql_connects_total",
                "Connections to databases that were tried, by outcome.",
                &[PORT, Label::new("outcome", 12)],
            ),
            #[cfg(feature = "postgres")]
            stale_reads: metrics.counter_family(
                "gb6_sql_stale_reads_total",
                "Reads that may be stale, by who answered.",
                &[PORT, Label::new("by", 2)],
            ),
            connections: metrics
                .gauge_family(
                    "gb6_sql_connections",
                    "Connections to databases that are open.",
                    &[PORT],
                )
                .with(&[port]),
        }
    }

    pub(crate) fn statement<T>(
        &self,
        name: &'static str,
        took: Duration,
        result: &Result<T, Fault>,
    ) {
        let outcome = outcome(result);
        self.statements.with(&[self.port, name, outcome]).inc();
        self.statement_seconds
            .with(&[self.port])
            .observe(took.as_secs_f64());
    }

    /// A statement whose caller did not wait for its answer.
    pub(crate) fn late(&self, name: &'static str) {
        self.statements.with(&[self.port, name, "late"]).inc();
    }

    pub(crate) fn waited(&self, took: Duration) {
        self.pool_wait
            .with(&[self.port])
            .observe(took.as_secs_f64());
    }

    /// A read that may be stale was answered by `replica` or `primary`.
    #[cfg(feature = "postgres")]
    pub(crate) fn stale_read(&self, by: &'static str) {
        self.stale_reads.with(&[self.port, by]).inc();
    }

    pub(crate) fn connected<T>(&self, result: &Result<T, Fault>) {
        self.connects.with(&[self.port, outcome(result)]).inc();
    }
}

fn outcome<T>(result: &Result<T, Fault>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(fault) => fault.outcome(),
    }
}
