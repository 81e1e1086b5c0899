//! Host, origin, query and subprotocols of an upgrade.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::upgrade(data));
