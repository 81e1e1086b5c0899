//! A frame of the mesh.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_core_wire::fuzz::mesh_frame(data));
