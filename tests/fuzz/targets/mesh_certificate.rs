//! The certificate of a peer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_mesh::fuzz::certificate(data));
