//! Clients over WebTransport (draft-ietf-webtrans-http3): HTTP/3 on the same UDP port, far enough to
//! accept one session at `/connection/webtransport`, whose one bidirectional stream carries the
//! client protocol. Its messages are read and written by `web-transport-proto`; the streams are
//! quinn's own, so that their bounds and deadlines are ours.

mod carrier;
mod handshake;

pub(crate) use handshake::{accept, too_late};

/// The protocol's name in ALPN: HTTP/3.
pub(crate) const ALPN: &[u8] = b"h3";
