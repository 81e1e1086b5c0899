//! `MapStore` while PostgreSQL fails: killed, paused, restarted, replaced by its standby.

use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{Expect, MapStore, StoreError};
use gb6_region_stores_sql::{Config, Holds, SqlMap};
use tokio::runtime::Runtime;

use crate::map::open;
use crate::server::{Server, directory};

/// Deadline of the tests' calls, in ms.
const TIMEOUT: &str = "timeout_ms=1500";
/// A call ends within its deadline; the rest is a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(4);

/// Writes until it succeeds; what came before must be errors that say so.
fn write_until_healed(map: &SqlMap, key: &str) {
    let begun = Instant::now();
    loop {
        let asked = Instant::now();
        match map.put(key, b"x", Expect::Any) {
            Ok(_) => return,
            Err(StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(asked.elapsed() < ENDS_WITHIN, "{:?}", asked.elapsed());
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it does not heal"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_standby_that_is_promoted_has_every_acknowledged_change() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let options = ["--replica", "--synchronous"];
    let mut server = Server::start(&runtime, dir.path(), &options);
    let hosts = server.addresses().join(",");
    let map = open(&runtime, &format!("postgres://gb6@{hosts}/gb6?{TIMEOUT}"));
    let written: Vec<(String, u64)> = (0..40)
        .map(|n| {
            let key = format!("a/{n}");
            let revision = map.put(&key, b"x", Expect::Absent).unwrap();
            (key, revision)
        })
        .collect();
    let last = written.last().unwrap().1;
    server.kill("primary");
    let asked = Instant::now();
    let error = map.put("b", b"x", Expect::Any).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }
        ),
        "{error}"
    );
    assert!(asked.elapsed() < ENDS_WITHIN, "{:?}", asked.elapsed());
    assert!(error.to_string().contains("127.0.0.1"), "{error}");

    server.promote();
    write_until_healed(&map, "b");
    for (key, revision) in &written {
        let got = map.get(key).unwrap().unwrap();
        assert_eq!(got.revision, *revision, "{key}");
    }
    let page = map.changes("", last, 10, Duration::ZERO).unwrap();
    assert_eq!(page.entries.len(), 1, "{page:?}");

    // The old primary comes back as if nothing had happened: it is not believed, even where the new one
    // is lost.
    server.restart();
    write_until_healed(&map, "c");
    assert!(map.get("b").unwrap().is_some());
    server.kill("replica");
    let begun = Instant::now();
    loop {
        match map.get("a/0") {
            Err(StoreError::Unavailable { cause }) if cause.contains("old primary") => break,
            Err(StoreError::Unavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_server_that_is_restarted_costs_no_call() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let mut server = Server::start(&runtime, dir.path(), &[]);
    let uri = format!("postgres://gb6@{}/gb6?{TIMEOUT}", server.addresses()[0]);
    let map = open(&runtime, &uri);
    let revision = map.put("a", b"1", Expect::Any).unwrap();
    server.kill("primary");
    let error = map.get("a").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.restart();
    map.put("b", b"1", Expect::Any).unwrap();
    // Killed and back between two calls: the connections that broke meanwhile are passed over.
    server.kill("primary");
    server.restart();
    map.put("c", b"1", Expect::Any).unwrap();
    server.kill("primary");
    server.restart();
    // And the listener comes back.
    assert_eq!(map.get("a").unwrap().unwrap().revision, revision);
    map.put("a", b"2", Expect::Revision(revision)).unwrap();
    let other = open(&runtime, &uri);
    std::thread::scope(|s| {
        let waiter = s.spawn(|| map.changes("d", 0, 1, Duration::from_secs(30)).unwrap());
        other.put("d", b"", Expect::Any).unwrap();
        assert_eq!(waiter.join().unwrap().entries.len(), 1);
    });
}

/// Whatever makes it silent: calls end with their deadline, wrote nothing, and it heals by itself.
fn silence_costs_a_deadline(map: &SqlMap, silence: impl FnOnce(), heal: impl FnOnce()) {
    map.put("a", b"1", Expect::Any).unwrap();
    silence();
    for _ in 0..2 {
        let asked = Instant::now();
        let error = map.put("a", b"2", Expect::Any).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(asked.elapsed() < ENDS_WITHIN, "{:?}", asked.elapsed());
        let error = map.changes("", 0, 1, Duration::ZERO).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    heal();
    let begun = Instant::now();
    let got = loop {
        match map.get("a") {
            Ok(got) => break got.unwrap(),
            Err(StoreError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it does not heal"
        );
    };
    assert_eq!(got.value.unwrap(), b"1");
    write_until_healed(map, "a");
}

#[test]
fn a_server_that_hangs_costs_a_deadline() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &[]);
    let uri = format!("postgres://gb6@{}/gb6?{TIMEOUT}", server.addresses()[0]);
    let map = open(&runtime, &uri);
    silence_costs_a_deadline(
        &map,
        || server.pause("primary"),
        || server.resume("primary"),
    );
}

#[test]
fn a_network_that_is_cut_costs_a_deadline() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let (_server, front) = Server::behind(&runtime, dir.path());
    let uri = format!("postgres://gb6@{}/gb6?{TIMEOUT}", front.addresses()[0]);
    let map = open(&runtime, &uri);
    silence_costs_a_deadline(&map, || front.cut(), || front.heal());
    // A slow network is slow, and nothing else.
    front.delay(Duration::from_millis(50));
    map.put("a", b"3", Expect::Any).unwrap();
}

#[test]
fn connections_that_all_hang_cost_a_second_attempt_nothing() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let (_server, front) = Server::behind(&runtime, dir.path());
    let uri = format!("postgres://gb6@{}/gb6", front.addresses()[0]);
    let map = open(&runtime, &uri);
    // Several idle ones: each waits for a change that is not there, and looks at the same time.
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| map.changes("none", 0, 1, Duration::from_secs(1)).unwrap());
        }
    });
    let revision = map.put("a", b"1", Expect::Any).unwrap();
    front.lose_open();
    std::thread::scope(|s| {
        let first = s.spawn(|| map.put("a", b"2", Expect::Revision(revision)));
        // As a node's beat is made again, while the deadline of the first is 2 s.
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        map.put("a", b"2", Expect::Revision(revision)).unwrap();
        assert!(!first.is_finished(), "it hangs");
        let took = asked.elapsed();
        assert!(took < Duration::from_millis(1_200), "{took:?}");
        // Nor is any of the others tried.
        map.put("b", b"1", Expect::Any).unwrap();
        let error = first.join().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    });
    let asked = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| map.get("a").unwrap().unwrap());
        }
    });
    assert!(asked.elapsed() < Duration::from_millis(1_200));
    assert_eq!(map.get("a").unwrap().unwrap().value.unwrap(), b"2");
}

#[test]
fn a_commit_without_an_answer_has_an_unknown_outcome() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &[]);
    let uri = format!("postgres://gb6@{}/gb6?{TIMEOUT}", server.addresses()[0]);
    let map = open(&runtime, &uri);
    map.put("a", b"1", Expect::Any).unwrap();
    // A standby that never comes: the commit waits for it.
    server.set("synchronous_standby_names = 'nobody'");
    let begun = Instant::now();
    let error = loop {
        // The setting takes a moment to arrive.
        match map.put("a", b"2", Expect::Any) {
            Ok(_) => assert!(begun.elapsed() < Duration::from_secs(20)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, StoreError::OutcomeUnknown { .. }),
        "{error}"
    );
    assert!(!error.retryable());
    server.set("synchronous_standby_names = ''");
    write_until_healed(&map, "b");
    assert_eq!(map.get("a").unwrap().unwrap().value.unwrap(), b"2");
}

#[test]
fn settings_that_lose_commits_are_refused() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &[]);
    server.sql("ALTER ROLE gb6 SET synchronous_commit = off");
    let uri = format!("postgres://gb6@{}/gb6?{TIMEOUT}", server.addresses()[0]);
    let config = Config::parse(&uri).unwrap();
    let handle = runtime.handle().clone();
    let error = SqlMap::open(&config, handle.clone(), &Metrics::bare()).unwrap_err();
    assert!(
        error.to_string().contains("synchronous_commit=off"),
        "{error}"
    );
    let checks = gb6_region_stores_sql::check(&config, Holds::Map, handle);
    assert!(
        checks.iter().any(|c| {
            c.found
                .as_ref()
                .is_err_and(|e| e.contains("weak_durability=allow"))
        }),
        "{checks:?}"
    );
    let map = open(&runtime, &format!("{uri}&weak_durability=allow"));
    map.put("a", b"1", Expect::Any).unwrap();
}

#[test]
fn a_wrong_password_is_named_without_it() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &[]);
    server.sql("CREATE ROLE other LOGIN PASSWORD 'right'");
    std::fs::write(
        dir.path().join("primary/pg_hba.conf"),
        "host all gb6 127.0.0.1/32 trust\nhost all other 127.0.0.1/32 scram-sha-256\n",
    )
    .unwrap();
    server.sql("SELECT pg_reload_conf()");
    let uri = format!(
        "postgres://other:hushhush@{}/gb6?{TIMEOUT}",
        server.addresses()[0]
    );
    let config = Config::parse(&uri).unwrap();
    let begun = Instant::now();
    loop {
        let opened = SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare());
        let error = opened.unwrap_err().to_string();
        assert!(!error.contains("hushhush"), "{error}");
        if error.contains("password authentication failed") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
