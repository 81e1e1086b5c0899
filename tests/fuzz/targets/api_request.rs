//! A request to the server API.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::api_request(data));
