//! The ports `MapStore` and `Directory` on SQLite, for one machine, and on PostgreSQL, for several.
//!
//! Both engines run the same statements wherever their SQL allows, have the same migrations' meaning,
//! and pass the same contract suites; that replaces a check of statements at compile time.

#![forbid(unsafe_code)]

mod check;
mod config;
mod db;
mod directory;
mod fault;
#[cfg(feature = "postgres")]
mod hosts;
mod link;
#[cfg(feature = "postgres")]
mod listen;
mod map;
mod metrics;
mod migrate;
mod pool;
#[cfg(feature = "postgres")]
mod replica;
mod value;

pub use check::{Holds, check, check_lease};
pub use config::Config;
pub use directory::SqlDirectory;
pub use map::SqlMap;
