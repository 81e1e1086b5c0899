//! What needs no server.

mod config;
mod local;
