//! One client connection, whatever carries it: what goes out is queued, what comes in is cut into
//! messages, and a task joins both to the session.
//!
//! Three parts meet here. A [`carrier`] moves bytes: TCP, TLS, a QUIC stream, a response body. A
//! [`framing`] says how messages stand in those bytes, in both directions. The [`driver`] between
//! them is the same for all: it is compiled once for each pair that is used, so that the plain
//! WebSocket pays nothing for the others.

mod actions;
mod asking;
pub(crate) mod batch;
pub(crate) mod carrier;
pub(crate) mod driver;
mod due;
mod ending;
pub(crate) mod framing;
mod gather;
pub(crate) mod handle;
pub(crate) mod instance;
pub(crate) mod outbox;
mod taking;
pub(crate) mod transport;
mod verify;
mod waiting;
