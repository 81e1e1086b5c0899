//! Power cuts at every step: what was acknowledged survives, nothing is doubled or reordered.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{message, messages};
use gb6_core_ports::{Acquire, StoreError};
use gb6_region_stores_embedded::SegmentedLog;
use proptest::prelude::*;

use crate::disk::{SimShard, messages_of, owned, small, try_messages_of};

/// What a client was told: its message's offset is its number, from 1.
#[derive(Default)]
struct History {
    /// Numbers below this were acknowledged.
    acknowledged: u64,
    /// Numbers below this were ever written.
    sent: u64,
}

/// Writes batches until the power goes or `batches` are done. Messages go on behind what the log
/// holds, as an owner that replays its log would do.
fn write_until_the_power_goes(
    shard: &SimShard,
    random: &mut Random,
    history: &mut History,
    incarnation: u64,
    batches: u64,
) -> Result<(), StoreError> {
    let mut log = SegmentedLog::open(shard.vfs(), small())?;
    let fence = gb6_core_ports::Fence {
        owner_incarnation: gb6_core_model::Incarnation(incarnation),
        ..gb6_core_ports::contract::log::fence(log.epoch().0 + 1)
    };
    let mut next = log.acquire(&fence, Acquire::default())?.range.next;
    let held = try_messages_of(&log)?.len() as u64;
    assert!(
        held >= history.acknowledged,
        "{held} < {}",
        history.acknowledged
    );
    let mut number = held;
    for _ in 0..batches {
        let count = 1 + random.below(5);
        let batch: Vec<_> = (0..count)
            .map(|n| {
                message(
                    next + n,
                    "room:a",
                    number + n + 1,
                    random.below(900) as usize,
                )
            })
            .collect();
        history.sent = history.sent.max(number + count);
        log.commit(batch)?;
        number += count;
        next += count;
        history.acknowledged = number;
        if random.below(3) == 0 {
            log.run_jobs()?;
        }
        match random.below(40) {
            0 => {
                log.seal_around(next - 1)?;
            }
            1 => {
                let state = number.to_le_bytes();
                log.reader().save_checkpoint(next, &state)?;
            }
            2 => rewrite_one(&mut log, random)?,
            _ => {}
        }
    }
    Ok(())
}

/// Rewrites a sealed segment without dropping a message.
fn rewrite_one<V: gb6_region_stores_embedded::Vfs>(
    log: &mut SegmentedLog<V>,
    random: &mut Random,
) -> Result<(), StoreError> {
    use gb6_core_ports::Retain;
    use gb6_core_wire::record::Kind;

    let position = random.below(log.range().next);
    if let Some(segment) = log.seal_around(position)? {
        let keep = &mut |r: &gb6_core_wire::record::Record| match r.kind() {
            Kind::Acquire => Retain::Drop,
            _ => Retain::Keep,
        };
        let rewritten = log.reader().prepare_rewrite(segment, keep)?;
        log.install(rewritten)?;
    }
    Ok(())
}

fn check(shard: &SimShard, history: &History) {
    let (log, _) = owned(shard.vfs(), 0xfeed);
    let held = messages_of(&log);
    let count = held.len() as u64;
    assert!(
        (history.acknowledged..=history.sent).contains(&count),
        "{count} messages, {} acknowledged, {} sent",
        history.acknowledged,
        history.sent
    );
    for (n, record) in held.iter().enumerate() {
        let number = n as u64 + 1;
        let whole = message(record.position, "room:a", number, record.body.len());
        assert_eq!(record.offset, number, "doubled, lost or reordered");
        assert_eq!(record.body, whole.body, "a body changed");
    }
    if let Some((position, state)) = log.reader().load_checkpoint().expect("load") {
        assert!(position <= log.range().next);
        assert_eq!(state.len(), 8);
    }
}

fn lives(seed: u64, lives: u64) {
    let mut random = Random::new(seed);
    let mut shard = SimShard::new(seed);
    let mut history = History::default();
    for life in 0..lives {
        shard.0.cut_power_in(1 + random.below(150));
        if random.below(4) == 0 {
            shard.0.fail_sync_in(random.below(30));
        }
        let ended = write_until_the_power_goes(&shard, &mut random, &mut history, life + 1, 40);
        if let Err(error) = &ended {
            assert!(
                !matches!(
                    error,
                    StoreError::Corrupt { .. } | StoreError::Conflict { .. }
                ),
                "seed {seed}, life {life}: {error}"
            );
        }
        // A process that dies leaves the system's memory; a power cut does not.
        if random.below(3) > 0 {
            shard = SimShard(shard.0.power_cut());
        } else {
            shard.0.cut_power_in(u64::MAX);
        }
    }
    check(&SimShard(shard.0.power_cut()), &history);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_records_survive_power_cuts(seed: u64) {
        lives(seed, 5);
    }
}

#[test]
fn a_crash_at_every_single_step_of_a_start_and_a_few_commits() {
    // Counted once without a crash, then cut at each step.
    let total = {
        let shard = SimShard::new(1);
        let mut history = History::default();
        write_until_the_power_goes(&shard, &mut Random::new(1), &mut history, 1, 30).unwrap();
        shard.0.operations()
    };
    assert!(total > 60, "{total}");
    for step in 0..total {
        let shard = SimShard::new(step);
        shard.0.cut_power_in(step);
        let mut history = History::default();
        let ended = write_until_the_power_goes(&shard, &mut Random::new(1), &mut history, 1, 30);
        assert!(ended.is_err(), "step {step} of {total} was not reached");
        check(&SimShard(shard.0.power_cut()), &history);
    }
}

#[test]
fn an_acknowledged_checkpoint_survives_a_power_cut() {
    for seed in 0..40 {
        let shard = SimShard::new(seed);
        let (mut log, _) = owned(shard.vfs(), 1);
        log.commit(messages(1, "room:a", 9)).unwrap();
        for position in [3, 6, 9] {
            let state = vec![position as u8; 9000];
            log.reader().save_checkpoint(position, &state).unwrap();
        }
        let after = SimShard(shard.0.power_cut());
        let log = SegmentedLog::open(after.vfs(), small()).unwrap();
        let found = log.reader().load_checkpoint().unwrap();
        assert_eq!(found, Some((9, vec![9; 9000])), "seed {seed}");
    }
}

#[test]
fn a_trim_that_a_power_cut_interrupts_leaves_no_hole() {
    for seed in 0..200 {
        let shard = SimShard::new(seed);
        let (mut log, _) = owned(shard.vfs(), 1);
        let mut next = 1;
        for _ in 0..25 {
            next = log.commit(messages(next, "room:a", 20)).unwrap().next;
            log.run_jobs().unwrap();
        }
        shard.0.cut_power_in(seed % 20);
        let trimmed = log.trim(next - 1);
        let after = SimShard(shard.0.power_cut());
        let log = SegmentedLog::open(after.vfs(), small()).unwrap();
        // What was answered is gone for good; what is left is whole up to the end.
        if let Ok(first) = trimmed {
            assert_eq!(log.range().first, first, "seed {seed}");
        }
        assert_eq!(log.range().next, next, "seed {seed}");
        let held = messages_of(&log);
        let first = log.range().first.max(1);
        assert_eq!(held.len() as u64, next - first, "seed {seed}");
    }
}
