//! The port `ShardLog` on Apache Kafka.

#![forbid(unsafe_code)]
