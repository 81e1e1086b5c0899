//! The sealed part of a shard's log: the bytes of segments, indexes, checkpoints and lists of
//! consumers, which engines of logs share, and where they lie in a `BlobStore`.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod consumers;
pub mod format;
pub mod index;
pub mod read;
pub mod read_at;
pub mod scan;
pub mod summary;
pub mod walk;
pub mod write;

pub use read_at::ReadAt;
