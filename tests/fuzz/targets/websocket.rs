//! Bytes of a WebSocket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_edge_node::fuzz::websocket(data));
