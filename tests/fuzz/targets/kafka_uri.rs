//! The URI of a log on Kafka.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gb6_region_stores_kafka::fuzz::uri(bytes));
