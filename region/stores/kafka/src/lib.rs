//! The port `ShardLog` on Apache Kafka.

#![forbid(unsafe_code)]

mod client;
mod cluster;
mod config;
mod errors;
mod fetch;
mod follow;
pub mod frame;
pub mod fuzz;
mod kept;
mod live;
mod log;
mod metrics;
mod producer;
mod reading;
mod seal;
mod shared;
pub mod tail;
mod topics;

pub use cluster::{KafkaLogs, check};
pub use config::{Config, Security};
pub use log::KafkaShardLog;
pub use topics::Finding;
