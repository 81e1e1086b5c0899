//! The ports on SQLite: the contract suites on a real file, and what is particular to the engine.

#![allow(clippy::unwrap_used)]

mod directory;
mod map;
