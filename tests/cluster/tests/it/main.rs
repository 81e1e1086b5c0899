//! Real processes on a real kernel: killed, paused, cut off the power, out of disk and of files,
//! and clients that behave badly. What every client saw goes through the history checker.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod big_log;
mod crowd;
mod disk_use;
mod dropped;
mod index_lost;
mod limits;
mod lost_disk;
mod peers;
mod power;
mod presence;
mod rounds;
mod storage_full;
