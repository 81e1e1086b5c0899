//! One WebSocket connection: cutting its bytes into messages, queueing what goes out, and the
//! task that joins both to the session.
//!
//! Incoming frames are cut by [`reader`] instead of tungstenite's own codec, because that one
//! keeps for each connection a zero-filled read buffer and, for ever, the capacity of the largest
//! frame that the client once sent. The tests hold both against each other.

mod actions;
pub(crate) mod connection;
mod ending;
mod gather;
pub(crate) mod instance;
pub(crate) mod outbox;
mod ping;
pub(crate) mod reader;
