//! What the tests of real processes need from the machine: rounds and seeds from the environment,
//! file systems of their own, large logs; and clients at work with the check of what they saw.

mod disk;
mod fill;
pub mod load;
mod lost_disk;
mod rounds;

pub use disk::{Disk, DiskError, Volume};
pub use fill::{Filled, Filling, fill};
pub use lost_disk::lost_disk;
pub use rounds::{Rounds, raise_file_limit};
