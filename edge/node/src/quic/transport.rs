//! The bounds of a client's QUIC connection, each with its reason.

use std::sync::Arc;
use std::time::Duration;

use gb6_edge_session::SessionConfig;
use quinn::{IdleTimeout, ServerConfig, TransportConfig, VarInt};

/// Bytes that a client may send ahead of its session, on a stream and on all of them: what a read
/// takes at once. A larger command comes in several windows.
const RECEIVE_WINDOW: u32 = 64 * 1024;
/// Bytes that may be written and not yet acknowledged. Behind it the outbox fills, whose bound
/// decides who is slow.
const SEND_WINDOW: u64 = 256 * 1024;
/// Bytes of datagrams that are kept: nothing reads any.
const DATAGRAM_BYTES: usize = 2048;
/// Bytes of the handshake that may come out of order.
const CRYPTO_BYTES: usize = 8 * 1024;
/// A client that was not heard of for so long is gone, where pings are further apart or none are.
const IDLE_LEAST: Duration = Duration::from_secs(60);
/// How often a client that is sent no pings is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Connections that wait to be accepted, and bytes that are kept of each and of all.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES: u64 = 8 * 1024;
const INCOMING_BYTES_ALL: u64 = 1024 * 1024;

/// Bytes asked for as buffers of the socket: a burst of clients overruns the usual 200 KiB. The
/// system may give less.
pub(super) const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// From so many handshakes in progress on, a new address must first prove that it is one
/// (RFC 9000 section 8.1): those of forged addresses then cost no state and no signature.
pub(super) const HANDSHAKES_UNPROVEN_MAX: usize = 64;

/// One-way streams that a client may open before its protocol is known: browsers end a handshake
/// that grants them fewer than HTTP/3 needs (RFC 9114 section 6.2). A session over QUIC ends with
/// the first of them.
pub(crate) const ONE_WAY_STREAMS: u32 = 3;

/// One bidirectional stream and no other that is of use.
pub(super) fn bounds(server: &mut ServerConfig, sessions: &SessionConfig) {
    let mut transport = TransportConfig::default();
    let ping = Duration::from_millis(sessions.ping_interval_ms);
    let pong = Duration::from_millis(sessions.pong_timeout_ms);
    // A session whose client does not answer ends before that, with its code.
    let idle = (2 * (ping + pong)).max(IDLE_LEAST);
    let idle = IdleTimeout::try_from(idle).unwrap_or(IdleTimeout::from(VarInt::from_u32(u32::MAX)));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(ONE_WAY_STREAMS))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BYTES)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(ping.is_zero().then_some(KEEP_ALIVE));
    server
        .transport_config(Arc::new(transport))
        // A phone that changes its network keeps its session.
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_ALL);
}
