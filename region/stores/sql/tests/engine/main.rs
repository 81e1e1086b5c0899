//! The ports on a real PostgreSQL: the contract suites on the server that `GB6_TEST_POSTGRES` names, and
//! faults on servers that a test starts for itself.

#![allow(clippy::unwrap_used)]

mod directory;
mod failover;
mod map;
mod replicas;
mod secure;
mod server;
mod walls;

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Runtime;

fn server() -> String {
    std::env::var("GB6_TEST_POSTGRES").expect(
        "GB6_TEST_POSTGRES=postgres://user@host:port/database names no server: \
         `make test-engines` starts one and sets it",
    )
}

/// Runs statements, one after the other, as the user of `GB6_TEST_POSTGRES`, in the database of its URI
/// or in `database`.
fn as_superuser(runtime: &Runtime, database: Option<&str>, statements: &[String]) {
    use sqlx::{AssertSqlSafe, Connection, Executor};
    let uri = match database {
        Some(name) => with_database(&server(), name),
        None => server(),
    };
    runtime.block_on(async {
        let mut link = sqlx::PgConnection::connect(&uri).await.unwrap();
        for statement in statements {
            link.execute(AssertSqlSafe(statement.clone()))
                .await
                .unwrap();
        }
    });
}

fn with_database(uri: &str, name: &str) -> String {
    let address = uri.split('?').next().unwrap();
    let (server, _) = address.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// A name for databases and roles that nobody has.
fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("gb6_test_{}_{n}", std::process::id())
}

/// A new, empty database on the server of `GB6_TEST_POSTGRES`; its URI without options.
fn database(runtime: &Runtime) -> String {
    let name = new_name();
    // One may be left by a process of this number that was killed.
    let statements = [
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        format!("CREATE DATABASE {name}"),
    ];
    as_superuser(runtime, None, &statements);
    with_database(&server(), &name)
}

/// As [`database`], of a role that is nobody special; the URI is that role's.
fn owned_database(runtime: &Runtime) -> (String, String) {
    let name = new_name();
    let statements = [
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        format!("DROP ROLE IF EXISTS {name}"),
        format!("CREATE ROLE {name} LOGIN PASSWORD '{name}'"),
        format!("CREATE DATABASE {name} OWNER {name}"),
    ];
    as_superuser(runtime, None, &statements);
    let uri = with_database(&server(), &name);
    let (_, place) = uri.rsplit_once('@').unwrap();
    (format!("postgres://{name}:{name}@{place}"), name)
}
