//! What an archive promises, with objects in memory.

mod contract;

mod tail_log;
