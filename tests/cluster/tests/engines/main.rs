//! A region of three nodes on real engines (Kafka, PostgreSQL, Redis, PD with a double of TiKV), real
//! processes all of them: killed, paused, cut off and slowed down under load. What every client saw goes
//! through the history checker.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod matrix;
mod pauses;
mod rounds;
mod world;
