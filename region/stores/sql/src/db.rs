//! A database of either engine: calls with a deadline, from threads that may block.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::StoreError;
use tokio::runtime::Handle;

use crate::config::{Config, Engine};
use crate::fault::Fault;
use crate::metrics::SqlMetrics;
use crate::migrate::{self, Component};
use crate::pool::{Connector, Pool, Session};
#[cfg(feature = "postgres")]
use crate::replica::Replicas;
use crate::value::{Row, Statement, Value};

/// Readers of an SQLite file beside its one writer.
const SQLITE_READERS: usize = 4;

/// How a transaction begins that sees one moment of PostgreSQL.
pub(crate) const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// A database.
#[derive(Debug)]
pub(crate) struct Db {
    /// What people call it; never a secret.
    pub(crate) name: String,
    pub(crate) deadline: Duration,
    pub(crate) runtime: Handle,
    write: Arc<Pool>,
    read: Arc<Pool>,
    #[cfg(feature = "postgres")]
    replicas: Replicas,
    #[cfg(feature = "postgres")]
    pub(crate) metrics: SqlMetrics,
    sqlite: bool,
}

/// How far a call has come, for who gives it up.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    committing: Cell<bool>,
}

impl Progress {
    /// Commits: from here on, a call that is given up has an unknown outcome.
    pub(crate) async fn commit(&self, session: Session) -> Result<(), Fault> {
        self.committing.set(true);
        session.commit().await
    }

    /// Commits what may be committed again and changes nothing then, so that nobody needs to know
    /// whether it was.
    pub(crate) async fn commit_again(&self, session: Session) -> Result<(), Fault> {
        session.commit().await.map_err(|fault| match fault {
            Fault::Unknown(cause) => Fault::Lost(cause),
            other => other,
        })
    }
}

impl Db {
    /// Connects to it and brings the tables of `component` up to date.
    pub(crate) fn open(
        config: &Config,
        component: &Component,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let db = Self::connected(config, component.name, runtime, metrics)?;
        db.call("bring the tables up to date", async |progress| {
            migrate::run(&db, component, progress).await
        })
        .map_err(|fault| fault.into_store(&db.name))?;
        Ok(db)
    }

    /// Without looking at its tables.
    pub(crate) fn connected(
        config: &Config,
        port: &'static str,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let metrics = SqlMetrics::new(metrics, port);
        #[cfg(feature = "postgres")]
        let replicas = match &config.engine {
            Engine::Sqlite(_) => Replicas::default(),
            Engine::Postgres(server) => Replicas::of(server, config.deadline, &metrics),
        };
        let (write, read, sqlite) = match &config.engine {
            Engine::Sqlite(path) => {
                let (write, read) = crate::config::sqlite_options(path, config.deadline)?;
                (
                    Pool::new(
                        Connector::Sqlite(write),
                        1,
                        config.deadline,
                        metrics.clone(),
                    ),
                    Pool::new(
                        Connector::Sqlite(read),
                        SQLITE_READERS,
                        config.deadline,
                        metrics.clone(),
                    ),
                    true,
                )
            }
            #[cfg(feature = "postgres")]
            Engine::Postgres(server) => {
                let hosts = crate::hosts::Hosts::new(server, config.deadline);
                let pool = Pool::new(
                    Connector::Postgres(hosts),
                    server.connections,
                    config.deadline,
                    metrics.clone(),
                );
                (pool.clone(), pool, false)
            }
            #[cfg(not(feature = "postgres"))]
            Engine::Postgres(_) => {
                return Err(StoreError::Unsupported {
                    feature: "PostgreSQL: build gb6 with the feature `postgres`",
                });
            }
        };
        Ok(Self {
            name: config.to_string(),
            deadline: config.deadline,
            runtime,
            write,
            read,
            #[cfg(feature = "postgres")]
            replicas,
            #[cfg(feature = "postgres")]
            metrics,
            sqlite,
        })
    }

    /// Whether it is an SQLite file.
    pub(crate) fn is_sqlite(&self) -> bool {
        self.sqlite
    }

    /// The servers behind it.
    #[cfg(feature = "postgres")]
    pub(crate) fn hosts(&self) -> Option<&crate::hosts::Hosts> {
        match &self.write.connector {
            Connector::Postgres(hosts) => Some(hosts),
            Connector::Sqlite(_) => None,
        }
    }

    /// Runs a call to its end or its deadline, on the calling thread.
    pub(crate) fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(&Progress) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.call_within(self.deadline, what, call)
    }

    /// As [`Db::call`], with a deadline of its own.
    pub(crate) fn call_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        call: impl AsyncFnOnce(&Progress) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let progress = Progress::default();
        let result = self
            .runtime
            .block_on(async { tokio::time::timeout(deadline, call(&progress)).await });
        match result {
            Ok(result) => result,
            Err(_) => Err(Fault::late(what, deadline, progress.committing.get())),
        }
    }

    /// A transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Session, Fault> {
        // SQLite takes its lock at once: one that reads first could not write any more.
        let begin = if self.sqlite {
            "BEGIN IMMEDIATE"
        } else {
            "BEGIN"
        };
        self.write.begin(begin).await
    }

    /// The rows of one statement that writes nothing. Connections that broke while nobody used them are
    /// passed over.
    pub(crate) async fn query(
        &self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<Vec<Row>, Fault> {
        self.read.query(statement, args).await
    }
    /// A transaction that sees one moment and writes nothing.
    pub(crate) async fn snapshot(&self) -> Result<Session, Fault> {
        let begin = match self.sqlite {
            true => "BEGIN",
            false => SNAPSHOT,
        };
        self.read.begin(begin).await
    }

    /// The replicas.
    #[cfg(feature = "postgres")]
    pub(crate) fn replicas(&self) -> &Replicas {
        &self.replicas
    }
}
