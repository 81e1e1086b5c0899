//! PostgreSQL servers of a test's own, for faults: killed, paused, cut off, promoted.

use std::path::Path;

use gb6_tests_harness::engines::{Engine, Front, Kind};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tokio::runtime::Runtime;

/// A server, and its replica if it has one.
pub(crate) struct Server<'a> {
    runtime: &'a Runtime,
    engine: Engine,
}

/// A directory that the servers' user may enter.
pub(crate) fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all).unwrap();
    dir
}

impl<'a> Server<'a> {
    /// A new server; `options` are those of `scripts/engine.sh`.
    pub(crate) fn start(runtime: &'a Runtime, dir: &Path, options: &[&str]) -> Self {
        let start = Engine::start(Kind::Postgres, dir, options);
        let engine = runtime.block_on(start).unwrap();
        Self { runtime, engine }
    }

    /// One behind a network that can be cut.
    pub(crate) fn behind(runtime: &'a Runtime, dir: &Path) -> (Self, Front) {
        let start = Engine::start_behind(Kind::Postgres, dir, &[]);
        let (engine, front) = runtime.block_on(start).unwrap();
        (Self { runtime, engine }, front)
    }

    /// The addresses of its servers, as in URIs: the primary's first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let sockets = self.engine.sockets();
        sockets.iter().map(ToString::to_string).collect()
    }

    fn sql_on(&self, n: usize, sql: &str) {
        let uri = format!(
            "postgres://gb6@{}/postgres?sslmode=disable",
            self.addresses()[n]
        );
        self.runtime.block_on(async {
            let mut link = PgConnection::connect(&uri).await.unwrap();
            link.execute(AssertSqlSafe(sql)).await.unwrap();
        });
    }

    /// Runs a statement on the primary, as the superuser.
    pub(crate) fn sql(&self, sql: &str) {
        self.sql_on(0, sql);
    }

    /// Runs a statement on the replica.
    pub(crate) fn replica_sql(&self, sql: &str) {
        self.sql_on(1, sql);
    }

    /// Whether the replica has everything that was committed.
    pub(crate) fn replica_has_all(&self) -> bool {
        let uri = format!(
            "postgres://gb6@{}/postgres?sslmode=disable",
            self.addresses()[0]
        );
        let sql = "SELECT count(*) FROM pg_stat_replication \
                   WHERE replay_lsn >= pg_current_wal_flush_lsn()";
        self.runtime.block_on(async {
            let mut link = PgConnection::connect(&uri).await.unwrap();
            let row = link.fetch_one(sql).await.unwrap();
            row.get::<i64, _>(0) == 1
        })
    }

    /// A database that belongs to a role that is nobody special; both are called `app`.
    pub(crate) fn make_app(&self) {
        self.sql("CREATE ROLE app LOGIN");
        self.sql("CREATE DATABASE app OWNER app");
    }

    /// Changes a setting of the primary while it runs.
    pub(crate) fn set(&self, setting: &str) {
        self.sql(&format!("ALTER SYSTEM SET {setting}"));
        self.sql("SELECT pg_reload_conf()");
    }

    /// The replica becomes a primary. It waits for no standby of its own.
    pub(crate) fn promote(&self) {
        self.replica_sql("SELECT pg_promote(true, 30)");
        self.replica_sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        self.replica_sql("SELECT pg_reload_conf()");
    }

    /// Kills `primary` or `replica`, with all its sessions.
    pub(crate) fn kill(&self, name: &str) {
        self.runtime.block_on(self.engine.kill_one(name)).unwrap();
    }

    /// Starts again what does not run.
    pub(crate) fn restart(&mut self) {
        self.runtime.block_on(self.engine.restart()).unwrap();
    }

    /// Stops `primary` or `replica` where it is, with all its sessions.
    pub(crate) fn pause(&self, name: &str) {
        self.engine.pause_one(name).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn resume(&self, name: &str) {
        self.engine.resume_one(name).unwrap();
    }
}
