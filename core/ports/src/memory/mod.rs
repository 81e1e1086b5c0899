//! In-memory engines of the ports: the reference that contract suites and simulations compare
//! against. Nothing survives the process; [`crate::Durability::Memory`] says so.

mod log;
mod rooms;

pub use log::{MemoryLog, MemoryLogConfig, MemoryStorage};
pub use rooms::MemoryRooms;
