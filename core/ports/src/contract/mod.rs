//! Contract suites: what every engine of a port must pass, against the real engine. They panic
//! where an engine breaks its promise, so they are called from tests.

pub mod blobs;
mod blobs_shared;
pub mod directory;
pub mod limiter;
pub mod log;
pub mod log_model;
mod log_space;
pub mod map;
pub mod people;
pub mod rooms;
pub mod signals;
pub mod temporary;

/// SplitMix64: the suites' only source of chance, the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence that follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or(0)
    }
}
