//! A tags filter of a subscribe.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::tags_filter(data));
