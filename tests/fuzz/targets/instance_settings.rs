//! The settings of an instance, as a directory keeps them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gb6_geo_config_plan::fuzz::instance_settings(data));
