//! The claims of a token whose signature is good.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::claims(data));
