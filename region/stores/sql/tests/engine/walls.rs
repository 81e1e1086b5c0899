//! The second wall between customers: what the database itself shows to who asks it for everything.

use gb6_core_ports::contract::directory as contract;
use gb6_region_stores_sql::{Config, Holds, check};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tokio::runtime::Runtime;

use crate::directory::{open, try_open};

/// Every table that has customers' rows, months by name too.
async fn tables(link: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE a.attname = 'root' AND c.relkind IN ('r', 'p') \
               AND c.relnamespace = 'public'::regnamespace \
               AND c.relname NOT LIKE 'catalogue%' ORDER BY 1";
    let rows = link.fetch_all(sql).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(link: &mut PgConnection, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let row = link.fetch_one(AssertSqlSafe(sql)).await.unwrap();
    row.get(0)
}

async fn see(link: &mut PgConnection, root: &str) {
    let set = format!("SELECT set_config('gb6.root', '{root}', false)");
    link.execute(AssertSqlSafe(set)).await.unwrap();
}

#[test]
fn rows_of_others_are_not_there() {
    let runtime = Runtime::new().unwrap();
    let (uri, name) = crate::owned_database(&runtime);
    let directory = open(&runtime, std::slice::from_ref(&uri));
    let one = contract::customer(&directory, 10);
    let other = contract::customer(&directory, 50);
    let fact = gb6_core_ports::directory::Usage {
        region: "eu".into(),
        shard: gb6_core_model::ShardId(1),
        epoch: 1,
        position: 1,
        dimension: "messages".into(),
        instance: "acme-10".into(),
        at_ms: contract::actor().at_ms,
        amount: 1,
    };
    use gb6_core_ports::directory::Directory;
    directory.record_usage(&one, &[fact]).unwrap();
    let superuser = crate::with_database(&crate::server(), &name);
    runtime.block_on(async {
        let mut all = PgConnection::connect(&superuser).await.unwrap();
        let mut owner = PgConnection::connect(&uri).await.unwrap();
        let tables = tables(&mut all).await;
        assert!(tables.len() >= 15, "{tables:?}");
        let mut with_rows = 0;
        for table in &tables {
            let there = count(&mut all, table).await;
            with_rows += usize::from(there > 0);
            // Without the setting, and with one that is empty: nothing.
            assert_eq!(count(&mut owner, table).await, 0, "{table}");
            see(&mut owner, "").await;
            assert_eq!(count(&mut owner, table).await, 0, "{table}");
            // With a customer's: its own.
            see(&mut owner, one.as_str()).await;
            let own = format!("{table} WHERE root = '{one}'");
            assert_eq!(
                count(&mut owner, table).await,
                count(&mut all, &own).await,
                "{table}"
            );
            see(&mut owner, other.as_str()).await;
            let others = format!("{table} WHERE root <> '{other}'");
            assert_eq!(count(&mut owner, &others).await, 0, "{table}");
            // Nor is anything of others changed, by a statement that forgot to say whose.
            let update = format!("UPDATE {table} SET root = root");
            let update = owner.execute(AssertSqlSafe(update)).await.unwrap();
            let own = format!("{table} WHERE root = '{other}'");
            assert_eq!(
                update.rows_affected() as i64,
                count(&mut all, &own).await,
                "{table}"
            );
            see(&mut owner, "").await;
        }
        // The test would see nothing wrong in empty tables.
        assert!(with_rows >= 11, "{with_rows} of {tables:?}");
        see(&mut owner, other.as_str()).await;
        let insert = format!(
            "INSERT INTO people (root, id, owner, version, subject, name, state) \
             VALUES ('{one}', 'x', '{one}', 1, 'x', 'x', 'active')"
        );
        let error = owner.execute(AssertSqlSafe(insert)).await.unwrap_err();
        assert!(error.to_string().contains("row-level security"), "{error}");
    });
}

#[test]
fn a_role_that_walls_do_not_bind_is_refused() {
    let runtime = Runtime::new().unwrap();
    let uri = crate::database(&runtime);
    let error = try_open(&runtime, std::slice::from_ref(&uri)).unwrap_err();
    assert_eq!(error.code(), "unavailable");
    assert!(error.to_string().contains("superuser=allow"), "{error}");
    let allowed = format!("{uri}?superuser=allow");
    open(&runtime, std::slice::from_ref(&allowed));
    // A check says the same before anything is started; a map has no use for walls.
    for (uri, holds, good) in [
        (&uri, Holds::Directory, false),
        (&allowed, Holds::Directory, true),
        (&uri, Holds::Map, true),
    ] {
        let config = Config::parse(uri).unwrap();
        let checks = check(&config, holds, runtime.handle().clone());
        let walls = checks.iter().find(|c| c.what.contains("row-level"));
        assert_eq!(walls.unwrap().is_good(), good, "{checks:?}");
        assert_eq!(checks.iter().all(|c| c.is_good()), good, "{checks:?}");
    }
}
