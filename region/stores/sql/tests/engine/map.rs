//! `MapStore` on the server of `GB6_TEST_POSTGRES`.

use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::map as contract;
use gb6_core_ports::{Expect, MapStore, StoreError};
use gb6_region_stores_sql::{Config, Holds, SqlMap};
use gb6_tests_harness::proxy::{FaultProxy, Mode};
use tokio::runtime::Runtime;

pub(crate) fn open(runtime: &Runtime, uri: &str) -> SqlMap {
    let config = Config::parse(uri).unwrap();
    SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare()).unwrap()
}

#[test]
fn keeps_the_contract() {
    let runtime = Runtime::new().unwrap();
    let uri = format!("{}?timeout_ms=20000", crate::database(&runtime));
    contract::all(&|| Box::new(open(&runtime, &uri)));
    let few = open(&runtime, &format!("{uri}&namespace=few&tombstones=3"));
    contract::forgets_old_deletions(&few, 3);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let runtime = Runtime::new().unwrap();
    let uri = crate::database(&runtime);
    let eu = open(&runtime, &format!("{uri}?namespace=eu"));
    let us = open(&runtime, &format!("{uri}?namespace=us"));
    eu.put("a", b"eu", Expect::Absent).unwrap();
    us.put("a", b"us", Expect::Absent).unwrap();
    us.delete("a", Expect::Any).unwrap();
    let page = eu.changes("", 0, 10, Duration::ZERO).unwrap();
    assert_eq!((page.entries.len(), page.revision), (1, 1));
    assert_eq!(page.entries[0].value.as_deref(), Some(&b"eu"[..]));
}

/// Told, not found: sooner than who waits would look by itself.
#[test]
fn changes_of_others_are_heard() {
    let runtime = Runtime::new().unwrap();
    let uri = crate::database(&runtime);
    let (here, there) = (open(&runtime, &uri), open(&runtime, &uri));
    let mut late: Vec<Duration> = (0..15u8)
        .map(|n| {
            let after = here.list("", 10).unwrap().revision;
            std::thread::scope(|s| {
                let waiter = s.spawn(|| {
                    let page = here.changes("", after, 1, Duration::from_secs(20)).unwrap();
                    assert_eq!(page.entries.len(), 1);
                    Instant::now()
                });
                // Whichever comes first is seen; here the waiter is to wait.
                std::thread::sleep(Duration::from_millis(30));
                there.put("a", &[n], Expect::Any).unwrap();
                let written = Instant::now();
                waiter.join().unwrap().saturating_duration_since(written)
            })
        })
        .collect();
    late.sort();
    assert!(late[7] < Duration::from_millis(100), "{late:?}");
}

#[test]
fn a_fit_database_is_said_to_be_fit() {
    let runtime = Runtime::new().unwrap();
    let config = Config::parse(&crate::database(&runtime)).unwrap();
    let checks = gb6_region_stores_sql::check(&config, Holds::Map, runtime.handle().clone());
    assert!(checks.len() >= 3, "{checks:?}");
    assert!(checks.iter().all(|c| c.is_good()), "{checks:?}");
}

/// One that is stopped, or whose machine loses its network, in the middle of a change.
#[test]
fn a_writer_that_falls_silent_keeps_others_waiting_for_a_moment_only() {
    use sqlx::{Connection, Executor};
    let runtime = Runtime::new().unwrap();
    let uri = crate::database(&runtime);
    let (login, place) = uri.rsplit_once('@').unwrap();
    let (address, name) = place.split_once('/').unwrap();
    let address = std::net::ToSocketAddrs::to_socket_addrs(address);
    let proxy = runtime.block_on(FaultProxy::start(address.unwrap().next().unwrap()));
    let proxy = proxy.unwrap();
    let silent = open(&runtime, &format!("{login}@{}/{name}", proxy.address()));
    let other = open(&runtime, &uri);
    silent.put("a", b"1", Expect::Any).unwrap();
    let ask = |link: &mut sqlx::PgConnection, statement: &'static str| {
        runtime.block_on(link.execute(statement)).unwrap();
    };
    let mut link = runtime.block_on(sqlx::PgConnection::connect(&uri)).unwrap();
    ask(&mut link, "BEGIN");
    ask(&mut link, "UPDATE map_spaces SET revision = revision");
    std::thread::scope(|s| {
        let late = s.spawn(|| silent.put("a", b"2", Expect::Any));
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let began = Instant::now();
        while runtime
            .block_on(sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut link))
            .unwrap()
            == 0
        {
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "it waits for the lock"
            );
        }
        // It gets the lock, and nothing is heard of it any more.
        proxy.set(Mode::BlackHole);
        ask(&mut link, "COMMIT");
        let began = Instant::now();
        while let Err(error) = other.put("b", b"1", Expect::Any) {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert!(began.elapsed() < Duration::from_secs(5), "{error}");
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(late.join().unwrap().is_err());
    });
    let record = other.get("a").unwrap().unwrap();
    assert_eq!(
        record.value.as_deref(),
        Some(&b"1"[..]),
        "it was rolled back"
    );
}
