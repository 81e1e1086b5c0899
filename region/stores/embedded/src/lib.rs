//! The embedded engines: `ShardLog` as a segmented log of our own, `RoomStore` on an embedded
//! ordered store. One directory holds both; one process at a time has it open.

mod archived;
mod data_dir;
#[cfg(any(test, feature = "sim"))]
pub mod fuzz;
mod inbox;
pub mod inspect;
pub mod log;
mod real_vfs;
mod rooms;
mod rooms_handle;
mod shard_log;
mod signals;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
mod vfs;

pub use archived::{ArchivedShardLog, Archiving, Overlay, OverlayFile};
pub use data_dir::DataDir;
pub use gb6_region_archive::ReadAt;

pub use log::{LoadNote, LogConfig, LogReader, SegmentedLog, TailNote};
pub use real_vfs::{RealFile, RealVfs};
pub use rooms::{FjallRooms, RoomsConfig};
pub use shard_log::{EmbeddedShardLog, LogStats};
pub use signals::LocalSignals;
pub use vfs::{Vfs, VfsFile};
