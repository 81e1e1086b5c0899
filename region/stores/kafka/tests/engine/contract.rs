//! The contract of `ShardLog`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, fence, messages};
use gb6_core_ports::{Commit, Completion, ShardLog, StoreError, contract};

use crate::cluster::{Region, Shard};

fn shard() -> Shard {
    Shard {
        logs: Region::new("").logs(),
    }
}

#[test]
fn the_contract_is_kept() {
    contract::log::all(shard);
}

#[test]
fn it_answers_as_the_reference_does() {
    for seed in 0..4 {
        contract::log_model::matches_the_reference(&shard(), seed, 120);
    }
}

/// Whether a thread of the Kafka client has panicked, in any test of this process.
static PANICKED: AtomicBool = AtomicBool::new(false);

#[test]
fn who_is_answered_may_be_the_last_to_hold_the_log() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some("producer polling thread") {
            PANICKED.store(true, Ordering::SeqCst);
        }
        before(info);
    }));
    for _ in 0..5 {
        let region = Region::new("");
        let log = region.logs().open_shard(ShardId(3));
        let log = Arc::new(log.expect("opened"));
        acquire(&*log, &fence(1)).expect("acquired");
        // overflow: one answer comes.
        let (sender, receiver) = mpsc::sync_channel(1);
        let (held, last) = (log.clone(), Arc::downgrade(&log));
        let (release, released) = mpsc::sync_channel::<()>(1);
        let done = Completion::new(move |answer: Result<Commit, StoreError>| {
            // The other holder is gone first.
            let gone = released.recv_timeout(Duration::from_secs(10));
            drop(held);
            // The test waits for it.
            let _ = sender.send((gone.is_ok(), answer));
        });
        log.append(&fence(1), messages(1, "room:a", 1), done);
        drop(log);
        release.send(()).expect("it waits");
        let (gone, answer) = receiver
            .recv_timeout(Duration::from_secs(20))
            .expect("answered");
        assert!(
            gone && answer.is_ok() && last.upgrade().is_none(),
            "{answer:?}"
        );
        // All that it shared with its cluster is gone, the producer before the archive.
        let deadline = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&region.blobs) > 1 {
            assert!(Instant::now() < deadline, "something is still held");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(
        !PANICKED.load(Ordering::SeqCst),
        "the client's thread ended badly"
    );
}

#[test]
fn batches_that_are_given_at_once_share_messages_and_are_answered_in_order() {
    const BATCHES: u64 = 300;
    let shard = shard();
    let log = shard.logs.open_shard(ShardId(3)).expect("opened");
    let begin = acquire(&log, &fence(1)).expect("acquired").range.next;
    // overflow: every answer has its place.
    let (sender, answers) = mpsc::sync_channel(BATCHES as usize);
    for n in 0..BATCHES {
        let sender = sender.clone();
        let done = Completion::new(move |answer: Result<Commit, StoreError>| {
            // The test waits for it.
            let _ = sender.send(answer);
        });
        log.append(&fence(1), messages(begin + 2 * n, "room:a", 2), done);
    }
    let mut shared = 0;
    for n in 0..BATCHES {
        let answer = answers.recv_timeout(Duration::from_secs(20));
        let commit = answer.expect("answered").expect("committed");
        let first = begin + 2 * n;
        assert_eq!((commit.first, commit.next), (first, first + 2));
        shared += u64::from(commit.shared > 2);
    }
    assert!(shared > BATCHES / 2, "{shared} batches shared a message");
    let page = log
        .read(begin, BATCHES as usize * 2, 1 << 20)
        .expect("read");
    let positions: Vec<u64> = page.records.iter().map(|record| record.position).collect();
    assert_eq!(positions, (begin..begin + 2 * BATCHES).collect::<Vec<_>>());
}
