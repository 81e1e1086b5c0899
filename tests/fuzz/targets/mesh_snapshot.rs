//! A placement snapshot as geo pushes it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_mesh::fuzz::snapshot(data));
