//! Integration tests of the mesh: one contract for both kinds of links, what only QUIC can meet,
//! certificates, the dialer, and the frame reader with its corpus.

#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod certs;
mod contract;
mod dialer;
mod framing;
mod handshake;
mod hostile;
mod memory;
mod proxy;
mod snapshot;
mod world;
