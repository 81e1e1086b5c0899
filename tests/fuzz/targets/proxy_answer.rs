//! The answer of an application's backend.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::proxy_answer(data));
