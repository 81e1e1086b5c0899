//! An index that is wrong, or gone: the log alone says what a room holds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{Channel, ChannelKey, ShardId};
use gb6_core_ports::{RoomEntry, ShardLog};
use gb6_core_wire::mesh::Publish;
use gb6_core_wire::record::{Record, flags};
use gb6_region_shard::{Admin, AdminOutcome};
use gb6_region_stores_embedded::{FjallRooms, RoomsConfig};

use crate::edge::{Edge, Machine, PATIENCE, channel, room, shard};

/// Enough for what came before to leave the memory of the recent tail.
pub(crate) async fn push_out_of_memory(edge: &mut Edge) {
    for number in 1..=75 {
        let publish = Publish {
            session: 9,
            number,
            settled_below: number,
            data: format!("\"{}\"", "y".repeat(60_000)).into(),
            ..Publish::default()
        };
        let answer = edge.publish_as(channel(2), publish).await;
        assert_eq!(answer, (number, 0));
    }
}

/// Waits until the index has everything; answers what comes next.
pub(crate) async fn indexed(machine: &Machine) -> u64 {
    let next = machine.storage.open().range().expect("a range").next;
    let began = Instant::now();
    while machine.rooms.applied(ShardId(0)).expect("an index") < next {
        assert!(began.elapsed() < PATIENCE, "the index stays behind");
        tokio::task::yield_now().await;
    }
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_leads_to_another_room_shows_nothing_of_it() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, format!("\"mine {n}\"")).await, (n, 0));
    }
    push_out_of_memory(&mut edge).await;
    let next = indexed(&machine).await;
    let key = |n: u64| {
        let name = Channel::parse(&format!("room:{n}")).expect("a channel");
        ChannelKey::new("demo".into(), name)
    };
    let of = |room: u64, offset: u64| {
        let found = machine.rooms.forward(ShardId(0), &key(room), offset, 1);
        found.expect("an index")[0].1
    };
    let (own, foreign) = (of(1, 3), of(2, 3));
    assert_ne!(own, foreign);
    // To another room's message of the same offset, to another offset, to what is no message.
    for wrong in [foreign, of(1, 4), 0] {
        let entry = RoomEntry {
            room: key(1),
            offset: 3,
            position: wrong,
        };
        machine
            .rooms
            .put(ShardId(0), &[entry], next, next)
            .expect("put");
        // What comes before it, or all of it once the index is built again.
        let mut shown = Vec::new();
        while shown.len() < 5 {
            let page = edge.history(shown.len() as u64, 10).await;
            assert_eq!(page.error, 0);
            shown.extend(page.publications);
        }
        for (n, publication) in (1..).zip(&shown) {
            assert_eq!(publication.offset, n);
            let own = publication.data == format!("\"mine {n}\"");
            assert!(own, "offset {n} shows another room's message");
        }
        assert_eq!(indexed(&machine).await, next);
        assert_eq!(of(1, 3), own, "the index is mended");
    }
    region.drain().await;
}

/// An operator deletes the index of a region that runs. Nobody is told that messages are gone, and
/// the index is there again without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_deleted_under_a_running_region_is_built_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rooms");
    let rooms = FjallRooms::open(&path, RoomsConfig::default()).expect("an index");
    let rooms = Arc::new(rooms);
    let mut machine = Machine::new(Namespace::default());
    machine.rooms = rooms.clone();
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, format!("\"mine {n}\"")).await, (n, 0));
    }
    push_out_of_memory(&mut edge).await;
    let next = indexed(&machine).await;
    for round in 1..=2 {
        // From its place at once: whoever looks while its files go one by one puts the rest of it aside.
        let gone = dir.path().join("gone");
        std::fs::rename(&path, &gone).expect("moved");
        std::fs::remove_dir_all(&gone).expect("removed");
        let began = Instant::now();
        loop {
            let done = rooms.resets() == round
                && machine
                    .rooms
                    .applied(ShardId(0))
                    .is_ok_and(|applied| applied == next);
            let page = edge.history(0, 10).await;
            let offsets: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
            assert_eq!((page.error, offsets), (0, vec![1, 2, 3, 4, 5]));
            assert_eq!(page.publications[2].data, "\"mine 3\"");
            if done {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the index is not built again");
        }
        assert!(path.is_dir());
    }
    // It goes on, and a restart finds it whole.
    assert_eq!(edge.publish(1, 6, "\"mine 6\"".into()).await, (6, 0));
    drop(edge);
    region.drain().await;
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.history(0, 10).await.publications.len(), 6);
    assert_eq!(rooms.resets(), 2);
    region.drain().await;
}

/// A read of the index that takes its time outlives the owner that it was asked from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_has_one_follower_whoever_still_reads() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    push_out_of_memory(&mut edge).await;
    indexed(&machine).await;
    let watched = machine.watched.clone();
    watched.hold(true);
    edge.ask_history(0, 10);
    let began = Instant::now();
    while watched.waiting() == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is read");
        tokio::task::yield_now().await;
    }
    machine.faults.ends.store(true, Ordering::SeqCst);
    assert_eq!(edge.try_publish(1, 2, "2".into()).await, None);
    drop(edge);
    let mut edge = machine.edge_again("e1").await;
    // So many that another one would have looked in between.
    for n in 2..=12 {
        assert_eq!(edge.publish(1, n, n.to_string()).await, (n, 0));
        // Each time its follower has looked anew.
        indexed(&machine).await;
    }
    watched.hold(false);
    drop(edge);
    region.drain().await;
    let followers = watched.followers();
    assert_eq!(followers.len(), 2, "one after the other: {followers:?}");
}

/// A read that has an old body in hand while the message is erased everywhere, and forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_takes_long_does_not_show_what_was_erased_meanwhile() {
    let mut machine = Machine::new(Namespace::default());
    machine.config.retention_interval = Duration::from_millis(1);
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, format!("\"mine {n}\"")).await, (n, 0));
    }
    push_out_of_memory(&mut edge).await;
    indexed(&machine).await;
    let faults = machine.faults.clone();
    faults.holds.store(true, Ordering::SeqCst);
    edge.ask_history(0, 5);
    let until = async |done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "it does not come");
            tokio::task::yield_now().await;
        }
    };
    until(&|| faults.is_holding()).await;
    let erase = Admin::Erase {
        room: room(),
        offset: 3,
    };
    let outcome = region.admin(&shard(), erase).await.expect("an owner");
    assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    let log = machine.storage.open();
    let is_third = |r: &Record| r.channel == room().channel && r.offset == 3;
    until(&|| {
        let records = log.read(0, 100, 1 << 20).expect("a page").records;
        let third = records.into_iter().find(is_third).expect("a record");
        third.flags & flags::ERASED != 0
    })
    .await;
    // The run after the one that erased it begins when the owner knows that it is gone.
    let planned = || faults.planned.load(Ordering::SeqCst);
    let known = planned() + 2;
    until(&|| planned() >= known).await;
    faults.let_go();
    let page = edge.page().await;
    assert_eq!(page.publications.len(), 5);
    let third = &page.publications[2];
    assert!(third.data.is_empty() && third.flags & flags::ERASED != 0);
    assert_eq!(page.publications[3].data, "\"mine 4\"");
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_thread_that_panics_goes_on() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    machine.watched.panics.store(true, Ordering::SeqCst);
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, format!("\"mine {n}\"")).await, (n, 0));
    }
    indexed(&machine).await;
    assert!(!machine.watched.panics.load(Ordering::SeqCst));
    push_out_of_memory(&mut edge).await;
    indexed(&machine).await;
    assert_eq!(edge.history(0, 10).await.publications.len(), 5);
    region.drain().await;
}

/// Every write changes what says how far a shard's index is: a busy room must not make that a key which a
/// store is asked to change with every message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_a_busy_room_is_written_some_times_a_second_and_not_with_every_message() {
    const MESSAGES: u64 = 10_000;
    /// So that a slow machine is still fast enough to tell.
    const TOGETHER: usize = 50;
    /// After each write that leaves nothing waiting.
    const PAUSE: Duration = Duration::from_millis(50);
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let began = Instant::now();
    for first in (1..=MESSAGES).step_by(TOGETHER) {
        let numbers = first..first + TOGETHER as u64;
        let offsets: Vec<u64> = numbers.clone().collect();
        assert_eq!(edge.publish_together(1, numbers, "\"mine\"").await, offsets);
    }
    indexed(&machine).await;
    let pauses = began.elapsed().as_millis() / PAUSE.as_millis();
    let writes = machine.watched.writes.load(Ordering::SeqCst) as u128;
    // Two where batches did not fit into the queue, which the log has; and what begins and ends.
    let most = 2 * (pauses + 2);
    assert!(writes <= most, "{writes} writes, {most} at most");
    assert!(
        most < u128::from(MESSAGES) / 2,
        "too slow to tell: {pauses} pauses"
    );
    region.drain().await;
}
