//! Space given back, and what a restart can still use when a checkpoint is damaged.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::ShardLog;
use gb6_core_ports::memory::{MemoryLogConfig, MemoryStorage};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Publish, RoomRef};
use gb6_core_wire::record::flags;
use gb6_region_node::Region;
use gb6_region_shard::{Admin, AdminOutcome};

use crate::edge::{Edge, Machine, PATIENCE, channel, shard};

const MESSAGES: u64 = 20;

fn message(number: u64) -> Publish {
    Publish {
        session: 1,
        number,
        settled_below: number,
        id: format!("id-{number}").into(),
        data: "{}".into(),
        ..Publish::default()
    }
}

/// Fills a room and lets all of it go. Answers the positions that this took.
async fn use_up(machine: &Machine, region: &Region, edge: &mut Edge, room: RoomRef) -> (u64, u64) {
    let log = machine.storage.open();
    let begin = log.range().expect("a range").next;
    for number in 1..=MESSAGES {
        let answer = edge.publish_as(room.clone(), message(number)).await;
        assert_eq!(answer, (number, 0));
    }
    let first = MESSAGES + 1;
    let trim = Admin::Trim { room, first };
    let outcome = region.admin(&shard(), trim).await.expect("an owner");
    assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    (begin, log.range().expect("a range").next)
}

/// Waits until `what` of the log answers something.
async fn eventually<T>(storage: &MemoryStorage, what: impl Fn(&dyn ShardLog) -> Option<T>) -> T {
    let began = Instant::now();
    let log = storage.open();
    loop {
        if let Some(found) = what(&log) {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come");
        tokio::task::yield_now().await;
    }
}

fn checkpoint_before(log: &dyn ShardLog, before: u64) -> Option<u64> {
    let found = log.load_checkpoint_before(before).expect("a checkpoint");
    found.map(|(position, _)| position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_newest_checkpoint_costs_nothing_after_retention() {
    let mut machine = Machine::new(Namespace::default());
    machine.storage = MemoryStorage::new(MemoryLogConfig {
        segment_records: 4,
        ..MemoryLogConfig::default()
    });
    machine.config.checkpoint_interval = Duration::from_millis(200);
    machine.config.retention_interval = Duration::from_millis(10);
    // Retention waits until both checkpoints are there.
    let log = machine.storage.open();
    log.register_consumer("archive", 0).expect("registered");
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    // A room whose whole life lies between the two kept checkpoints.
    let mut n = 0;
    let older = loop {
        n += 1;
        let (begin, end) = use_up(&machine, &region, &mut edge, channel(n)).await;
        let covered = |log: &dyn ShardLog| checkpoint_before(log, u64::MAX).filter(|p| *p >= end);
        let newest = eventually(&machine.storage, covered).await;
        let older = checkpoint_before(&machine.storage.open(), newest);
        match older.filter(|older| n > 1 && *older <= begin) {
            Some(older) => break older,
            None => assert!(n < 100, "checkpoints come faster than messages"),
        }
    };
    // Everything is dead, and retention takes what it may: segments up to the older checkpoint.
    log.remove_consumer("archive").expect("removed");
    let gone = |log: &dyn ShardLog| Some(log.range().expect("a range").first).filter(|f| *f > 0);
    let first = eventually(&machine.storage, gone).await;
    assert!(first <= older && first + 4 > older, "{first} {older}");

    // Its disk as it is now, but for the newest checkpoint.
    let mut after = Machine::new(Namespace::default());
    after.storage = machine.storage.copy();
    assert!(after.storage.damage_newest_checkpoint() > Some(older));
    let second = after.start().await;
    let mut edge = after.edge("e1").await;
    for room in 1..=n {
        edge.send(OwnerFrame::Interest(channel(room)));
        let stands = loop {
            match edge.next().await {
                Some(EdgeFrame::Interested(i)) => break (i.top, i.first),
                Some(EdgeFrame::Deliver(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
        };
        assert_eq!(stands, (MESSAGES, MESSAGES + 1), "room {room}");
        // Resent by the edge, and retried by the client from another session.
        let answer = edge.publish_as(channel(room), message(MESSAGES)).await;
        assert_eq!(answer, (MESSAGES, 0), "room {room}: resent");
        let retried = Publish {
            session: 2,
            number: 1,
            ..message(MESSAGES)
        };
        let answer = edge.publish_as(channel(room), retried).await;
        assert_eq!(answer, (MESSAGES, 0), "room {room}: retried");
        let answer = edge.publish_as(channel(room), message(MESSAGES + 1)).await;
        assert_eq!(answer, (MESSAGES + 1, 0), "room {room}: the next one");
    }
    second.drain().await;
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_the_retention_that_runs() {
    let mut machine = Machine::new(Namespace::default());
    machine.config.retention_interval = Duration::from_millis(1);
    let region = machine.start().await;
    let planning = || machine.faults.planning.load(Ordering::SeqCst);
    machine.faults.slow_plan.store(true, Ordering::SeqCst);
    let began = Instant::now();
    while !planning() {
        assert!(began.elapsed() < PATIENCE, "nothing is planned");
        tokio::task::yield_now().await;
    }
    region.drain().await;
    assert!(!planning(), "it goes on behind the drain");
}

/// The index is a moment behind the log: here for longer than the next run of retention is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_index_does_not_know_yet_is_erased_all_the_same() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    machine.stalled.store(true, Ordering::Relaxed);
    for number in 1..=3 {
        let answer = edge.publish_as(channel(1), message(number)).await;
        assert_eq!(answer, (number, 0));
    }
    let before = machine.faults.planned.load(Ordering::SeqCst);
    let (room, offset) = (channel(1), 2);
    let erase = Admin::Erase { room, offset };
    let outcome = region.admin(&shard(), erase).await.expect("an owner");
    assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    let began = Instant::now();
    let planned = || machine.faults.planned.load(Ordering::SeqCst) > before;
    while !planned() && began.elapsed() < Duration::from_millis(700) {
        tokio::task::yield_now().await;
    }
    machine.stalled.store(false, Ordering::Relaxed);
    eventually(&machine.storage, |log| {
        let records = log.read(0, 100, 1 << 20).expect("a page").records;
        let second = records.into_iter().find(|r| r.offset == 2)?;
        (second.flags & flags::ERASED != 0).then_some(())
    })
    .await;
    region.drain().await;
}
