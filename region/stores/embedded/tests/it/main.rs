//! The embedded engines: contracts on the real disk and on the simulated one, crashes, faults.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests may.

mod archived;
mod archived_twice;
mod contention;
mod contract;
mod crash;
mod damage;
mod disk;
mod faults;
mod inspect;
mod interrupted;
mod panics;
mod parsing;
mod recovery;
mod rewriting;
mod rooms;
mod signals;
