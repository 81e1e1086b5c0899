//! A message between nodes, as a channel of Redis carries it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_region_stores_redis::fuzz::message(data));
