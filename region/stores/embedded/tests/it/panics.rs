//! A thread of a log that panics: whoever waits for it is answered, and another log goes on.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gb6_core_ports::contract::log::{acquire, append, everything, fence, messages};
use gb6_core_ports::{Completion, ShardLog, StoreError};
use gb6_region_stores_embedded::EmbeddedShardLog;

use crate::disk::{SimShard, small};
use crate::interrupted::{Before, Interrupted};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    let shard = SimShard::new(1);
    let vfs = Interrupted::new(shard.vfs());
    let log = EmbeddedShardLog::start(vfs.clone(), small(), "test").unwrap();
    let log = Arc::new(log);
    acquire(&*log, &fence(1)).unwrap();
    append(&*log, &fence(1), messages(1, "room:a", 3)).unwrap();
    // overflow: one answer for the batch that waits behind the call, one for each asked later.
    let (answers, answered) = sync_channel(3);
    let waiting: Weak<_> = Arc::downgrade(&log);
    let behind = answers.clone();
    let panics = move || {
        // The receiver is there, unless the test has failed already.
        let done = Completion::new(move |answer| drop(behind.send(answer)));
        let log = waiting.upgrade().unwrap();
        log.append(&fence(1), messages(4, "room:a", 1), done);
        drop(log);
        panic!("a defect in a call");
    };
    *vfs.hook.lock() = Some((Before::Publish, Box::new(panics)));
    match log.seal_around(&fence(1), 1) {
        Err(StoreError::OutcomeUnknown { .. }) => {}
        other => panic!("{other:?}"),
    }
    match answered.recv_timeout(PATIENCE).expect("an answer") {
        Err(StoreError::OutcomeUnknown { .. }) => {}
        other => panic!("{other:?}"),
    }
    let later = answers.clone();
    let done = Completion::new(move |answer| drop(later.send(answer)));
    log.append(&fence(1), messages(4, "room:a", 1), done);
    let answer = answered.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(answer, Err(StoreError::Closed));
    let done = Completion::new(move |answer: Result<_, StoreError>| {
        drop(answers.send(answer.map(|_| Default::default())));
    });
    log.acquire(fence(2), Default::default(), done);
    let answer = answered.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(answer, Err(StoreError::Closed));
    assert_eq!(log.stats().waiting_bytes, 0);
    // Reading goes on, and writing with a log that is opened anew.
    assert_eq!(everything(&*log).len(), 4);
    let again = EmbeddedShardLog::start(shard.vfs(), small(), "test").unwrap();
    let next = acquire(&again, &fence(2)).unwrap().range.next;
    append(&again, &fence(2), messages(next, "room:a", 1)).unwrap();
    drop(log);
    append(&again, &fence(2), messages(next + 1, "room:a", 1)).unwrap();
    assert_eq!(everything(&again).len() as u64, next + 2);
}
