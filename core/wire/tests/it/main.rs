//! Tests of the wire formats through their public interface: golden bytes, round trips, hostile
//! bytes.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

mod client_golden;
mod client_json;
mod client_live;
mod client_one_way;
mod client_property;
mod client_strategies;
mod corpus;
mod mesh;
mod record;
mod session_record;
