//! A region of three nodes on real engines (Kafka, PostgreSQL, Redis, PD with a double of TiKV, a double
//! of S3), real processes all of them: killed, paused, cut off, slowed down and left without space under
//! load. What every client saw goes through the history checker.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod brokers;
mod cells;
mod check;
mod consumers;
mod directory;
mod disk_full;
mod faults;
mod full;
mod lost_disk;
mod matrix;
mod node_disk;
mod old;
mod pauses;
mod promoted;
mod rounds;
mod run;
mod seen;
mod statuses;
mod world;
