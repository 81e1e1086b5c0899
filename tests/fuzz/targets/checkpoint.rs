//! The state in a checkpoint.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_region_shard::fuzz::checkpoint(data));
