//! The equipment itself is tested without a GB6 server: the proxy against an echo, processes
//! against small programs. The client is tested by what uses it, against real servers.

#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

mod process;
mod proxy;
