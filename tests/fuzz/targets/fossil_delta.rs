//! A fossil delta, and what it is for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::fossil_delta(data));
