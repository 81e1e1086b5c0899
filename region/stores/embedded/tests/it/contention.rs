//! Owners that contend for a shard, sleep at any point, and find that the log went on without them.

use std::sync::atomic::Ordering::Relaxed;

use gb6_core_model::{Incarnation, ShardEpoch};
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{fence, message, messages};
use gb6_core_ports::{Acquire, Fence, StoreError};
use gb6_region_stores_embedded::log::Job;
use gb6_region_stores_embedded::sim_disk::SimVfs;
use gb6_region_stores_embedded::{SegmentedLog, Vfs};

use crate::disk::{SimShard, messages_of, owned, small};
use crate::interrupted::{Before, Interrupted};

/// One owner among several in a schedule of single steps.
struct Contender {
    log: SegmentedLog<SimVfs>,
    fence: Option<Fence>,
    /// Steps of a commit that are done: 1 staged, 2 written.
    step: u32,
    first: u64,
    numbers: Vec<u64>,
}

#[test]
fn owners_that_contend_and_sleep_never_both_acknowledge() {
    for seed in 0..300 {
        contend(seed);
    }
}

fn contend(seed: u64) {
    let mut random = Random::new(seed);
    let shard = SimShard::new(seed);
    let mut owners: Vec<Contender> = (0..3)
        .map(|_| Contender {
            log: SegmentedLog::open(shard.vfs(), small()).unwrap(),
            fence: None,
            step: 0,
            first: 0,
            numbers: Vec::new(),
        })
        .collect();
    // (position, number) of every acknowledged message.
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut newest = ShardEpoch(0);
    // Background work that was asked for, done at any later time: also when the ownership that
    // asked has ended.
    let mut jobs: Vec<(usize, Job<SimVfs>)> = Vec::new();
    // One of them is awake for a while, then another.
    let mut awake = 0;
    for _ in 0..400 {
        if random.below(25) == 0 {
            awake = random.below(3);
        }
        let who = match random.below(8) {
            0 => random.below(3),
            _ => awake,
        } as usize;
        if random.below(4) == 0 && !jobs.is_empty() {
            let (whose, job) = jobs.swap_remove(random.below(jobs.len() as u64) as usize);
            let done = owners[whose].log.finish(job.run());
            assert_eq!(done, Ok(()), "seed {seed}");
        }
        let owner = &mut owners[who];
        if random.below(40) == 0 || owner.fence.is_none() {
            // Now and then an epoch that somebody else may hold.
            let epoch = owner.log.epoch().0 + random.below(3);
            let wanted = Fence {
                owner_incarnation: Incarnation(1 + random.below(u64::MAX - 1)),
                ..fence(epoch)
            };
            owner.step = 0;
            owner.fence = None;
            match owner.log.acquire(&wanted, Acquire::default()) {
                Ok(acquired) => {
                    assert!(wanted.shard_epoch > newest, "seed {seed}");
                    newest = wanted.shard_epoch;
                    owner.first = acquired.range.next;
                    owner.fence = Some(wanted);
                }
                Err(StoreError::Fenced { current, .. }) => {
                    // Learned: the log was opened long ago.
                    owner.log = SegmentedLog::open(shard.vfs(), small()).unwrap();
                    assert!(owner.log.epoch() >= current);
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            continue;
        }
        if owner.step == 0 && random.below(6) == 0 {
            // Retention, which lets nearly everything go.
            match owner.log.trim(owner.first.saturating_sub(random.below(20))) {
                Ok(_) => {}
                Err(StoreError::Fenced { .. }) => owner.fence = None,
                Err(error) => panic!("seed {seed}: {error}"),
            }
            continue;
        }
        // One step at a time: between any two the others may do anything, which is what a pause
        // of this owner looks like.
        let result = match owner.step {
            0 => {
                let count = 1 + random.below(3);
                owner.numbers = (number..number + count).collect();
                number += count;
                let numbers = owner.numbers.iter().zip(owner.first..);
                let batch = numbers
                    .map(|(n, p)| message(p, "room:a", *n, 100 + random.below(900) as usize))
                    .collect();
                owner.log.stage(batch)
            }
            1 => owner.log.write(),
            _ => owner.log.sync().map(|commit| {
                assert_eq!(commit.first, owner.first);
                let epoch = owner.fence.as_ref().map(|f| f.shard_epoch);
                assert_eq!(
                    epoch,
                    Some(newest),
                    "seed {seed}: a fenced owner acknowledged"
                );
                owner.first = commit.next;
                acknowledged.extend((commit.first..).zip(owner.numbers.drain(..)));
            }),
        };
        match result {
            Ok(()) => owner.step = (owner.step + 1) % 3,
            Err(StoreError::Fenced { .. }) => owner.fence = None,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if random.below(2) == 0
            && let Some(job) = owners[who].log.take_job()
        {
            jobs.push((who, job));
        }
    }
    let after = SimShard(shard.0.power_cut());
    let (log, _) = owned(after.vfs(), 77);
    let held: Vec<(u64, u64)> = messages_of(&log)
        .iter()
        .map(|r| (r.position, r.offset))
        .collect();
    let first = log.range().first;
    for entry in acknowledged.iter().filter(|(p, _)| *p >= first) {
        assert!(
            held.contains(entry),
            "seed {seed}: {entry:?} was acknowledged and is gone"
        );
    }
}

#[test]
fn an_owner_that_slept_through_the_removal_of_its_successor_is_fenced() {
    let shard = SimShard::new(5);
    let (mut old, _) = owned(shard.vfs(), 1);
    old.commit(messages(1, "room:a", 3)).unwrap();
    old.stage(messages(4, "room:a", 1)).unwrap();
    old.write().unwrap();
    let (mut new, fence) = owned(shard.vfs(), 2);
    let mut next = new.range().next;
    for _ in 0..40 {
        next = new.commit(messages(next, "room:a", 20)).unwrap().next;
        new.run_jobs().unwrap();
    }
    assert!(new.trim(next).unwrap() > 200, "the first segments are gone");
    assert!(!shard.vfs().exists("0000000000000001.seg").unwrap());
    match old.sync() {
        Err(StoreError::Fenced { held, current }) => {
            assert!(held < current);
            assert_eq!(current, fence.shard_epoch);
        }
        other => panic!("{other:?}"),
    }
}

/// An owner of the first segment, whose next batch needs the next one, and a successor whose log
/// has gone on and let its first segments go.
fn overtaken(seed: u64) -> (SimShard, SegmentedLog<SimVfs>, SegmentedLog<SimVfs>) {
    let shard = SimShard::new(seed);
    let (mut old, _) = owned(shard.vfs(), 1);
    old.commit(vec![message(1, "room:a", 1, 3500)]).unwrap();
    let (mut new, _) = owned(shard.vfs(), 2);
    go_on(&mut new);
    assert!(!shard.vfs().exists("0000000000000001.seg").unwrap());
    (shard, old, new)
}

/// Writes through several segments and lets all that can go go.
fn go_on(log: &mut SegmentedLog<SimVfs>) {
    let mut next = log.range().next;
    for _ in 0..40 {
        next = log.commit(messages(next, "room:a", 20)).unwrap().next;
        log.run_jobs().unwrap();
    }
    assert!(log.trim(next - 100).unwrap() > 200);
}

#[test]
fn an_owner_whose_next_name_was_taken_and_removed_does_not_take_it() {
    let (shard, mut old, mut new) = overtaken(1);
    let names = shard.vfs().list().unwrap();
    match old.commit(vec![message(2, "room:a", 99, 1000)]) {
        Err(StoreError::Fenced { held, current }) => assert!(held < current),
        other => panic!("{other:?}"),
    }
    drop(old);
    let mut left = shard.vfs().list().unwrap();
    left.retain(|name| !name.ends_with(".tmp"));
    assert_eq!(left, names, "the name is given back");
    // Its successor goes on, also after a restart.
    let next = new.range().next;
    new.commit(messages(next, "room:a", 1)).unwrap();
    let held = messages_of(&new);
    let (log, _) = owned(SimShard(shard.0.power_cut()).vfs(), 3);
    assert_eq!(messages_of(&log), held);
}

#[test]
fn a_name_that_is_never_given_back_harms_nothing() {
    for cut in 0..12 {
        let (shard, mut old, new) = overtaken(cut);
        let held = messages_of(&new);
        shard.0.cut_power_in(cut);
        let error = old
            .commit(vec![message(2, "room:a", 99, 1000)])
            .unwrap_err();
        let after = SimShard(shard.0.power_cut());
        let (mut log, _) = owned(after.vfs(), 3);
        assert_eq!(messages_of(&log), held, "cut {cut}: {error}");
        go_on(&mut log);
        let held = messages_of(&log);
        let (log, _) = owned(after.vfs(), 4);
        assert_eq!(messages_of(&log), held, "cut {cut}");
    }
}

#[test]
fn an_acquisition_that_sleeps_before_it_takes_a_name_is_fenced() {
    for case in 0..4 {
        let (empty, before) = (case % 2 == 0, [Before::Create, Before::Publish][case / 2]);
        let shard = SimShard::new(7);
        if !empty {
            let (mut log, _) = owned(shard.vfs(), 1);
            log.commit(messages(1, "room:a", 3)).unwrap();
        }
        let vfs = Interrupted::new(shard.vfs());
        let other = shard.vfs();
        let overtake = move || {
            let (mut new, _) = owned(other, 2);
            go_on(&mut new);
        };
        *vfs.hook.lock() = Some((before, Box::new(overtake)));
        let mut log = SegmentedLog::open(vfs.clone(), small()).unwrap();
        match log.acquire(&fence(9), Acquire::default()) {
            Err(StoreError::Fenced { held, current }) => assert!(current < held),
            // Its file was tidied away: it looked again.
            Ok(acquired) if before == Before::Publish => assert!(acquired.range.first > 100),
            other => panic!("{before:?}: {other:?}"),
        }
        let names = shard.vfs().list().unwrap();
        assert!(!names.contains(&format!("{:016}.seg", u64::from(!empty))));
        // Nothing is left that stands in the way of the next attempt.
        let acquired = log.acquire(&fence(10), Acquire::default()).unwrap();
        assert!(acquired.range.first > 100);
    }
}

/// `StorageFull` says that what can be read is durable. Here it is not: the disk fills up after the
/// name was taken, and what the last owner wrote can not be written again.
#[test]
fn a_tail_that_can_not_be_made_durable_is_never_taken_for_readable() {
    for after in [Before::Create, Before::Publish] {
        let shard = SimShard::new(8);
        let (mut log, _) = owned(shard.vfs(), 1);
        log.commit(messages(1, "room:a", 3)).unwrap();
        drop(log);
        let vfs = Interrupted::new(shard.vfs());
        let full = vfs.full.clone();
        let fills_up = move || full.store(true, Relaxed);
        *vfs.hook.lock() = Some((after, Box::new(fills_up)));
        let mut log = SegmentedLog::open(vfs.clone(), small()).unwrap();
        match log.acquire(&fence(2), Acquire::default()) {
            Err(StoreError::Io { .. }) => {}
            other => panic!("{after:?}: {other:?}"),
        }
        vfs.full.store(false, Relaxed);
        log.acquire(&fence(3), Acquire::default()).unwrap();
        assert_eq!(messages_of(&log).len(), 3);
    }
}
