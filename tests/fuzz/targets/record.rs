//! A record of a log.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::record(data));
