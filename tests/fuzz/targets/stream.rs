//! Bytes of a stream of commands.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::stream(data));
