//! Tables brought up to date, one version after the other, under a lock, in one transaction; refused
//! where they are newer than this program.

use gb6_core_ports::StoreError;

use crate::db::{Db, Progress};
use crate::fault::Fault;
use crate::value::{Row, Statement, Value};

/// The tables of one port.
#[derive(Debug)]
pub(crate) struct Component {
    /// The port: `map` or `directory`.
    pub(crate) name: &'static str,
    /// Versions from 1, in order.
    pub(crate) migrations: &'static [Migration],
}

/// One version's changes, the same in meaning on both engines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    pub(crate) name: &'static str,
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

const HAS_TABLE: Statement = Statement::each(
    "schema_has",
    "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'gb6_schema'",
    "SELECT count(*) FROM pg_tables \
     WHERE schemaname = current_schema() AND tablename = 'gb6_schema'",
);
const VERSION: Statement = Statement::both(
    "schema_version",
    "SELECT coalesce(max(version), 0) FROM gb6_schema WHERE component = $1",
);
const APPLIED: Statement = Statement::both(
    "schema_applied",
    "INSERT INTO gb6_schema (component, version, name) VALUES ($1, $2, $3)",
);
/// Held to the end of the transaction. SQLite's write lock is taken when it begins.
const LOCK: Statement = Statement::each(
    "schema_lock",
    "SELECT 0",
    "SELECT pg_advisory_xact_lock(7377431801)",
);
const TABLE: &str = "CREATE TABLE gb6_schema (\
     component TEXT NOT NULL, version BIGINT NOT NULL, name TEXT NOT NULL, \
     PRIMARY KEY (component, version))";

/// Applies what is missing.
pub(crate) async fn run(db: &Db, component: &Component, progress: &Progress) -> Result<(), Fault> {
    let mut session = db.begin().await?;
    session.rows(&LOCK, &[]).await?;
    let exists = session.row(&HAS_TABLE, &[]).await?;
    if exists.map_or(Ok(0), |row| row.int(0))? == 0 {
        session.script("schema_table", TABLE).await?;
    }
    let name = Value::from(component.name);
    let row = session.row(&VERSION, std::slice::from_ref(&name)).await?;
    let found = match known(db, component, row.as_ref()) {
        Ok(found) => found,
        Err(fault) => {
            session.rollback().await;
            return Err(fault);
        }
    };
    let missing = component.migrations.iter().enumerate();
    for (n, migration) in missing.skip(found as usize) {
        let script = match db.is_sqlite() {
            true => migration.sqlite,
            false => migration.postgres,
        };
        session.script("schema_migrate", script).await?;
        let args = [name.clone(), (n as u64 + 1).into(), migration.name.into()];
        session.run(&APPLIED, &args).await?;
    }
    progress.commit(session).await
}

/// The version that the tables have, 0 where there are none. Changes nothing.
pub(crate) async fn version(db: &Db, component: &Component) -> Result<u64, Fault> {
    let exists = db.query(&HAS_TABLE, &[]).await?;
    if exists.first().map_or(Ok(0), |row| row.int(0))? == 0 {
        return Ok(0);
    }
    let rows = db.query(&VERSION, &[component.name.into()]).await?;
    known(db, component, rows.first())
}

/// The version in an answer to [`VERSION`], unless it is newer than this program's.
fn known(db: &Db, component: &Component, row: Option<&Row>) -> Result<u64, Fault> {
    let found = row.map_or(Ok(0), |row| row.count(0))?;
    let supported = component.migrations.len() as u64;
    if found > supported {
        return Err(Fault::Store(StoreError::Format {
            path: format!("{} ({})", db.name, component.name),
            found: u32::try_from(found).unwrap_or(u32::MAX),
            supported: u32::try_from(supported).unwrap_or(u32::MAX),
        }));
    }
    Ok(found)
}
