//! What a database says about itself before anything is started.

use std::time::Duration;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Check;
use tokio::runtime::Handle;

use crate::config::{Config, Engine};
use crate::db::Db;
use crate::fault::Fault;
use crate::migrate::{self, Component};
#[cfg(feature = "postgres")]
use crate::replica::{FLUSHED, Replica};
use crate::value::Statement;

const SQLITE: Statement = Statement::both(
    "check_sqlite",
    "SELECT sqlite_version(), (SELECT quick_check FROM pragma_quick_check LIMIT 1)",
);
#[cfg(feature = "postgres")]
const RIGHTS: Statement = Statement::both(
    "check_rights",
    "SELECT current_setting('server_version'), \
            has_schema_privilege(current_schema(), 'CREATE')::int::bigint, \
            current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
            (SELECT count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), \
            (SELECT count(*) FROM pg_roles \
             WHERE rolname = current_user AND (rolsuper OR rolbypassrls))",
);

/// Connections that a node needs to rewrite its record in time: one looks at others' records, one may hang
/// from the change before, and a change is tried on two.
const LEASE_CONNECTIONS: usize = 4;

/// Whether nodes that agree by records of this database rewrite their own within `lease`, after which they
/// are taken for dead, where a connection hangs. `None`: there is no connection. Asks nobody.
pub fn check_lease(config: &Config, lease: Duration) -> Option<Check> {
    let Engine::Postgres(server) = &config.engine else {
        return None;
    };
    let what = format!("{config}: leases");
    let (timeout, longest) = (config.deadline, lease * 3 / 2);
    let mut wrong = Vec::new();
    if timeout > longest {
        wrong.push(format!(
            "a call may take {} ms, and a node that is not heard for {} ms (node_lease) loses its shards: one \
             connection that hangs keeps its records from being written for so long that the second attempt \
             comes too late; set timeout_ms to {} or less, or raise node_lease on all nodes",
            timeout.as_millis(),
            lease.as_millis(),
            longest.as_millis(),
        ));
    }
    if server.connections < LEASE_CONNECTIONS {
        wrong.push(format!(
            "connections={}: a node's record is tried on a second connection where one hangs, beside those \
             that look and that write others' records; set {LEASE_CONNECTIONS} or more",
            server.connections
        ));
    }
    Some(match wrong.is_empty() {
        true => Check::good(
            what,
            format!(
                "{} ms for a call and {} connections keep a lease of {} ms where one hangs",
                timeout.as_millis(),
                server.connections,
                lease.as_millis(),
            ),
        ),
        false => Check::bad(what, wrong.join("; ")),
    })
}

/// What a database is to hold: what is good for one may not be for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// A `MapStore`.
    Map,
    /// A `Directory`, or a shard of one.
    Directory,
}

impl Holds {
    fn tables(self) -> &'static Component {
        match self {
            Holds::Map => &crate::map::TABLES,
            Holds::Directory => &crate::directory::TABLES,
        }
    }
}

/// Connects, and says what is good and what is wrong. Changes no table; blocks the calling thread.
pub fn check(config: &Config, holds: Holds, runtime: Handle) -> Vec<Check> {
    let what = |aspect: &str| format!("{config}: {aspect}");
    let db = match Db::connected(config, "check", runtime, &Metrics::bare()) {
        Ok(db) => db,
        Err(e) => return vec![Check::bad(what("open"), e.to_string())],
    };
    let result = match db.is_sqlite() {
        true => sqlite(&db, &what),
        #[cfg(feature = "postgres")]
        false => postgres(&db, (config, holds), &what),
        #[cfg(not(feature = "postgres"))]
        false => Ok(Vec::new()),
    };
    let found = result.map(|mut checks| {
        checks.push(tables(&db, holds.tables(), what("tables")));
        checks
    });
    found.unwrap_or_else(|fault| {
        let advice = match fault.is_lost() {
            true => ": see that it runs, is reached from here, and shows a certificate that sslmode accepts",
            false => "",
        };
        let error = fault.into_store(&db.name);
        vec![Check::bad(what("connect"), format!("{error}{advice}"))]
    })
}

fn tables(db: &Db, component: &Component, what: String) -> Check {
    let version = db.call("look at the tables", async |_| {
        migrate::version(db, component).await
    });
    let supported = component.migrations.len() as u64;
    match version {
        Ok(0) => Check::good(what, "not there yet: made at the first start"),
        Ok(version) if version < supported => Check::good(
            what,
            format!("version {version}: brought to {supported} at the next start"),
        ),
        Ok(version) => Check::good(what, format!("version {version}")),
        Err(fault) => Check::bad(what, fault.into_store(&db.name).to_string()),
    }
}

fn sqlite(db: &Db, what: &dyn Fn(&str) -> String) -> Result<Vec<Check>, Fault> {
    let row = db.call("look at the file", async |_| {
        let rows = db.query(&SQLITE, &[]).await?;
        let row = rows.into_iter().next();
        row.ok_or_else(|| Fault::Damaged("no answer".into()))
    })?;
    let state = row.text(1)?;
    Ok(vec![
        Check::good(what("version"), format!("SQLite {}", row.text(0)?)),
        match state.as_str() {
            "ok" => Check::good(what("content"), "sound"),
            _ => Check::bad(
                what("content"),
                format!("damaged: {state}; restore it from a backup"),
            ),
        },
    ])
}

#[cfg(feature = "postgres")]
fn postgres(
    db: &Db,
    (config, holds): (&Config, Holds),
    what: &dyn Fn(&str) -> String,
) -> Result<Vec<Check>, Fault> {
    let several = config.server_count() > 1;
    let row = db.call("look at the server", async |_| {
        let rows = db.query(&RIGHTS, &[]).await?;
        let row = rows.into_iter().next();
        row.ok_or_else(|| Fault::Damaged("no answer".into()))
    })?;
    let standbys = row.text(3)?;
    let commit = row.text(2)?;
    let waits_for = match standbys.as_str() {
        "" => "this server alone: a failover may lose acknowledged changes".to_owned(),
        names => format!("synchronous standbys {names}"),
    };
    let mut checks = vec![
        Check::good(what("version"), format!("PostgreSQL {}", row.text(0)?)),
        match row.int(1)? {
            0 => Check::bad(
                what("permissions"),
                "the role may not create tables: GRANT CREATE ON SCHEMA public to it, or bring \
                 the tables up to date with a role that may",
            ),
            _ => Check::good(what("permissions"), "may create tables"),
        },
        match (row.int(5)?, holds) {
            (0, _) => Check::good(what("row-level security"), "binds the role"),
            (_, Holds::Map) => Check::good(what("row-level security"), "is not used by a map"),
            (_, Holds::Directory) if config.takes_superuser() => Check::good(
                what("row-level security"),
                "does not bind the role, which superuser=allow accepts: one wall less between customers",
            ),
            (_, Holds::Directory) => Check::bad(
                what("row-level security"),
                "does not bind the role, a superuser or one with BYPASSRLS: give the directory a role that \
                 owns its database and nothing else, or accept this one with superuser=allow in the URI",
            ),
        },
        match several && standbys.is_empty() {
            // Two primaries would both take writes while they do not see each other.
            true => Check::bad(
                what("durability"),
                "several servers are named, and commits wait for none but the primary: a failover loses \
                 acknowledged changes, and an old primary goes on taking them; set \
                 synchronous_standby_names",
            ),
            false => Check::good(
                what("durability"),
                format!("synchronous_commit={commit}, commits wait for {waits_for}"),
            ),
        },
        Check::good(
            what("encryption"),
            match row.int(4)? {
                0 => "none (sslmode=require asks for it)",
                _ => "TLS",
            },
        ),
    ];
    checks.extend(db.replicas().all().iter().map(|one| replica(db, one, what)));
    Ok(checks)
}

/// A replica that is further behind has stopped, or can not keep up.
#[cfg(feature = "postgres")]
const BEHIND_MAX: u64 = 64 << 20;

#[cfg(feature = "postgres")]
fn replica(db: &Db, replica: &Replica, what: &dyn Fn(&str) -> String) -> Check {
    let what = what(&format!("replica {}", replica.name));
    let asked = db.call("look at a replica", async |_| {
        let flushed = db.query(&FLUSHED, &[]).await?;
        let flushed = flushed.first().map_or(Ok(0), |row| row.count(0))?;
        Ok((flushed, replica.replayed().await?))
    });
    match asked {
        Ok((flushed, Some(replayed))) => match flushed.saturating_sub(replayed) {
            behind if behind <= BEHIND_MAX => Check::good(what, format!("{behind} bytes behind")),
            behind => Check::bad(
                what,
                format!("{behind} bytes behind: look whether it still follows the primary"),
            ),
        },
        Ok((_, None)) => Check::bad(what, "no standby: name it among the hosts instead"),
        Err(fault) => Check::bad(what, fault.into_store(&db.name).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(uri: &str, lease_ms: u64) -> Option<Result<String, String>> {
        let config = Config::parse(uri).expect("a database");
        let check = check_lease(&config, Duration::from_millis(lease_ms))?;
        assert!(check.what.ends_with(": leases"), "{}", check.what);
        assert!(!check.what.contains("hush"), "{}", check.what);
        Some(check.found)
    }

    #[test]
    fn a_database_that_lets_a_hanging_connection_cost_a_lease_is_told() {
        let of = |options: &str| format!("postgres://gb6:hush@db1/gb6{options}");
        for (options, lease_ms) in [
            ("", 1_500),
            ("?timeout_ms=2250&connections=4", 1_500),
            ("?timeout_ms=60000", 40_000),
        ] {
            let found = leases(&of(options), lease_ms).expect("a check");
            assert!(found.is_ok(), "{options}: {found:?}");
        }
        let cases: [(&str, u64, &[&str]); 4] = [
            (
                "?timeout_ms=2251",
                1_500,
                &["2251 ms", "timeout_ms to 2250"],
            ),
            (
                "",
                1_000,
                &["2000 ms", "1000 ms (node_lease)", "timeout_ms to 1500"],
            ),
            ("?connections=3", 1_500, &["connections=3", "set 4 or more"]),
            (
                "?connections=1&timeout_ms=5000",
                1_500,
                &["timeout_ms to 2250", "connections=1"],
            ),
        ];
        for (options, lease_ms, says) in cases {
            let found = leases(&of(options), lease_ms).expect("a check");
            let advice = found.expect_err(options);
            for text in says {
                assert!(advice.contains(text), "{options}: {advice}");
            }
        }
        assert_eq!(leases("sqlite:map.db?timeout_ms=60000", 1_500), None);
    }
}
