//! The sealed part of a shard's log in a `BlobStore`: segments, the manifest that names them, and
//! checkpoints.

#![forbid(unsafe_code)]
