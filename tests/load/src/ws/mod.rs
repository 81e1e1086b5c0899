//! The client side of WebSocket (RFC 6455), as little of it as a load generator needs: the
//! handshake, masked frames out, unmasked frames in. Server-side frames are
//! `gb6_core_wire::client::frame`.

pub(crate) mod frame;
pub(crate) mod handshake;

/// What a server does that is no WebSocket, or none that a load generator understands.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WsError {
    /// The answer to the handshake is no HTTP.
    #[error("the answer to the WebSocket handshake is no HTTP response")]
    NoHttp,
    /// The handshake was refused.
    #[error("the WebSocket handshake was refused: {0}")]
    Refused(String),
    /// The server did not prove that it speaks WebSocket.
    #[error("the answer to the WebSocket handshake has a wrong Sec-WebSocket-Accept")]
    BadAccept,
    /// The head of the answer does not end.
    #[error("the head of the answer to the WebSocket handshake has more than {0} bytes")]
    HeadTooLong(usize),
    /// RFC 6455 section 5.1.
    #[error("a frame of the server is masked")]
    Masked,
    /// RFC 6455 section 5.2: no extension was agreed.
    #[error("a frame has reserved bits set though no extension was agreed")]
    Reserved,
    /// RFC 6455 section 5.5 and 11.8.
    #[error("a frame has the unknown opcode {0}")]
    Opcode(u8),
    /// More than is read at once.
    #[error("a frame claims {0} bytes, at most {max} are read", max = frame::FRAME_BYTES_MAX)]
    TooLarge(u64),
}
