//! The contract of `ShardLog`, promise by promise.

use std::sync::Arc;
use std::sync::mpsc;

use gb6_core_model::{Incarnation, Position, ShardEpoch, ShardId};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use prost::Message;

use super::log_space;
use crate::completion::{Completion, wait};
use crate::error::StoreError;
use crate::fence::Fence;
use crate::log::{Acquire, Acquired, Commit, ShardLog};

/// The storage of one shard, empty at first.
pub trait LogFixture {
    /// Opens the log as another process would. Earlier handles may still be open: they are other
    /// owners of the same shard.
    fn open(&self) -> Arc<dyn ShardLog>;
}

/// Runs every promise, each on empty storage from `fresh`.
pub fn all<F: LogFixture>(mut fresh: impl FnMut() -> F) {
    positions_follow(&fresh());
    acquire_writes_its_record(&fresh());
    an_older_owner_is_fenced(&fresh());
    of_two_with_one_epoch_the_first_wins(&fresh());
    an_ownership_is_confirmed_until_another_begins(&fresh());
    batches_in_flight_commit_in_order(&fresh());
    pages_are_bounded(&fresh());
    single_records_are_found(&fresh());
    a_new_handle_sees_what_was_committed(&fresh());
    bounds_are_enforced(&fresh());
    log_space::trimming_waits_for_consumers(&fresh());
    log_space::rewriting_keeps_positions(&fresh());
    log_space::retention_is_planned(&fresh());
    log_space::what_lives_is_never_planned_away(&fresh());
    checkpoints_are_found_again(&fresh());
}

/// The fence of epoch `epoch`, with an incarnation of its own.
pub fn fence(epoch: u64) -> Fence {
    Fence {
        region: "test".into(),
        shard: ShardId(3),
        shard_epoch: ShardEpoch(epoch),
        owner_incarnation: Incarnation(0x1000 + epoch),
    }
}

/// A message of `room` with `offset` at `position`, with a body of `size` bytes.
pub fn message(position: Position, room: &str, offset: u64, size: usize) -> Record {
    Record {
        version: RECORD_VERSION,
        kind: Kind::Message as i32,
        instance: "demo".into(),
        instance_epoch: 1,
        channel: room.into(),
        offset,
        position,
        time: 1_700_000_000_000 + position as i64,
        body: (0..size)
            .map(|i| (position as usize * 31 + i) as u8)
            .collect::<Vec<u8>>()
            .into(),
        ..Record::default()
    }
}

/// `count` messages of `room` from `position` on, with offsets equal to the position.
pub fn messages(position: Position, room: &str, count: u64) -> Vec<Record> {
    (position..position + count)
        .map(|p| message(p, room, p, 40))
        .collect()
}

/// Acquires under `fence` and waits.
pub fn acquire(log: &dyn ShardLog, fence: &Fence) -> Result<Acquired, StoreError> {
    wait(|done| log.acquire(fence.clone(), Acquire::default(), done))
}

/// Appends under `fence` and waits.
pub fn append(log: &dyn ShardLog, fence: &Fence, batch: Vec<Record>) -> Result<Commit, StoreError> {
    let encoded: u64 = batch.iter().map(|r| r.encoded_len() as u64).sum();
    let most = encoded + 64 * batch.len() as u64;
    let commit = wait(|done| log.append(fence, batch, done))?;
    let bytes = commit.bytes;
    assert!(
        (encoded..=most).contains(&bytes),
        "{bytes} bytes for {encoded}"
    );
    Ok(commit)
}

/// Everything that a log holds, without the fields that the engine sets.
pub fn everything(log: &dyn ShardLog) -> Vec<Record> {
    let mut records = Vec::new();
    let mut from = log.range().expect("range").first;
    loop {
        let page = log.read(from, 7, 1 << 20).expect("read");
        records.extend(page.records);
        assert!(page.next > from || page.next >= page.end, "no progress");
        from = page.next;
        if from >= page.end {
            break;
        }
    }
    for record in &mut records {
        record.shard_epoch = 0;
        record.owner_incarnation = 0;
    }
    records
}

pub(super) fn positions(records: &[Record]) -> Vec<Position> {
    records.iter().map(|r| r.position).collect()
}

fn positions_follow(fixture: &impl LogFixture) {
    let log = fixture.open();
    let error = append(&*log, &fence(1), messages(0, "room:a", 1)).expect_err("no owner");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let range = acquire(&*log, &fence(1)).expect("acquire").range;
    assert_eq!((range.first, range.next), (0, 1));
    for (given, ok) in [(0, false), (2, false), (1, true), (1, false), (4, true)] {
        let answer = append(&*log, &fence(1), messages(given, "room:a", 3));
        match answer {
            Ok(commit) => {
                assert!(ok, "{given} was accepted");
                assert_eq!((commit.first, commit.next), (given, given + 3));
            }
            Err(StoreError::Conflict { .. }) => assert!(!ok, "{given} was refused"),
            Err(error) => panic!("{error}"),
        }
    }
    let mut holed = messages(7, "room:a", 3);
    holed.remove(1);
    let error = append(&*log, &fence(1), holed).expect_err("a hole");
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(log.range().expect("range").next, 7);
    assert_eq!(positions(&everything(&*log)), (0..7).collect::<Vec<_>>());
}

fn acquire_writes_its_record(fixture: &impl LogFixture) {
    let log = fixture.open();
    let how = |served_ms| Acquire {
        time: 77,
        served_ms,
    };
    let first = wait(|done| log.acquire(fence(4), how(500), done)).expect("acquire");
    assert_eq!(first.record.kind(), Kind::Acquire);
    assert_eq!((first.record.position, first.record.time), (0, 77));
    assert_eq!(first.record.shard_epoch, 4);
    assert_eq!(first.record.served_ms, 500);
    append(&*log, &fence(4), messages(1, "room:a", 2)).expect("append");
    // The served time never goes back, whatever the caller still knew.
    let second = wait(|done| log.acquire(fence(9), how(0), done)).expect("acquire");
    assert_eq!(second.record.position, 3);
    assert_eq!(second.record.served_ms, 500);
    let page = log.read(0, 100, 1 << 20).expect("read");
    assert_eq!(page.records[0], first.record);
    assert_eq!(page.records[3], second.record);
    assert_eq!(page.records[1].shard_epoch, 4);
    assert_eq!(page.records[1].owner_incarnation, 0x1004);
}

fn an_older_owner_is_fenced(fixture: &impl LogFixture) {
    let (old, new) = (fixture.open(), fixture.open());
    acquire(&*old, &fence(1)).expect("acquire");
    append(&*old, &fence(1), messages(1, "room:a", 4)).expect("append");
    let range = acquire(&*new, &fence(2)).expect("acquire").range;
    assert_eq!(range.next, 6);
    for _ in 0..2 {
        match append(&*old, &fence(1), messages(5, "room:zombie", 3)) {
            Err(StoreError::Fenced { held, current }) => {
                assert_eq!((held.0, current.0), (1, 2));
            }
            other => panic!("an owner that was fenced was answered {other:?}"),
        }
    }
    append(&*new, &fence(2), messages(6, "room:a", 2)).expect("append");
    let error = append(&*new, &fence(1), messages(8, "room:a", 1)).expect_err("old fence");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    for handle in [&new, &fixture.open()] {
        let records = everything(&**handle);
        assert_eq!(positions(&records), (0..8).collect::<Vec<_>>());
        assert!(records.iter().all(|r| r.channel != "room:zombie"));
    }
    // It may come back, under a higher epoch.
    let back = acquire(&*old, &fence(3)).expect("acquire");
    assert_eq!(back.record.position, 8);
    append(&*old, &fence(3), messages(9, "room:a", 1)).expect("append");
}

fn of_two_with_one_epoch_the_first_wins(fixture: &impl LogFixture) {
    let (first, second) = (fixture.open(), fixture.open());
    let other = Fence {
        owner_incarnation: Incarnation(99),
        ..fence(5)
    };
    acquire(&*first, &fence(5)).expect("acquire");
    for epoch in [1, 4, 5] {
        let wanted = Fence {
            shard_epoch: ShardEpoch(epoch),
            ..other.clone()
        };
        match acquire(&*second, &wanted) {
            Err(StoreError::Fenced { held, current }) => {
                assert_eq!((held.0, current.0), (epoch, 5));
            }
            answer => panic!("epoch {epoch} was answered {answer:?}"),
        }
    }
    append(&*first, &fence(5), messages(1, "room:a", 1)).expect("the winner goes on");
    let error = append(&*second, &other, messages(2, "room:a", 1)).expect_err("the loser");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

fn an_ownership_is_confirmed_until_another_begins(fixture: &impl LogFixture) {
    let (old, new) = (fixture.open(), fixture.open());
    let error = old.confirm(&fence(1)).expect_err("nobody owns it");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    acquire(&*old, &fence(1)).expect("acquire");
    old.confirm(&fence(1)).expect("it owns the shard");
    append(&*old, &fence(1), messages(1, "room:a", 2)).expect("append");
    old.confirm(&fence(1)).expect("it still does");
    let other = Fence {
        owner_incarnation: Incarnation(99),
        ..fence(1)
    };
    for never in [fence(2), other] {
        let error = old.confirm(&never).expect_err("never acquired");
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    }
    acquire(&*new, &fence(2)).expect("acquire");
    // Nothing was written since, by anybody: it is the log that says so.
    for _ in 0..2 {
        match old.confirm(&fence(1)) {
            Err(StoreError::Fenced { held, current }) => {
                assert_eq!((held.0, current.0), (1, 2));
            }
            other => panic!("an owner that was fenced was confirmed: {other:?}"),
        }
    }
    new.confirm(&fence(2)).expect("the new owner");
    let error = new.confirm(&fence(1)).expect_err("an old fence");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    acquire(&*old, &fence(3)).expect("acquire");
    old.confirm(&fence(3)).expect("it came back");
}

fn batches_in_flight_commit_in_order(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    // overflow: one answer for each of the sixty batches fits.
    let (sender, receiver) = mpsc::sync_channel(60);
    let mut position = 1;
    for n in 0..60 {
        let batch = messages(position, "room:a", 1 + n % 5);
        position += batch.len() as u64;
        let sender = sender.clone();
        let done = Completion::new(move |answer| {
            // The receiver outlives all batches.
            let _ = sender.send(answer);
        });
        log.append(&fence(1), batch, done);
    }
    let mut next = 1;
    for _ in 0..60 {
        let commit: Commit = receiver.recv().expect("an answer").expect("a commit");
        assert_eq!(
            commit.first, next,
            "answers come in the order of the batches"
        );
        next = commit.next;
        // Nothing is acknowledged before readers can see it.
        assert!(log.range().expect("range").next >= next);
    }
    assert_eq!(next, position);
    assert_eq!(everything(&*log).len() as u64, position);
}

fn pages_are_bounded(fixture: &impl LogFixture) {
    let log = fixture.open();
    let empty = log.read(0, 10, 1000).expect("read");
    assert!(empty.records.is_empty());
    acquire(&*log, &fence(1)).expect("acquire");
    for n in 0..10 {
        append(&*log, &fence(1), messages(1 + n * 10, "room:a", 10)).expect("append");
    }
    let page = log.read(5, 7, 1 << 20).expect("read");
    assert_eq!(positions(&page.records), (5..12).collect::<Vec<_>>());
    assert_eq!((page.next, page.end), (12, 101));
    let page = log.read(5, 100, 1).expect("read");
    assert_eq!(positions(&page.records), [5], "one record always fits");
    let page = log.read(5, 100, 300).expect("read");
    assert!(
        (2..8).contains(&page.records.len()),
        "{}",
        page.records.len()
    );
    for from in [101, 102, 5000] {
        let page = log.read(from, 10, 1000).expect("read");
        assert!(page.records.is_empty());
        assert!(page.next >= page.end);
    }
}

fn single_records_are_found(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    for n in 0..20 {
        append(&*log, &fence(1), messages(1 + n * 13, "room:a", 13)).expect("append");
    }
    let wanted = [200, 3, 3, 260, 261, 10_000, 0, 14];
    let found = log.read_at(&wanted).expect("read");
    let got: Vec<Option<Position>> = found
        .iter()
        .map(|r| r.as_ref().map(|r| r.position))
        .collect();
    let expected = wanted.map(|p| (p < 261).then_some(p));
    assert_eq!(got, expected);
    assert_eq!(log.read_at(&[]).expect("read"), []);
}

fn a_new_handle_sees_what_was_committed(fixture: &impl LogFixture) {
    let written = {
        let log = fixture.open();
        acquire(&*log, &fence(1)).expect("acquire");
        for n in 0..30 {
            append(&*log, &fence(1), messages(1 + n * 9, "room:a", 9)).expect("append");
        }
        everything(&*log)
    };
    for epoch in 2..5 {
        let log = fixture.open();
        assert_eq!(log.range().expect("range").next, 271 + epoch - 2);
        acquire(&*log, &fence(epoch)).expect("acquire");
        let read = everything(&*log);
        assert_eq!(read[..written.len()], written[..]);
    }
}

fn bounds_are_enforced(fixture: &impl LogFixture) {
    let log = fixture.open();
    acquire(&*log, &fence(1)).expect("acquire");
    let caps = log.caps();
    let many = messages(1, "room:a", caps.batch_records_max as u64 + 1);
    let large: Vec<Record> = (1..=2)
        .map(|p| message(p, "room:a", p, caps.batch_bytes_max))
        .collect();
    for batch in [many, large] {
        let error = append(&*log, &fence(1), batch).expect_err("too large");
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
        assert!(!error.retryable());
    }
    let alone = message(1, "room:a", 1, caps.batch_bytes_max);
    append(&*log, &fence(1), vec![alone.clone()]).expect("one record always fits");
    let empty = append(&*log, &fence(1), Vec::new()).expect("an empty batch");
    assert_eq!((empty.first, empty.next), (2, 2));
    assert_eq!(everything(&*log)[1], alone);
}

fn checkpoints_are_found_again(fixture: &impl LogFixture) {
    let log = fixture.open();
    assert_eq!(log.load_checkpoint().expect("load"), None);
    acquire(&*log, &fence(1)).expect("acquire");
    append(&*log, &fence(1), messages(1, "room:a", 9)).expect("append");
    for position in [3, 5, 8] {
        let state = vec![position as u8; 100_000];
        log.save_checkpoint(position, &state).expect("save");
        assert_eq!(
            log.load_checkpoint().expect("load"),
            Some((position, state))
        );
    }
    let older = log.load_checkpoint_before(8).expect("load");
    assert_eq!(older.map(|(p, _)| p), Some(5), "the one before is kept");
    assert_eq!(log.load_checkpoint_before(5).expect("load"), None);
    log.save_checkpoint(5000, b"ahead of the log")
        .expect("save");
    let found = fixture.open().load_checkpoint().expect("load");
    assert_eq!(found.map(|(p, s)| (p, s.len())), Some((8, 100_000)));
}
