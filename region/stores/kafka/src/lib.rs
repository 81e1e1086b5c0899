//! The ports `ShardLog` and `EventSink` on Apache Kafka (`docs/kafka.md`).

#![forbid(unsafe_code)]

mod chores;
mod client;
mod cluster;
mod config;
mod confirms;
mod ends;
mod errors;
mod events;
mod fetch;
pub mod frame;
pub mod fuzz;
mod hearing;
mod kept;
mod lanes;
mod live;
mod log;
mod metrics;
mod producer;
mod reading;
mod rights;
mod seal;
mod share;
mod shared;
mod speaks;
mod staging;
pub mod tail;
mod topics;

pub use cluster::{KafkaLogs, check, check_events};
pub use config::{Config, Security};
pub use events::KafkaEvents;
pub use log::KafkaShardLog;
pub use topics::Finding;
