//! The threads of a log with an archive: of two starts that go on from one archive, what keeps the second
//! from beginning, and what the first may still acknowledge where nothing does; and threads that panic.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gb6_core_ports::contract::log::{acquire, append, everything, fence, messages};
use gb6_core_ports::{ShardLog, StoreError};
use gb6_region_stores_embedded::Archiving;

use crate::archived::Shard;

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// As in operation, and faster.
fn archiving(ask: Duration) -> Archiving {
    Archiving {
        look: LOOK,
        ask,
        // What is copied tells nobody anything.
        interval: Duration::from_secs(3_600),
        ..Archiving::new("r1")
    }
}

#[test]
fn a_second_start_on_an_empty_disk_is_refused_while_the_first_lives() {
    let shard = Shard::new();
    let first = shard.start(&archiving(PATIENCE)).expect("opened");
    acquire(&first, &fence(1)).expect("acquired");
    append(&first, &fence(1), messages(1, "room:a", 10)).expect("appended");
    first.archive_now(&fence(1)).expect("archived");
    for _ in 0..2 {
        let second = shard.on_another_disk().start(&archiving(PATIENCE));
        let error = second.err().expect("it is refused");
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        assert!(error.to_string().contains("still runs"), "{error}");
    }
    append(&first, &fence(1), messages(11, "room:a", 10)).expect("it goes on");
    first.archive_now(&fence(1)).expect("archived");
    let whole = everything(&first);
    drop(first);
    // Nobody answers: the owner is gone.
    let began = Instant::now();
    let ask = Duration::from_millis(1_200);
    let second = shard
        .on_another_disk()
        .start(&archiving(ask))
        .expect("opened");
    assert!(began.elapsed() >= ask);
    assert_eq!(everything(&second), whole);
    acquire(&second, &fence(2)).expect("acquired");
    // Its own question is no reason to stop.
    std::thread::sleep(10 * LOOK);
    append(&second, &fence(2), messages(22, "room:a", 1)).expect("appended");
}

#[test]
fn an_owner_that_could_not_say_that_it_lives_stops_when_it_reaches_the_store() {
    let shard = Shard::new();
    let first = shard.start(&archiving(PATIENCE)).expect("opened");
    acquire(&first, &fence(1)).expect("acquired");
    append(&first, &fence(1), messages(1, "room:a", 10)).expect("appended");
    first.archive_now(&fence(1)).expect("archived");
    shard.reach.set(false);
    let mut other = shard.on_another_disk();
    other.reach = shard.reach.apart();
    let second = other
        .start(&archiving(Duration::from_millis(100)))
        .expect("nobody answers");
    acquire(&second, &fence(2)).expect("acquired");
    append(&second, &fence(2), messages(12, "room:b", 3)).expect("appended");
    // Without the store it can not know.
    append(&first, &fence(1), messages(11, "room:a", 1)).expect("appended");
    shard.reach.set(true);
    let began = Instant::now();
    let mut next = 12;
    let error = loop {
        match append(&first, &fence(1), messages(next, "room:a", 1)) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
        assert!(began.elapsed() < PATIENCE, "it goes on for ever");
        std::thread::sleep(LOOK);
    };
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let error = acquire(&first, &fence(9)).expect_err("it is not its own");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    append(&second, &fence(2), messages(15, "room:b", 1)).expect("the other goes on");
}

#[test]
fn a_store_whose_client_panics_ends_no_thread() {
    let shard = Shard::new();
    let log = shard.start(&archiving(PATIENCE)).expect("opened");
    acquire(&log, &fence(1)).expect("acquired");
    append(&log, &fence(1), messages(1, "room:a", 10)).expect("appended");
    shard.reach.panics.store(true, Ordering::SeqCst);
    log.seal_around(&fence(1), 5).expect("sealed");
    let failures = |operation: &str| {
        let name = format!("gb6_archive_failures_total{{operation=\"{operation}\"}} ");
        let text = shard.metrics.text();
        let count = text
            .lines()
            .find_map(|l| l.strip_prefix(&name)?.parse().ok());
        count.unwrap_or(0u64)
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(LOOK);
        }
    };
    until("both panic", &|| {
        failures("copy") > 0 && failures("look") > 1
    });
    shard.reach.panics.store(false, Ordering::SeqCst);
    until("it is archived", &|| log.archive().range().next == 11);
    let second = shard.on_another_disk().start(&archiving(PATIENCE));
    assert!(second.is_err(), "it says that it lives");
}
