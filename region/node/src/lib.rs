//! The driver of a region node: runs the shard machines on real logs and real links.
//!
//! One actor per shard owns its machine. It appends batches to the shard's log, one in flight at
//! a time, answers and delivers when they are durable, and never waits for an edge, a history
//! read or the index: those are bounded tasks beside it.

#![forbid(unsafe_code)]

mod accept;
mod assignments;
mod beats;
mod bodies;
mod catch_ups;
mod checkpoints;
mod checks;
mod consumers;
mod events;
mod history;
mod housekeeping;
mod indexer;
mod keeper;
mod lease;
mod limits;
mod metrics;
mod missing_keys;
mod news;
mod outputs;
mod panics;
mod places;
mod positions;
mod recent;
mod recoveries;
mod recovery;
mod regain;
mod region;
mod relay;
mod retention;
mod signals;
mod standby;
mod statuses;
mod store;
mod table;
mod tail;
mod trouble;
mod turns;
mod webhooks;
mod worker;

pub use bodies::{KeyLook, KeySource, RecordKeys};
pub use events::Events;
pub use lease::Clock;
pub use region::{OpenLog, Region, RegionConfig, RegionDeps, RegionEnd, RegionError};
pub use statuses::StatusEngines;
