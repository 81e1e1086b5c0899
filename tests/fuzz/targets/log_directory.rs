//! A segment of a log, and what stands beside it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_region_stores_embedded::fuzz::directory_of(data));
