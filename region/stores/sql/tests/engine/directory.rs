//! `Directory` on the server of `GB6_TEST_POSTGRES`.

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Sealer;
use gb6_core_ports::contract::directory as contract;
use gb6_core_ports::directory::{AUDIT_GENESIS, Directory, DirectoryError, Freshness, verify};
use gb6_core_ports::memory::MemoryDirectory;
use gb6_region_stores_sql::{Config, SqlDirectory};
use tokio::runtime::Runtime;

pub(crate) fn try_open(runtime: &Runtime, uris: &[String]) -> Result<SqlDirectory, DirectoryError> {
    let configs: Vec<Config> = uris.iter().map(|uri| Config::parse(uri).unwrap()).collect();
    let sealer = Sealer::new(&[7; 32], &[]);
    let handle = runtime.handle().clone();
    SqlDirectory::open(&configs, sealer, handle, &Metrics::bare())
}

pub(crate) fn open(runtime: &Runtime, uris: &[String]) -> SqlDirectory {
    try_open(runtime, uris).unwrap()
}

#[test]
fn keeps_the_contract() {
    let runtime = Runtime::new().unwrap();
    let (uri, _) = crate::owned_database(&runtime);
    contract::all(&open(&runtime, &[format!("{uri}?timeout_ms=20000")]));
}

#[test]
fn several_databases_keep_the_contract() {
    let runtime = Runtime::new().unwrap();
    let uris = ["a", "b", "c"].map(|name| {
        let (uri, _) = crate::owned_database(&runtime);
        format!("{uri}?shard={name}&timeout_ms=20000")
    });
    contract::all(&open(&runtime, &uris));
}

#[test]
fn behaves_like_the_model() {
    let runtime = Runtime::new().unwrap();
    for seed in 10..12 {
        let (uri, _) = crate::owned_database(&runtime);
        let directory = open(&runtime, &[format!("{uri}?timeout_ms=20000")]);
        contract::behaves_like_the_model(&directory, &MemoryDirectory::default(), seed, 200);
    }
}

/// Several processes begin at once on an empty database: one makes the tables.
#[test]
fn tables_are_made_once() {
    let runtime = Runtime::new().unwrap();
    let (uri, _) = crate::owned_database(&runtime);
    let uris = [format!("{uri}?timeout_ms=20000")];
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| open(&runtime, &uris));
        }
    });
    let directory = open(&runtime, &uris);
    let root = contract::customer(&directory, 10);
    drop(directory);
    let again = open(&runtime, &uris);
    assert_eq!(again.roots("", 10).unwrap(), [root]);
}

#[test]
fn tables_of_a_newer_program_are_refused() {
    let runtime = Runtime::new().unwrap();
    let (uri, name) = crate::owned_database(&runtime);
    drop(open(&runtime, std::slice::from_ref(&uri)));
    let newer = "INSERT INTO gb6_schema (component, version, name) VALUES ('directory', 9999, 'x')";
    crate::as_superuser(&runtime, Some(&name), &[newer.to_owned()]);
    let error = try_open(&runtime, &[uri]).unwrap_err();
    assert!(error.to_string().contains("version 9999"), "{error}");
    assert!(error.to_string().contains("use a newer gb6"), "{error}");
}

#[test]
fn old_months_are_taken_away() {
    let runtime = Runtime::new().unwrap();
    let (uri, name) = crate::owned_database(&runtime);
    let directory = open(&runtime, &[uri]);
    let root = contract::customer(&directory, 10);
    let by = contract::actor();
    let month = |n: u64| by.at_ms + n * 31 * 86_400_000;
    // January's entries are there; February's and March's are written.
    let note = |n| {
        let by = gb6_core_ports::directory::Actor {
            at_ms: month(n),
            ..by.clone()
        };
        let change = gb6_core_ports::directory::Change::Audit {
            org: root.clone(),
            action: "note".into(),
            target: n.to_string(),
        };
        directory.apply(&root, &by, &[change]).unwrap();
    };
    note(1);
    note(2);
    let read = |after| {
        directory
            .audit(&root, &root, after, 100, Freshness::Current)
            .unwrap()
    };
    let all = read(0);
    let (count, hash) = verify((0, AUDIT_GENESIS), &all).unwrap();
    let detach = |before| directory.detach_months("main", before).unwrap();
    let detached = detach(month(1));
    let of_january = "audit_entries_2027_01_detached".to_owned();
    assert!(detached.contains(&of_january), "{detached:?}");
    assert!(
        detached.iter().all(|name| !name.contains("2027_02")),
        "{detached:?}"
    );
    // What is left goes on from what was taken away, and the chain goes on.
    let left = read(0);
    assert_eq!(left.len(), 2);
    let cut = all.len() - 2;
    let end = verify((cut as u64, all[cut - 1].hash), &left).unwrap();
    assert_eq!(end, (count, hash));
    note(3);
    assert_eq!(verify((count, hash), &read(count)).unwrap().0, count + 1);
    // A late entry of the month finds a table again; what was taken away can be dropped.
    note(0);
    assert_eq!(verify((count, hash), &read(count)).unwrap().0, count + 2);
    // It is taken away beside what was before, and what is away is named until it is dropped.
    let mut away = detach(month(1));
    let second = format!("{of_january}_2");
    assert!(
        away.contains(&of_january) && away.contains(&second),
        "{away:?}"
    );
    // The usage of that month has a second table too.
    assert_eq!(away.len(), detached.len() + 2, "{away:?}");
    assert_eq!(detach(month(1)), away);
    let drop = format!("DROP TABLE {of_january}, {second}");
    crate::as_superuser(&runtime, Some(&name), &[drop]);
    away.retain(|name| *name != of_january && *name != second);
    assert_eq!(detach(month(1)), away);
    let nowhere = directory.detach_months("nowhere", month(1)).unwrap_err();
    assert_eq!(nowhere.code(), "not_found");
}

/// What takes longer than a call may is deleted in steps that each take less, and in several calls.
#[test]
fn a_long_trim_ends_in_time() {
    let runtime = Runtime::new().unwrap();
    let (uri, name) = crate::owned_database(&runtime);
    let directory = open(&runtime, &[format!("{uri}?timeout_ms=5000")]);
    let statements = [
        "INSERT INTO outbox SELECT n, 'org_x', 'key', n, 1 FROM generate_series(1, 6000) n",
        "UPDATE outbox_clock SET last = 6000",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(0.001); RETURN OLD; END $$",
        "CREATE TRIGGER slow BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION slow()",
    ];
    crate::as_superuser(&runtime, Some(&name), &statements.map(str::to_owned));
    let upto = [("main".to_owned(), 5_999)].into();
    let mut calls = 0;
    loop {
        let begun = std::time::Instant::now();
        let all = directory.trim_outbox(&upto).unwrap();
        calls += 1;
        // The deadline, and a last step that began before it.
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
        if all {
            break;
        }
    }
    assert!((2..=6).contains(&calls), "{calls}");
    let none_but_the_last =
        "DO $$ BEGIN ASSERT (SELECT array_agg(number) FROM outbox) = '{6000}'; END $$";
    crate::as_superuser(&runtime, Some(&name), &[none_but_the_last.to_owned()]);
}
