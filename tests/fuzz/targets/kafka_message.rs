//! A message of a shard's partition on Kafka.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gb6_region_stores_kafka::fuzz::message(bytes));
