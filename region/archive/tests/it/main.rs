//! What an archive promises, with objects in memory.

mod contract;

mod faults;
mod faulty;
mod tail_log;
