//! What an archive promises, with objects in memory.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests may.

mod changes;
mod contract;
mod faults;
mod faulty;
mod parsing;
mod tail_log;
