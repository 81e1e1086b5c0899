//! A frame of a client, in both dialects.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::client_frame(data));
