//! The snapshot file, from outside: what is read, what is refused and in which words.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where something is missing"
)]

mod accepted;
mod demo;
mod dev;
mod directory;
mod keys;
mod proxies;
mod refused;
mod statuses;
mod webhooks;

use gb6_core_model::snapshot::Snapshot;
use gb6_geo_config_plan::{EXAMPLE, Problems, read_snapshot};

/// Long enough for a key.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Reads a text whose every `secret_file` exists.
pub(crate) fn read(text: &str) -> Result<Snapshot, Problems> {
    read_snapshot(text, 7, |_| Ok(format!("{SECRET}\n")))
}

/// The example with one piece of text changed.
pub(crate) fn example_with(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from:?} is not in the example");
    EXAMPLE.replacen(from, to, 1)
}
