//! The shard machine: ordering, dedupe, delivery, presence and retention of one shard, without
//! I/O, clock or randomness.
//!
//! State is a fold of the shard's log ([`Shard::replay`] and [`Shard::committed`] use the same
//! function) plus what edges report under a lease (attachments, interest, presence). The driver
//! feeds frames and time, appends each [`Batch`] to the log, reports its fate, and carries out
//! every [`Output`]. One batch is in flight at a time: what arrives meanwhile forms the next one,
//! which is the group commit.
//!
//! Times: `now_ms` is monotonic, `unix_ms` is the wall clock and only ever ends up in records.

mod batch;
mod checkpoint;
mod commit;
mod dedupe;
mod edges;
pub mod fuzz;
mod history;
mod inbox;
mod machine;
mod numbers;
mod ownership;
mod prefixes;
mod presence;
mod removal;
mod retention;
mod room;
mod sessions;
mod share;
mod signals;
mod statuses;
mod trace;
mod users;

pub use batch::{Admin, AdminOutcome, AppendFailure, Batch};
pub use checkpoint::CheckpointError;
pub use history::HistoryRead;
pub use machine::{Counters, Gauges, LinkId, Output, Shard, ShardConfig};
pub use statuses::StatusAsked;
pub use trace::SyncStats;
