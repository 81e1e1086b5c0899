//! The ports on a real PostgreSQL: the contract suites on the server that `GB6_TEST_POSTGRES` names, and
//! faults on servers that a test starts for itself.

#![allow(clippy::unwrap_used)]

mod failover;
mod map;
mod server;

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::runtime::Runtime;

/// A new, empty database on the server of `GB6_TEST_POSTGRES`; its URI without options.
fn database(runtime: &Runtime) -> String {
    let uri = std::env::var("GB6_TEST_POSTGRES").expect(
        "GB6_TEST_POSTGRES=postgres://user@host:port/database names no server: \
         `make test-engines` starts one and sets it",
    );
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("gb6_test_{}_{n}", std::process::id());
    runtime.block_on(async {
        use sqlx::{AssertSqlSafe, Connection, Executor};
        let mut link = sqlx::PgConnection::connect(&uri).await.unwrap();
        // Left by a process of this number that was killed.
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        link.execute(AssertSqlSafe(drop)).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        link.execute(AssertSqlSafe(create)).await.unwrap();
    });
    let address = uri.split('?').next().unwrap();
    let (server, _) = address.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}
