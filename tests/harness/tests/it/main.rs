//! The equipment itself is tested without a GB6 server: the proxy against an echo, processes
//! against small programs, the client against a stub of the protocol.

#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod process;
mod proxy;
