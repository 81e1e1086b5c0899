//! `ShardLog`'s contract on the real disk and on the simulated one.

use gb6_core_ports::contract::{log, log_model};

use crate::disk::{RealShard, SimShard};

#[test]
fn the_log_keeps_its_contract_on_a_real_disk() {
    log::all(RealShard::new);
}

#[test]
fn the_log_keeps_its_contract_on_a_simulated_disk() {
    let mut seed = 0;
    log::all(|| {
        seed += 1;
        SimShard::new(seed)
    });
}

#[test]
fn the_log_answers_as_the_reference_does() {
    for seed in 0..30 {
        log_model::matches_the_reference(&SimShard::new(seed), seed, 150);
    }
    for seed in 100..103 {
        log_model::matches_the_reference(&RealShard::new(), seed, 150);
    }
}
