//! What the tests of real processes need from the machine: rounds and seeds from the environment,
//! and file systems of their own.

mod disk;
mod rounds;

pub use disk::{Disk, DiskError, Volume};
pub use rounds::{Rounds, raise_file_limit};
