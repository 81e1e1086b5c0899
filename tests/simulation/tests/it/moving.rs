//! One instance moves into another log while it and others are written. `GB6_SEED=n` runs one
//! seed, `GB6_MOVES=n` that many (default 100), from `GB6_SEED_FROM` (default 1) on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gb6_tests_simulation::moving::{Death, Move, Moved, run};

use crate::number;

fn one(seed: u64) -> Moved {
    match catch_unwind(AssertUnwindSafe(|| run(&Move::of(seed)))) {
        Ok(moved) => moved,
        Err(_) => panic!(
            "seed {seed} failed; repeat it with:\n  GB6_SEED={seed} cargo test -p gb6-tests-simulation --test it moving -- --nocapture"
        ),
    }
}

#[test]
fn an_instance_moves_into_another_log_and_the_others_never_stall() {
    if let Some(seed) = number("GB6_SEED") {
        println!("{:?}", one(seed));
        return;
    }
    let from = number("GB6_SEED_FROM").unwrap_or(1);
    let count = number("GB6_MOVES").unwrap_or(100);
    let (mut duplicates, mut repeated, mut moving, mut closed_max) = (0, 0, 0, 0);
    for seed in from..from + count {
        let moved = one(seed);
        assert!(
            moved.slowest_during_ms <= 3 * moved.slowest_before_ms,
            "seed {seed}: who does not move waits: {moved:?}"
        );
        assert!(
            moved.records.0 > 50 && moved.records.1 > 50 && moved.measured_during > 50,
            "seed {seed}: hardly anything happened: {moved:?}"
        );
        if Move::of(seed).death == Death::Nobody {
            assert!(
                moved.closed_ms < 500,
                "seed {seed}: shut for long: {moved:?}"
            );
        }
        closed_max = closed_max.max(moved.closed_ms);
        duplicates += moved.duplicates;
        repeated += moved.repeated;
        moving += moved.moving;
    }
    println!(
        "{count} moves, {moving} publishes told to wait, {duplicates} duplicates, {repeated} records repeated, shut for {closed_max} ms at most"
    );
    if count >= 50 {
        assert!(moving > 0 && duplicates > 0 && repeated > 0);
    }
}

#[test]
fn the_same_move_gives_the_same_run() {
    for seed in 1..=4 {
        assert_eq!(run(&Move::of(seed)), run(&Move::of(seed)));
    }
}
