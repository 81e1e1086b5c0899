//! `ShardLog`'s contract on a log that is a live part in memory and an archive.

use gb6_core_ports::contract::{log, log_model};

use crate::tail_log::TailStorage;

#[test]
fn a_log_on_an_archive_keeps_the_contract() {
    for seal_after in [0, 7, 40, 10_000] {
        log::all(|| TailStorage::new(seal_after, false));
    }
}

#[test]
fn a_log_on_an_archive_answers_as_the_reference_does() {
    for seed in 0..40 {
        let storage = TailStorage::new([0, 3, 20, 100][seed as usize % 4], seed % 8 < 4);
        log_model::matches_the_reference(&storage, seed, 150);
    }
}
