//! The contract of `ShardLog`.

use gb6_core_ports::contract;

use crate::cluster::{Region, Shard};

fn shard() -> Shard {
    Shard {
        logs: Region::new("").logs(),
    }
}

#[test]
fn the_contract_is_kept() {
    contract::log::all(shard);
}

#[test]
fn it_answers_as_the_reference_does() {
    for seed in 0..4 {
        contract::log_model::matches_the_reference(&shard(), seed, 120);
    }
}
