//! Equipment of the end-to-end tests: a checker of recorded histories, a TCP proxy that misbehaves
//! on demand, server processes and engines that can be killed and paused, and a small recording client.
//!
//! Nothing here decides what a test means; it only makes servers run and fail, and says whether
//! what clients saw keeps the promises.

pub mod client;
pub mod engines;
pub mod history;
pub mod process;
pub mod proxy;
