//! Deterministic simulation: clients, edges, regions, links and a disk in one thread, in virtual
//! time, from one seed.
//!
//! What runs is the product's own code wherever a decision is made: the session and hub machines
//! of edges, their followers of revocations and paces of connects, the shard machine, and the
//! segmented log on a simulated disk. What is simulated is what a driver does: delays, orders,
//! losses, pauses, deaths. The same seed gives the same run.

mod check;
mod client;
mod connections;
mod crowds;
mod edge;
mod fault;
mod geo;
mod ledger;
pub mod moving;
pub mod network;
pub mod nodes;
mod pause;
mod process;
mod publishing;
mod region;
mod rest;
mod revocations;
mod rng;
mod scenario;
mod tokens;
mod world;

pub use fault::FaultKind;
pub use scenario::{Outcome, Scenario};
pub use world::run;
