//! `MapStore` on SQLite.

use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::map as contract;
use gb6_core_ports::{Expect, MapEntry, MapStore, StoreError};
use gb6_region_stores_sql::{Config, Holds, SqlMap};
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

fn open(runtime: &Runtime, uri: &str) -> SqlMap {
    let config = Config::parse(uri).unwrap();
    SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare()).unwrap()
}

#[test]
fn keeps_the_contract() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/map.db?timeout_ms=20000", dir.path().display());
    contract::all(&|| Box::new(open(&runtime, &uri)));
    let few = open(&runtime, &format!("{uri}&namespace=few&tombstones=3"));
    contract::forgets_old_deletions(&few, 3);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/map.db", dir.path().display());
    let eu = open(&runtime, &format!("{uri}?namespace=eu"));
    let us = open(&runtime, &format!("{uri}?namespace=us"));
    eu.put("a", b"eu", Expect::Absent).unwrap();
    us.put("a", b"us", Expect::Absent).unwrap();
    assert_eq!(eu.get("a").unwrap().unwrap().value.unwrap(), b"eu");
    assert_eq!(us.list("", 1).unwrap().entries.len(), 1);
    us.delete("a", Expect::Any).unwrap();
    let page = eu.changes("", 0, 10, Duration::ZERO).unwrap();
    assert_eq!((page.entries.len(), page.revision), (1, 1));
}

#[test]
fn what_was_written_is_there_when_it_is_opened_again() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/map.db", dir.path().display());
    let revision = open(&runtime, &uri).put("a", b"1", Expect::Any).unwrap();
    let again = open(&runtime, &uri);
    assert_eq!(again.get("a").unwrap().unwrap().revision, revision);
    assert_eq!(
        again.put("a", b"2", Expect::Revision(revision)).unwrap(),
        revision + 1
    );
}

/// Another process that holds the write lock stalls writes for the deadline, and nothing else.
#[test]
fn a_writer_that_does_not_let_go_costs_a_deadline() {
    use sqlx::ConnectOptions;
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let path = dir.path().join("map.db");
    let at = |timeout: &str| format!("sqlite:{}?timeout_ms={timeout}", path.display());
    let patient = open(&runtime, &at("20000"));
    patient.put("a", b"1", Expect::Any).unwrap();
    let map = open(&runtime, &at("2000"));
    let mut other = runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut other = options.connect().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(&mut other)
            .await
            .unwrap();
        other
    });
    let asked = Instant::now();
    let error = map.put("a", b"2", Expect::Any).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(map.get("a").unwrap().unwrap().value.unwrap(), b"1");
    runtime.block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap() });
    patient.put("a", b"2", Expect::Any).unwrap();
}

#[test]
fn tables_of_a_newer_program_are_refused() {
    use sqlx::ConnectOptions;
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let path = dir.path().join("map.db");
    let uri = format!("sqlite:{}", path.display());
    drop(open(&runtime, &uri));
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut other = options.connect().await.unwrap();
        let newer = "INSERT INTO gb6_schema (component, version, name) VALUES ('map', 9999, 'x')";
        sqlx::raw_sql(newer).execute(&mut other).await.unwrap();
    });
    let config = Config::parse(&uri).unwrap();
    let opening = [
        SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare()).map(Some),
        SqlMap::open_existing(&config, runtime.handle().clone(), &Metrics::bare()),
    ];
    for refused in opening {
        match refused.unwrap_err() {
            StoreError::Format { found: 9999, .. } => {}
            other => panic!("{other}"),
        }
    }
    let checks = gb6_region_stores_sql::check(&config, Holds::Map, runtime.handle().clone());
    let tables = checks.iter().find(|c| c.what.ends_with(": tables"));
    let said = tables.unwrap().found.as_ref().unwrap_err();
    assert!(said.contains("9999"), "{said}");
}

#[test]
fn a_database_is_looked_at_as_it_is() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/map.db", dir.path().display());
    let config = Config::parse(&uri).unwrap();
    let existing = || {
        SqlMap::open_existing(&config, runtime.handle().clone(), &Metrics::bare())
            .unwrap()
            .map(|map| map.get("a").unwrap().and_then(|entry| entry.value))
    };
    let said = || {
        let checks = gb6_region_stores_sql::check(&config, Holds::Map, runtime.handle().clone());
        let tables = checks.into_iter().find(|c| c.what.ends_with(": tables"));
        tables.unwrap().found.unwrap()
    };
    // Twice: it is not made by being looked at.
    for _ in 0..2 {
        assert_eq!(existing(), None);
        assert!(said().starts_with("not there yet"), "{}", said());
    }
    open(&runtime, &uri).put("a", b"1", Expect::Any).unwrap();
    assert_eq!(existing(), Some(Some(b"1".to_vec())));
    assert_eq!(said(), "version 1");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let path = dir.path().join("map.db");
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    let config = Config::parse(&format!("sqlite:{}", path.display())).unwrap();
    let error = SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare()).unwrap_err();
    assert!(error.to_string().contains("map.db"), "{error}");
    let checks = gb6_region_stores_sql::check(&config, Holds::Map, runtime.handle().clone());
    assert!(checks.iter().any(|c| !c.is_good()), "{checks:?}");
}

#[test]
fn what_databases_are_asked_is_counted() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let config = Config::parse(&format!("sqlite:{}/map.db", dir.path().display())).unwrap();
    let metrics = Metrics::bare();
    let map = SqlMap::open(&config, runtime.handle().clone(), &metrics).unwrap();
    map.put("a", b"", Expect::Absent).unwrap();
    map.put("a", b"", Expect::Absent).unwrap_err();
    let text = metrics.text();
    let said = |line: &str| assert!(text.contains(line), "{line} is missing in\n{text}");
    said("gb6_sql_statements_total{outcome=\"ok\",port=\"map\",statement=\"map_put\"} 1\n");
    said("gb6_sql_statements_total{outcome=\"ok\",port=\"map\",statement=\"rollback\"} 1\n");
    said("gb6_sql_connects_total{outcome=\"ok\",port=\"map\"} 1\n");
    said("gb6_sql_connections{port=\"map\"} 1\n");
    drop(map);
    let text = metrics.text();
    assert!(
        text.contains("gb6_sql_connections{port=\"map\"} 0\n"),
        "{text}"
    );
}

#[test]
fn a_sound_file_is_found_to_be_one() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let uri = format!("sqlite:{}/map.db", dir.path().display());
    open(&runtime, &uri).put("a", b"1", Expect::Any).unwrap();
    let config = Config::parse(&uri).unwrap();
    let checks = gb6_region_stores_sql::check(&config, Holds::Map, runtime.handle().clone());
    assert!(checks.iter().all(|c| c.is_good()), "{checks:?}");
}

/// Where far fewer deletions are remembered than are there, each further one forgets some of them, in the order
/// in which they were made, and is over soon.
#[test]
fn a_lower_number_of_tombstones_is_reached_in_steps() {
    use sqlx::ConnectOptions;
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let path = dir.path().join("map.db");
    let uri = format!("sqlite:{}?tombstones=", path.display());
    let map = open(&runtime, &format!("{uri}10000"));
    map.put("a", b"1", Expect::Any).unwrap();
    map.delete("a", Expect::Any).unwrap();
    drop(map);
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut link = options.connect().await.unwrap();
        let many = "WITH RECURSIVE n(x) AS (SELECT 3 UNION ALL SELECT x + 1 FROM n WHERE x < 2502) \
                    INSERT INTO map_entries SELECT space, 'k' || x, NULL, x FROM n, map_spaces; \
                    UPDATE map_spaces SET revision = 2502";
        sqlx::raw_sql(many).execute(&mut link).await.unwrap();
    });
    let map = open(&runtime, &format!("{uri}10"));
    for (key, left) in [("b", 1_502), ("c", 503), ("d", 10), ("e", 10)] {
        map.put(key, b"1", Expect::Absent).unwrap();
        map.delete(key, Expect::Any).unwrap();
        let ask = |after| map.changes("", after, 10_000, Duration::ZERO);
        let deleted = |entries: Vec<MapEntry>| {
            let all = entries.into_iter().filter(|entry| entry.value.is_none());
            all.map(|entry| entry.revision).collect::<Vec<_>>()
        };
        let there = deleted(ask(0).unwrap().entries);
        assert_eq!(there.len(), left);
        // What is remembered is whole from its first on.
        assert_eq!(deleted(ask(there[0] - 1).unwrap().entries), there);
        let before = ask(there[0] - 2).unwrap_err();
        assert!(matches!(before, StoreError::Trimmed { .. }), "{before}");
    }
}
