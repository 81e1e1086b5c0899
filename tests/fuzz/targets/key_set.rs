//! A key set as a stranger's server sends it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::key_set(data));
