//! Whole meshes under faults, seed by seed. `GB6_SEED=n` runs one seed, `GB6_SEEDS=n` that many
//! (default 500), from `GB6_SEED_FROM` (default 1) on; `GB6_FAULT_MS=n` puts n ms between two faults
//! in the mean, whatever the seed.

mod crowds;
mod links;
mod moving;
mod nodes;

use std::panic::{AssertUnwindSafe, catch_unwind};

use gb6_tests_simulation::{FaultKind, Outcome, Scenario, run};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    match value.parse() {
        Ok(n) => Some(n),
        Err(_) => panic!("{name}={value} is no number"),
    }
}

fn one(seed: u64) -> Outcome {
    let mut scenario = Scenario::everything(seed);
    let mut again = format!("GB6_SEED={seed}");
    if let Some(ms) = number("GB6_FAULT_MS") {
        scenario.fault_every_ms = ms.max(1);
        again += &format!(" GB6_FAULT_MS={ms}");
    }
    match catch_unwind(AssertUnwindSafe(|| run(&scenario))) {
        Ok(outcome) => outcome,
        Err(_) => panic!(
            "seed {seed} failed; repeat it with:\n  {again} cargo test -p gb6-tests-simulation --test it everything -- --nocapture"
        ),
    }
}

#[test]
fn everything_that_can_go_wrong() {
    if let Some(seed) = number("GB6_SEED") {
        println!("{:?}", one(seed));
        return;
    }
    let from = number("GB6_SEED_FROM").unwrap_or(1);
    let count = number("GB6_SEEDS").unwrap_or(500);
    let (mut acknowledged, mut stale_starts) = (0, 0);
    let (mut renewed, mut expired) = (0, 0);
    let (mut revoked, mut cut, mut drained) = (0, 0, 0);
    let mut hit = std::collections::BTreeMap::new();
    for seed in from..from + count {
        let outcome = one(seed);
        acknowledged += outcome.acknowledged;
        stale_starts += outcome.stale_starts;
        renewed += outcome.renewed;
        expired += outcome.expired;
        revoked += outcome.revoked;
        cut += outcome.cut;
        drained += outcome.drained;
        for (kind, times) in outcome.faults {
            *hit.entry(kind).or_insert(0) += times;
        }
    }
    println!(
        "{count} seeds, {acknowledged} acknowledged publishes, {stale_starts} starts by an old placement, {renewed} tokens renewed and {expired} not, {revoked} revocations, {cut} connections cut off, {drained} drains, faults {hit:?}"
    );
    assert!(
        acknowledged as u64 > count * 100,
        "the runs did hardly anything"
    );
    if count >= 100 {
        assert_eq!(
            hit.len(),
            FaultKind::ALL.len(),
            "every kind of fault happened"
        );
        assert!(
            stale_starts > count / 10,
            "hardly anybody started by an old placement: {stale_starts}"
        );
        assert!(
            renewed > count && expired > count,
            "hardly any token was renewed, or hardly any was not: {renewed}, {expired}"
        );
        assert!(
            revoked > count / 4 && cut > count / 20 && drained > count / 4,
            "hardly anything was revoked, nobody cut off, or no edge drained"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 77] {
        let scenario = Scenario::everything(seed);
        assert_eq!(run(&scenario), run(&scenario));
    }
}

/// The links of the run see to it themselves: what is handled out of its place fails it.
#[test]
fn pauses_that_meet_or_end_early_leave_everything_in_its_order() {
    for seed in 1..=10 {
        run(&Scenario {
            faults: vec![FaultKind::RegionPauses, FaultKind::EdgePauses],
            fault_every_ms: 400,
            ..Scenario::everything(seed)
        });
    }
}
