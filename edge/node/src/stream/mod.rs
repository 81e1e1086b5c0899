//! Streams of bytes that have no frames of their own: QUIC and WebTransport streams, endless
//! response bodies. Protobuf messages stand there each behind its length, JSON messages each on a
//! line.

pub(crate) mod framing;
pub(crate) mod reader;
#[cfg(test)]
mod reader_tests;
