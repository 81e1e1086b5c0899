//! A region of several nodes over a shared map and shared logs. `GB6_SEED=n` runs one seed, `GB6_NODES=n`
//! that many (default 32, and a quarter of it for each course in which less goes wrong), from
//! `GB6_SEED_FROM` (default 1) on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gb6_tests_simulation::nodes::{Course, Fault, Outcome, Plan, run};

use crate::number;

fn one(test: &str, course: Course, seed: u64) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| run(&Plan { seed, course }))) {
        Ok(outcome) => outcome,
        Err(_) => panic!(
            "seed {seed} failed; repeat it with:\n  GB6_SEED={seed} cargo test -p gb6-tests-simulation --test it nodes::{test} -- --nocapture"
        ),
    }
}

/// The outcomes of a test that runs a `part` of [`GB6_NODES`](self).
fn all(test: &str, course: Course, part: u64) -> Vec<Outcome> {
    let seeds = match number("GB6_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("GB6_SEED_FROM").unwrap_or(1);
            let count = number("GB6_NODES").unwrap_or(32) / part;
            from..from + count.max(1)
        }
    };
    let outcomes: Vec<Outcome> = seeds.map(|seed| one(test, course, seed)).collect();
    if let [outcome] = outcomes.as_slice() {
        println!("{outcome:?}");
    }
    outcomes
}

fn sum(outcomes: &[Outcome], of: impl Fn(&Outcome) -> u64) -> u64 {
    outcomes.iter().map(of).sum()
}

fn max(outcomes: &[Outcome], of: impl Fn(&Outcome) -> u64) -> u64 {
    outcomes.iter().map(of).max().unwrap_or(0)
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost_and_every_shard_has_an_owner_again() {
    let test = "whatever_happens";
    let outcomes = all(test, Course::Anything, 1);
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for (fault, times) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *faults.entry(*fault).or_default() += times;
    }
    let acknowledged = sum(&outcomes, |o| o.acknowledged as u64);
    let reads = sum(&outcomes, |o| o.reads);
    let (fenced, late) = (sum(&outcomes, |o| o.fenced), sum(&outcomes, |o| o.late));
    let (confirmed, deposed) = (
        sum(&outcomes, |o| o.confirmed),
        sum(&outcomes, |o| o.deposed),
    );
    let count = outcomes.len() as u64;
    println!(
        "{count} seeds, {acknowledged} acknowledged publishes, {reads} reads, {fenced} batches of owners that had been replaced, {late} requests that came late, {confirmed} owners confirmed and {deposed} not, {} without an owner for {} ms at most, faults {faults:?}",
        sum(&outcomes, |o| o.failed),
        max(&outcomes, |o| o.unserved_ms)
    );
    assert!(
        acknowledged > 300 * count && reads > 200 * count,
        "the runs did hardly anything"
    );
    if count >= 20 {
        assert_eq!(faults.len(), Fault::ALL.len(), "every kind happened");
        assert!(
            fenced > count / 4 && late > count && confirmed > count && deposed > count / 4,
            "hardly anybody was replaced, or noticed it"
        );
        let (acquired, followed) = (
            sum(&outcomes, |o| o.acquired),
            sum(&outcomes, |o| o.followed),
        );
        assert!(acquired > 8 * count && followed > 2 * count);
        assert!(sum(&outcomes, |o| o.duplicates) > count);
    }
}

#[test]
fn the_shards_of_a_node_that_dies_are_served_again_in_time() {
    let outcomes = all("the_shards_of_a_node", Course::Deaths, 4);
    println!(
        "{} seeds, without an owner for {} ms at most, the slowest publish took {} ms",
        outcomes.len(),
        max(&outcomes, |o| o.unserved_ms),
        max(&outcomes, |o| o.slowest_ms)
    );
    assert_eq!(sum(&outcomes, |o| o.failed), 0, "nobody is told of it");
    // The lease, a change on its way, and the way of what is sent again.
    assert!(max(&outcomes, |o| o.slowest_ms) <= 3_000);
    assert!(max(&outcomes, |o| o.unserved_ms) > 1_000, "nobody died");
}

#[test]
fn moves_by_hand_drains_and_joins_cost_nobody_an_answer() {
    let outcomes = all("moves_by_hand", Course::Orderly, 4);
    println!(
        "{} seeds, without an owner for {} ms at most, the slowest publish took {} ms",
        outcomes.len(),
        max(&outcomes, |o| o.unserved_ms),
        max(&outcomes, |o| o.slowest_ms)
    );
    assert_eq!(sum(&outcomes, |o| o.failed), 0);
    assert!(
        max(&outcomes, |o| o.slowest_ms) <= 200,
        "a pause that is felt"
    );
    let count = outcomes.len() as u64;
    assert!(sum(&outcomes, |o| o.acquired) > 8 * count, "nothing moved");
}

#[test]
fn the_same_seed_gives_the_same_run_of_nodes() {
    for course in [Course::Anything, Course::Deaths, Course::Orderly] {
        let plan = Plan { seed: 5, course };
        assert_eq!(run(&plan), run(&plan));
    }
}
