//! The ports `Signals` and `RateLimiter` on Redis.

#![forbid(unsafe_code)]
