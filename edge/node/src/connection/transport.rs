//! By what a session is carried, and what is known of it when it begins.

use gb6_core_model::InstanceId;
use gb6_core_wire::client::Dialect;
use http::HeaderMap;

/// By what a session is carried.
#[expect(
    clippy::enum_variant_names,
    reason = "WebTransport is the name of a protocol"
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// A WebSocket.
    WebSocket,
    /// A stream of a QUIC connection.
    Quic,
    /// The stream of a WebTransport session.
    WebTransport,
    /// A response body of replies; commands come by `/emulation`.
    HttpStream,
    /// An event stream; commands come by `/emulation`.
    Sse,
    /// A response body of pushes.
    UniHttpStream,
    /// An event stream of pushes.
    UniSse,
    /// A WebSocket of which only the first message is heard.
    UniWebSocket,
}

impl Transport {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Quic => "quic",
            Transport::WebTransport => "webtransport",
            Transport::HttpStream => "http_stream",
            Transport::Sse => "sse",
            Transport::UniHttpStream => "uni_http_stream",
            Transport::UniSse => "uni_sse",
            Transport::UniWebSocket => "uni_websocket",
        }
    }

    /// Whether its commands come by requests of their own, to `/emulation`.
    pub(crate) fn is_emulated(self) -> bool {
        matches!(self, Transport::HttpStream | Transport::Sse)
    }

    /// Whether its client says nothing behind its connect request.
    pub(crate) fn is_unidirectional(self) -> bool {
        matches!(
            self,
            Transport::UniHttpStream | Transport::UniSse | Transport::UniWebSocket
        )
    }
}

/// What is known of a connection when its session begins.
pub(crate) struct Opening {
    /// What carries it.
    pub(crate) transport: Transport,
    /// The encoding asked for.
    pub(crate) dialect: Dialect,
    /// Whether pings are to be those of the WebSocket layer.
    pub(crate) frame_ping: bool,
    /// The instance that the host name or the listener names.
    pub(crate) instance: InstanceId,
    /// The page's origin, where only the connection's instance can let it in.
    pub(crate) foreign_origin: Option<Box<str>>,
    /// The headers of its request that the instance's backends are shown; `None`: none.
    pub(crate) headers: Option<Box<HeaderMap>>,
}
