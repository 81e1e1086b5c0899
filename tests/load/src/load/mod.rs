//! The loads that a subject is put under, and what is measured under each.

pub(crate) mod fairness;
pub(crate) mod fanout;
pub(crate) mod figures;
pub(crate) mod idle;
pub(crate) mod publish;
pub(crate) mod reconnect;
pub(crate) mod revoke;
mod storm;

use std::time::Duration;

use crate::payload::Random;

/// How long what is in flight may take when a run ends.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// What comes later than this after the end of a run's load is late.
pub(crate) const LATE: Duration = Duration::from_millis(1500);
/// Connections that are being set up at any time, where the setup is not what is measured.
pub(crate) const SETUP_AT_ONCE: usize = 128;

/// A name unlike those of other runs, so that every run has fresh rooms.
pub(crate) fn run_name() -> String {
    let mut seed = [0; 8];
    // Without the system's randomness runs would share rooms, which only makes them longer.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
    format!("{:08x}", Random::new(u64::from_ne_bytes(seed)).next() >> 32)
}
