//! The bounds and times of a link, each with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// How often an idle side says that it is there. A third of [`IDLE_TIMEOUT`], so that two lost
/// packets do not end a link.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// After this silence the path or the peer counts as failed. Below the lease of an edge (10 s), so
/// that an edge whose path broke can come back before its people are gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a handshake with its hello may take, each side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening a stream may take, and how long its first frame may trickle.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long what was written before the sender was dropped may take to be acknowledged.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of one stream that the peer may send ahead of the reader: 13 MB/s at 150 ms round trip.
pub const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes of all streams that the peer may send ahead of the readers: sixteen stalled streams do
/// not yet stop the others, and a link's memory is bounded by it.
pub const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Bytes written and not yet acknowledged, over all streams. What lies here is beyond the
/// reach of the priority lanes, so it is no larger than a wide-area path needs.
pub const SEND_WINDOW: u64 = 4 * 1024 * 1024;
/// Streams that a dialler may have open: shards of the largest region twice (live and catch-up).
pub const STREAMS_MAX: u32 = 1024;
/// Streams with their first frame read that wait for the application.
pub const STREAM_BACKLOG: usize = 64;
/// Links with their hello exchanged that wait for the application.
pub const LINK_BACKLOG: usize = 64;
/// Handshakes in progress at once; beyond it the oldest is given up. A handshake costs about 0.5
/// ms of a core, so that many are a tenth of a second.
pub const HANDSHAKES_MAX: usize = 256;
/// From so many handshakes in progress on, a new address must first prove that it is one
/// (RFC 9000 section 8.1).
pub const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Bytes of datagrams that wait for the application; beyond it the oldest is dropped.
pub const DATAGRAM_BUFFER: usize = 1024 * 1024;
/// Datagrams that wait on a link in memory; beyond it the newest is dropped.
pub const DATAGRAM_BACKLOG: usize = 1024;
/// Largest datagram in bytes: fits in the smallest packet that QUIC guarantees (1200 bytes).
pub const DATAGRAM_BYTES_MAX: usize = 1100;
/// Largest hello and stream opening in bytes: names and a few features.
pub const OPENING_BYTES_MAX: usize = 16 * 1024;
/// Socket buffers asked for, in bytes; the system may give less. Bursts of a full send window
/// would overrun the usual 200 KiB.
pub const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Priority of streams for catch-up, below the default of 0 of all others.
pub const CATCH_UP_PRIORITY: i32 = -1;

/// The times of an endpoint's links. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// See [`KEEP_ALIVE`].
    pub keep_alive: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle: Duration,
    /// See [`HANDSHAKE_TIMEOUT`].
    pub handshake: Duration,
    /// See [`OPEN_TIMEOUT`].
    pub open: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: KEEP_ALIVE,
            idle: IDLE_TIMEOUT,
            handshake: HANDSHAKE_TIMEOUT,
            open: OPEN_TIMEOUT,
        }
    }
}

/// The transport settings of connections whose peer may open `streams` streams. Congestion control
/// (Cubic, fair beside TCP) and MTU discovery stay as quinn has them.
pub(crate) fn config(timing: &Timing, streams: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let idle_ms = u32::try_from(timing.idle.as_millis()).unwrap_or(u32::MAX);
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .keep_alive_interval(Some(timing.keep_alive))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    Arc::new(config)
}
