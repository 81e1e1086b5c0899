//! Load generator, floors and peers: what stands behind `gb6 bench` and `make bench`.
//!
//! The load runs in a process of its own, beside the server. Servers that a run starts listen on
//! loopback only and end with the run.

mod all;
pub mod args;
mod clock;
mod codec;
mod delta;
mod floor;
mod histogram;
mod load;
mod payload;
mod process;
mod report;
mod run;
mod secure;
mod subject;
mod swarm;
mod ws;

#[cfg(test)]
mod tests;

pub use args::Bench;
pub use codec::Method;
pub use run::run;
pub use secure::Carrier;
