//! Clients over QUIC: one session on one bidirectional stream that the client opens, Protobuf
//! commands each behind its length. ALPN says that this protocol is meant.

mod carrier;
mod listener;
mod transport;

pub(crate) use listener::QuicListener;
pub(crate) use transport::ONE_WAY_STREAMS;

/// The protocol's name in ALPN.
pub(crate) const ALPN: &[u8] = b"gb6";
