//! WebSockets (RFC 6455): cutting a client's bytes into messages, pings of that layer, and the
//! framing that they make.
//!
//! Incoming frames are cut by [`reader`] instead of tungstenite's own codec, because that one
//! keeps for each connection a zero-filled read buffer and, for ever, the capacity of the largest
//! frame that the client once sent. The tests hold both against each other.

pub(crate) mod framing;
pub(crate) mod ping;
pub(crate) mod reader;
