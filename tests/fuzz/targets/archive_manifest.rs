//! The manifest of an archive, and its list of consumers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    gb6_region_archive::fuzz::manifest(data);
    gb6_region_archive::fuzz::consumers(data);
});
