//! The embedded engines: contracts on the real disk and on the simulated one, crashes, faults.

mod contract;
mod crash;
mod disk;
mod faults;
mod inspect;
mod parsing;
mod recovery;
mod rooms;
