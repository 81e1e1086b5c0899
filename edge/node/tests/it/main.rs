//! The edge against real sockets, with a shard owner of a few lines behind a link in memory.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can not go on fails where it stands"
)]

mod api;
mod api_users;
mod backend;
mod backlog;
mod bad_input;
mod body;
mod chat;
mod child;
mod client;
mod drain;
mod emulation;
mod ending;
mod files;
mod frames;
mod fuzz;
mod half_open;
mod http;
mod key_sets;
mod limits;
mod memory;
mod origins;
mod owner;
mod owners;
mod prefixes;
mod presence;
mod proxies;
mod quic;
mod relay;
mod removed;
mod revocations;
mod session_ends;
mod slow;
mod statuses;
mod streams;
mod streams_hostile;
mod subscriptions;
mod tls;
mod tokens;
mod upgrade;
mod users;
mod webtransport;
mod world;
