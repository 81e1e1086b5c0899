//! In-memory engines of the ports: the reference that contract suites and simulations compare
//! against. Nothing survives the process; [`crate::Durability::Memory`] says so. The rate limiter is
//! also what an embedded region uses: what it knows is worth nothing after a restart.

mod blobs;
mod directory;
mod events;
mod limiter;
mod log;
mod map;
mod people;
mod rooms;
mod temporary;

pub use blobs::MemoryBlobs;
pub use directory::MemoryDirectory;
pub use events::MemoryEvents;
pub use limiter::MemoryRateLimiter;
pub use log::{MemoryLog, MemoryLogConfig, MemoryStorage};
pub use map::MemoryMap;
pub use people::MemoryPeople;
pub use rooms::MemoryRooms;
pub use temporary::MemoryTemporary;
