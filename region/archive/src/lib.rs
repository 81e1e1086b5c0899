//! The sealed part of a shard's log: the bytes of segments, indexes, checkpoints and lists of
//! consumers, which engines of logs share, and where they lie in a `BlobStore`.
//!
//! A log engine is its live part and an [`Archive`]: it seals ranges of committed records into it and
//! reads them from there again; what of `ShardLog` is about sealed records is answered by the archive.

#![forbid(unsafe_code)]

mod archive;
pub mod checkpoint;
mod checkpoints;
mod consumer_lists;
pub mod consumers;
mod copies;
pub mod format;
pub mod fuzz;
mod garbage;
pub mod index;
mod lru;
mod manifest;
mod metrics;
mod names;
mod object;
mod questions;
pub mod read;
pub mod read_at;
mod reading;
mod retention;
pub mod scan;
mod seal;
pub mod summary;
pub mod walk;
pub mod write;

pub use archive::{Archive, ArchiveConfig, Archives};
pub use copies::{ArchivedFile, ArchivedSegment, CopiedCheckpoint, CopiedSegment, Copies, Copy};
pub use questions::Question;
pub use read_at::ReadAt;
pub use retention::Live;
pub use seal::Sealer;
