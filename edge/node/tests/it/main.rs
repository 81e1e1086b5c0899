//! The edge against real sockets, with a shard owner of a few lines behind a link in memory.

mod bad_input;
mod chat;
mod client;
mod drain;
mod files;
mod half_open;
mod http;
mod owner;
mod slow;
mod tokens;
mod upgrade;
mod world;
