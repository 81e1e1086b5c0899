//! Tests of the shard machine through its public interface.

mod dedupe;
mod frames;
mod fuzz;
mod history;
mod prefixes;
mod presence;
mod publish_model;
mod sessions;
mod signals;
mod statuses;
mod users;
mod versions;
mod world;
