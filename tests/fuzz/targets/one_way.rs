//! What clients of one-way transports send, and what they are sent.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::one_way(data));
