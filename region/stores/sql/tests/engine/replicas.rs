//! `Directory` with replicas, and on several servers, while some of them fail.

use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Sealer;
use gb6_core_ports::contract::directory as contract;
use gb6_core_ports::directory::{
    Change, Directory, DirectoryError, Freshness, Kind, OrgId, Record, Ref,
};
use gb6_region_stores_sql::{Config, Holds, SqlDirectory};
use tokio::runtime::Runtime;

use crate::directory::open;
use crate::server::{Server, directory};

/// Gives the organization another name; answers the version.
fn rename(directory: &SqlDirectory, root: &OrgId, name: &str) -> Result<u64, DirectoryError> {
    let what = Ref::new(Kind::Organization, root.as_str());
    let stored = directory.get(root, &what, Freshness::Current)?;
    let Record::Organization(mut org) = stored.record else {
        panic!("{what}");
    };
    org.name = name.to_owned();
    let change = Change::Update(Record::Organization(org), stored.version);
    Ok(directory.apply(root, &contract::actor(), &[change])?[0])
}

fn version(directory: &SqlDirectory, root: &OrgId, bound: Duration) -> Result<u64, DirectoryError> {
    let what = Ref::new(Kind::Organization, root.as_str());
    Ok(directory
        .get(root, &what, Freshness::Within(bound))?
        .version)
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn replicas_answer_what_may_be_stale() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &["--replica"]);
    server.make_app();
    let hosts = server.addresses();
    let uri = format!(
        "postgres://app@{}/app?reads={}&timeout_ms=3000",
        hosts.join(","),
        hosts[1]
    );
    let config = Config::parse(&uri).unwrap();
    until("the replica is said to be good", || {
        let checks =
            gb6_region_stores_sql::check(&config, Holds::Directory, runtime.handle().clone());
        let good = |c: &gb6_core_ports::Check| c.what.contains("replica") && c.is_good();
        checks.iter().any(good)
    });
    let directory = open(&runtime, std::slice::from_ref(&uri));
    let root = contract::customer(&directory, 10);
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(1_500));
    until("the replica has the customer", || server.replica_has_all());
    // A minute old will do: the replica answers, and does not know better.
    server.replica_sql("SELECT pg_wal_replay_pause()");
    until("a paused replica is asked", || {
        let made = rename(&directory, &root, "renamed").unwrap();
        version(&directory, &root, long).unwrap() < made
    });
    // Nobody who wants it newer is told something older: where the replica is behind, the primary answers.
    let made = rename(&directory, &root, "again").unwrap();
    std::thread::sleep(short);
    assert_eq!(version(&directory, &root, short).unwrap(), made);
    server.replica_sql("SELECT pg_wal_replay_resume()");
    until("the replica catches up", || {
        version(&directory, &root, long).unwrap() == made
    });
    // Without the primary the replica goes on answering, and nothing else is answered.
    server.pause("primary");
    assert_eq!(version(&directory, &root, long).unwrap(), made);
    let error = rename(&directory, &root, "no").unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    server.resume("primary");
    // Without the replica the primary answers everything.
    server.pause("replica");
    assert_eq!(version(&directory, &root, long).unwrap(), made);
    server.resume("replica");
    // The replica becomes the primary.
    until("it goes on", || rename(&directory, &root, "on").is_ok());
    server.kill("primary");
    server.promote();
    until("the promoted one takes changes", || {
        rename(&directory, &root, "promoted").is_ok()
    });
}

/// Who opens a directory for one reading has it from the replica, and from the primary where that is silent, soon.
#[test]
fn the_first_reading_is_a_replicas() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &["--replica"]);
    server.make_app();
    let hosts = server.addresses();
    let uri = format!("postgres://app@{}/app?reads={}", hosts[0], hosts[1]);
    let root = contract::customer(&open(&runtime, std::slice::from_ref(&uri)), 10);
    until("the replica has the customer", || server.replica_has_all());
    let what = Ref::new(Kind::Organization, root.as_str());
    let first = |by: &str| {
        let metrics = Metrics::bare();
        let configs = [Config::parse(&uri).unwrap()];
        let sealer = Sealer::new(&[7; 32], &[]);
        let handle = runtime.handle().clone();
        let directory = SqlDirectory::open(&configs, sealer, handle, &metrics).unwrap();
        let began = Instant::now();
        let fresh = Freshness::Within(Duration::from_secs(60));
        directory.get(&root, &what, fresh).unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        let shown = metrics.text();
        shown.lines().any(|line| {
            line.starts_with("gb6_sql_stale_reads_total")
                && line.contains(by)
                && line.ends_with(" 1")
        })
    };
    // A checkpoint or a vacuum may put it a moment behind.
    until("the replica is asked first", || first("replica"));
    server.pause("replica");
    assert!(first("primary"));
    server.resume("replica");
}

#[test]
fn a_lost_database_stops_its_own_customers_alone() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let servers = ["a", "b"].map(|name| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let server = Server::start(&runtime, &dir, &[]);
        server.make_app();
        server
    });
    let uris: Vec<String> = servers
        .iter()
        .zip(["a", "b"])
        .map(|(server, name)| {
            let address = &server.addresses()[0];
            format!("postgres://app@{address}/app?shard={name}&timeout_ms=2000")
        })
        .collect();
    let directory = open(&runtime, &uris);
    let roots: Vec<OrgId> = (0..8)
        .map(|n| contract::customer(&directory, n * 10))
        .collect();
    let (entries, _) = directory.outbox(&Default::default(), 1_000).unwrap();
    let shard_of = |root: &OrgId| {
        let mut of = entries.iter().filter(|e| e.root == *root);
        of.next().unwrap().shard.clone()
    };
    let [_, mut second] = servers;
    second.kill("primary");
    let (mut here, mut lost) = (0, 0);
    for root in &roots {
        match (shard_of(root).as_str(), rename(&directory, root, "x")) {
            ("a", Ok(_)) => here += 1,
            ("b", Err(error)) => {
                assert_eq!(error.code(), "unavailable");
                let address = &second.addresses()[0];
                assert!(error.to_string().contains(address), "{error}");
                lost += 1;
            }
            (shard, other) => panic!("{shard}: {other:?}"),
        }
    }
    assert!(here > 0 && lost > 0, "{here} {lost}");
    second.restart();
    for root in &roots {
        rename(&directory, root, "y").unwrap();
    }
}
