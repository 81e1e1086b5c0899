//! The machines of an edge from outside: a hub against a naive model of a shard's owner, a session
//! against a naive model of its rules, and both rule by rule.

// A test that can not go on has failed.
#![allow(clippy::unwrap_used)]

mod client;
mod hub_bounds;
mod hub_cache;
mod hub_delivery;
mod hub_ends;
mod hub_erase;
mod hub_fills;
mod hub_introduce;
mod hub_model;
mod hub_prefix;
mod hub_queries;
mod hub_reads;
mod hub_rules;
mod hub_signals;
mod hub_users;
mod owner;
mod session_asking;
mod session_delivery;
mod session_granted;
mod session_model;
mod session_naive;
mod session_one_way;
mod session_permissions;
mod session_person;
mod session_prediction;
mod session_prefix;
mod session_rooms;
mod session_rules;
mod session_server;
mod session_tokens;
