//! The ports `Signals`, `RateLimiter`, `PeopleStatus` and `Temporary` on Redis 7 or later: one server or a cluster, with or without
//! TLS. What is here may be lost at any time: while Redis is gone every call fails within its deadline,
//! most of them at once, and what depends on it goes on without. Nothing is restarted when it is back.

#![forbid(unsafe_code)]

mod check;
mod config;
mod connect;
mod followers;
pub mod fuzz;
mod keys;
mod limiter;
mod link;
mod metrics;
mod people;
mod script;
mod signals;
mod temporary;
mod topics;

pub use check::{Purpose, check};
pub use config::Config;
pub use limiter::RedisLimiter;
pub use people::RedisPeople;
pub use signals::RedisSignals;
pub use temporary::RedisTemporary;
