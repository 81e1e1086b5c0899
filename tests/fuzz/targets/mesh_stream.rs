//! Bytes of a mesh stream, cut into frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_mesh::fuzz::stream(data));
