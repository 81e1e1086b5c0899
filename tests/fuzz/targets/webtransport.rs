//! What a WebTransport client says in HTTP/3.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::webtransport(data));
