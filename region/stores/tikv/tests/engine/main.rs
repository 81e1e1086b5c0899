//! The room store against a running PD and store: `make test-engines` starts them.

#![allow(clippy::unwrap_used)] // Helpers of tests may panic as tests may.

mod contract;
mod engine;
mod lost;
mod parts;
mod shared;
mod sweeping;
