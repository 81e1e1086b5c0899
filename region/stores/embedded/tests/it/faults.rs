//! Disks that fill up and fail, owners that contend and sleep.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use gb6_core_model::ShardEpoch;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{acquire, append, fence, message, messages};
use gb6_core_ports::{Acquire, Completion, Fence, ShardLog, StoreError};
use gb6_region_stores_embedded::sim_disk::SimVfs;
use gb6_region_stores_embedded::{EmbeddedShardLog, SegmentedLog, Vfs};

use crate::disk::{SimShard, messages_of, owned, small};
use crate::interrupted::{Before, Interrupted};

#[test]
fn a_full_disk_refuses_appends_and_goes_on_when_there_is_space() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let shard = SimShard::new(seed);
        let (mut log, _) = owned(shard.vfs(), 1);
        let mut next = 1;
        let mut refused = 0;
        for _ in 0..200 {
            if random.below(10) == 0 {
                let used = shard.0.used();
                shard.0.set_capacity(used + random.below(3000));
            }
            if random.below(10) == 0 {
                shard.0.set_capacity(u64::MAX);
            }
            let count = 1 + random.below(4);
            let batch: Vec<_> = (next..next + count)
                .map(|p| message(p, "room:a", p, random.below(1500) as usize))
                .collect();
            match log.commit(batch) {
                Ok(commit) => {
                    assert_eq!((commit.first, commit.next), (next, next + count));
                    next += count;
                }
                Err(StoreError::StorageFull { .. }) => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
            // Reads go on, and see exactly what was committed.
            assert_eq!(log.range().next, next);
            let record = log.reader().read_at(&[next - 1]).unwrap();
            assert!(record[0].is_some());
            let _ = log.run_jobs();
        }
        assert!(refused > 0, "seed {seed}: the disk was never full");
        shard.0.set_capacity(u64::MAX);
        let batch = messages(next, "room:a", 3);
        log.commit(batch)
            .expect("writing resumes without a restart");
        // Nothing of what was refused appears later.
        let after = SimShard(shard.0.power_cut());
        let (log, _) = owned(after.vfs(), 2);
        let held = messages_of(&log);
        assert_eq!(held.len() as u64, next + 2, "seed {seed}");
        assert!(held.iter().all(|r| r.offset == r.position));
    }
}

#[test]
fn after_a_failed_sync_only_an_acquisition_goes_on() {
    for seed in 0..60 {
        let shard = SimShard::new(seed);
        let (mut log, old) = owned(shard.vfs(), 1);
        log.commit(messages(1, "room:a", 5)).unwrap();
        shard.0.fail_sync_in(0);
        let error = log.commit(messages(6, "room:a", 5)).unwrap_err();
        assert!(
            matches!(error, StoreError::OutcomeUnknown { .. }),
            "{error}"
        );
        assert_eq!(
            log.range().next,
            6,
            "readers see nothing of unknown outcome"
        );
        let again = log.commit(messages(6, "room:a", 5)).unwrap_err();
        assert!(
            matches!(again, StoreError::OutcomeUnknown { .. }),
            "{again}"
        );
        let new = Fence {
            shard_epoch: gb6_core_model::ShardEpoch(old.shard_epoch.0 + 1),
            ..old
        };
        let next = log.acquire(&new, Acquire::default()).unwrap().range.next;
        log.commit(messages(next, "room:b", 1)).unwrap();
        let seen = messages_of(&log).len();
        // What the new owner found it may show: it must be there after a power cut too, although
        // the failed sync lost some of it and the system believes its pages clean.
        let after = SimShard(shard.0.power_cut());
        let (log, _) = owned(after.vfs(), 9);
        assert_eq!(messages_of(&log).len(), seen, "seed {seed}");
    }
}

#[test]
fn what_is_read_on_a_full_disk_without_owning_it_is_durable() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let shard = SimShard::new(seed);
        let (mut log, _) = owned(shard.vfs(), 1);
        let mut next = 1;
        for _ in 0..random.below(30) {
            next = log.commit(messages(next, "room:a", 5)).unwrap().next;
        }
        // Its process ends between writing and syncing, or its sync fails.
        log.stage(messages(next, "room:a", 3)).unwrap();
        log.write().unwrap();
        if random.below(2) == 0 {
            shard.0.fail_sync_in(0);
            log.sync().unwrap_err();
        }
        drop(log);
        shard.0.set_capacity(shard.0.used() + random.below(600));
        let names = shard.vfs().list().unwrap();
        let mut log = SegmentedLog::open(shard.vfs(), small()).unwrap();
        for epoch in [2, 3] {
            let error = log.acquire(&fence(epoch), Acquire::default()).unwrap_err();
            assert!(matches!(error, StoreError::StorageFull { .. }), "{error}");
        }
        assert_eq!(shard.vfs().list().unwrap(), names, "nothing is left behind");
        let refused = log.commit(messages(log.range().next, "room:a", 1));
        assert!(matches!(refused, Err(StoreError::Fenced { .. })));
        let shown = messages_of(&log);
        assert_eq!(shown.len() as u64, next + 2, "all that was written is read");
        // What was shown stays.
        let after = SimShard(shard.0.power_cut());
        after.0.set_capacity(u64::MAX);
        let (log, _) = owned(after.vfs(), 4);
        assert_eq!(messages_of(&log), shown, "seed {seed}");
    }
}

#[test]
fn a_log_without_space_is_owned_once_there_is_some() {
    let shard = SimShard::new(6);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 5)).unwrap();
    drop(log);
    shard.0.set_capacity(0);
    let log = EmbeddedShardLog::start(shard.vfs(), small(), "test").unwrap();
    let acquire = |epoch| gb6_core_ports::contract::log::acquire(&log, &fence(epoch));
    let error = acquire(2).unwrap_err();
    assert!(matches!(error, StoreError::StorageFull { .. }), "{error}");
    let error = append(&log, &fence(2), messages(6, "room:a", 1)).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    assert_eq!(log.read(0, 100, 1 << 20).unwrap().records.len(), 6);
    shard.0.set_capacity(u64::MAX);
    let acquired = acquire(2).unwrap();
    assert_eq!(acquired.record.position, 6);
    append(&log, &fence(2), messages(7, "room:a", 1)).unwrap();
}

#[test]
fn a_failed_group_takes_those_behind_it_along() {
    let shard = SimShard::new(3);
    let log = EmbeddedShardLog::start(shard.vfs(), small(), "test").unwrap();
    gb6_core_ports::contract::log::acquire(&log, &fence(1)).unwrap();
    append(&log, &fence(1), messages(1, "room:a", 10)).unwrap();
    shard.0.set_capacity(0);
    // In flight together: whatever group each joins, all are refused alike, and none is left.
    let (sender, receiver) = std::sync::mpsc::channel();
    for n in 0..40 {
        let sender = sender.clone();
        let batch = messages(11 + n * 10, "room:a", 10);
        let done = Completion::new(move |answer| {
            let _ = sender.send(answer);
        });
        log.append(&fence(1), batch, done);
    }
    let answers: Vec<_> = receiver.iter().take(40).collect();
    let committed = answers.iter().take_while(|a| a.is_ok()).count();
    assert!(committed < 40);
    for answer in &answers[committed..] {
        assert!(
            matches!(answer, Err(StoreError::StorageFull { .. })),
            "{answer:?}"
        );
    }
    shard.0.set_capacity(u64::MAX);
    let next = log.range().unwrap().next;
    assert_eq!(next, 11 + committed as u64 * 10);
    append(&log, &fence(1), messages(next, "room:a", 10)).unwrap();
    let stats = log.stats();
    assert!(stats.failures > 0 && stats.syncs > 1);
    assert_eq!(stats.records, next + 9, "all but the acquire record");
}

#[test]
fn a_consumer_beyond_the_bound_lapses_and_trimming_goes_on() {
    let shard = SimShard::new(4);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.reader().register_consumer("slow", 0).unwrap();
    let mut next = 1;
    for _ in 0..20 {
        next = log.commit(messages(next, "room:a", 20)).unwrap().next;
    }
    assert_eq!(log.trim(next).unwrap(), 0);
    while !log.reader().consumers().unwrap()[0].lapsed {
        next = log.commit(messages(next, "room:a", 20)).unwrap().next;
        assert!(next < 5000, "never lapsed");
    }
    assert!(log.trim(next).unwrap() > 0);
    let error = log.reader().set_consumer("slow", next).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    // Also after a restart.
    let log = SegmentedLog::open(shard.vfs(), small()).unwrap();
    assert!(log.reader().consumers().unwrap()[0].lapsed);
}

/// A job that an ended ownership asked for may finish at any time later. Taken for the present
/// ownership's own it once let a second file take the name of the one that was being written:
/// what was acknowledged in it was gone with the next start.
#[test]
fn a_segment_prepared_for_an_ended_ownership_never_takes_a_name() {
    for late in 0..4 {
        let shard = SimShard::new(late);
        let (mut log, first) = owned(shard.vfs(), 1);
        let write = |log: &mut SegmentedLog<SimVfs>, batches: u64| {
            for _ in 0..batches {
                let next = log.range().next;
                let batch = vec![message(next, "room:a", next, 1000)];
                log.commit(batch).expect("commit");
            }
        };
        write(&mut log, 2);
        let stale = log.take_job().expect("the next segment is prepared");
        let again = Fence {
            shard_epoch: ShardEpoch(first.shard_epoch.0 + 1),
            ..first
        };
        log.acquire(&again, Acquire::default()).expect("acquire");
        write(&mut log, 2);
        let mut own = log.take_job();
        assert!(own.is_some(), "this ownership prepares its own");
        if late == 0 {
            log.finish(own.take().expect("a job").run())
                .expect("finish");
        }
        log.finish(stale.run()).expect("a late result is dropped");
        let more = log.take_job();
        assert!(more.is_none(), "one segment is prepared at a time");
        if late == 1 {
            write(&mut log, 8);
        }
        if let Some(own) = own {
            log.finish(own.run()).expect("finish");
        }
        write(&mut log, 8 * late);
        let end = log.range().next;
        drop(log);
        let (log, _) = owned(shard.vfs(), 2);
        assert_eq!(log.range().next, end + 1, "late {late}");
        assert_eq!(messages_of(&log).len() as u64, end - 2, "late {late}");
    }
}

#[test]
fn a_batch_waits_for_one_segment_of_a_trim_and_not_for_all() {
    let shard = SimShard::new(3);
    let vfs = Interrupted::new(shard.vfs());
    let log = Arc::new(EmbeddedShardLog::start(vfs.clone(), small(), "test").unwrap());
    acquire(&*log, &fence(1)).unwrap();
    for n in 0..10 {
        append(&*log, &fence(1), messages(1 + n * 10, "room:a", 10)).unwrap();
        log.seal_around(&fence(1), 1 + n * 10).unwrap();
    }
    let kept = |vfs: &SimVfs| {
        let names = vfs.list().unwrap();
        names.iter().filter(|name| name.ends_with(".seg")).count()
    };
    let before = kept(&shard.vfs());
    assert_eq!(before, 11);
    // overflow: one answer.
    let (answers, answered) = sync_channel(1);
    let (writes, disk) = (Arc::downgrade(&log), shard.vfs());
    let comes = move || {
        let done = Completion::new(move |answer: Result<_, _>| {
            answers.send(answer.map(|_| kept(&disk))).unwrap();
        });
        let log = writes.upgrade().unwrap();
        log.append(&fence(1), messages(101, "room:a", 1), done);
    };
    *vfs.hook.lock() = Some((Before::Remove, Box::new(comes)));
    assert_eq!(log.trim(&fence(1), 101).unwrap(), 101);
    assert_eq!(answered.recv().unwrap(), Ok(before - 1));
    assert_eq!(kept(&shard.vfs()), 1);
}
