//! Parts of the QUIC handshake that both sides use: the certificate's identity, the first frame of
//! a stream, and what the ways to fail mean.

use std::net::SocketAddr;

use bytes::BytesMut;
use gb6_core_model::NodeId;
use prost::Message;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;

use crate::close::{CloseCode, Closed};
use crate::endpoint::DialError;
use crate::frame::{FrameReader, encode_frame};
use crate::hello::HelloError;
use crate::identity::{IdentityError, NodeIdentity};
use crate::stats::FailureReason;
use crate::transport::OPENING_BYTES_MAX;

/// A close code as QUIC carries it.
pub(crate) fn code(code: CloseCode) -> VarInt {
    VarInt::from_u64(code.code()).unwrap_or(VarInt::MAX)
}

/// A connection whose hello is not done: cancelled or failed, it is closed, never forgotten.
pub(crate) struct Handshake {
    pub(crate) connection: Connection,
    done: bool,
}

impl Handshake {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            done: false,
        }
    }

    pub(crate) fn done(mut self) -> Connection {
        self.done = true;
        self.connection.clone()
    }

    pub(crate) fn refuse(mut self, error: &HelloError) {
        self.done = true;
        self.connection
            .close(code(error.close_code()), error.to_string().as_bytes());
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.done {
            let error = HelloError::Timeout;
            self.connection
                .close(code(error.close_code()), error.to_string().as_bytes());
        }
    }
}

/// Why a hello was not exchanged.
pub(crate) enum Failed {
    Lost(ConnectionError),
    Hello(HelloError),
}

impl From<HelloError> for Failed {
    fn from(error: HelloError) -> Self {
        Failed::Hello(error)
    }
}

impl Failed {
    fn not_hello(error: &dyn std::fmt::Display) -> Self {
        Failed::Hello(HelloError::NotHello(error.to_string()))
    }
}

/// The alerts by which TLS says that a certificate was not accepted (RFC 8446 section 6.2):
/// bad_certificate to unknown_ca, access_denied, decrypt_error and certificate_required.
const CERTIFICATE_ALERTS: [u64; 10] = [42, 43, 44, 45, 46, 47, 48, 49, 51, 116];
/// no_application_protocol: the peer does not speak [`gb6_core_wire::mesh::ALPN`].
const PROTOCOL_ALERT: u64 = 120;

/// The TLS alert that ended a connection, and its words.
fn alert(error: &ConnectionError) -> Option<(u64, String)> {
    let (code, reason) = match error {
        ConnectionError::TransportError(error) => (u64::from(error.code), error.reason.clone()),
        ConnectionError::ConnectionClosed(close) => (
            u64::from(close.error_code),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        _ => return None,
    };
    // RFC 9001 section 4.8: a TLS alert is 0x0100 plus its code.
    let alert = code.checked_sub(0x100).filter(|alert| *alert < 0x100)?;
    Some((alert, reason))
}

pub(crate) fn dial_error(node: &NodeId, addr: SocketAddr, error: &ConnectionError) -> DialError {
    let node = node.clone();
    match alert(error) {
        Some((code, reason)) if CERTIFICATE_ALERTS.contains(&code) => {
            return DialError::Certificate { node, reason };
        }
        Some((PROTOCOL_ALERT, reason)) => return DialError::Protocol { node, reason },
        _ => {}
    }
    match Closed::from_quic(error) {
        Closed::Peer { code, text } => DialError::Refused {
            node,
            code,
            text: text.to_string(),
        },
        other => DialError::Unreachable {
            node,
            address: addr.to_string(),
            reason: other.to_string(),
        },
    }
}

pub(crate) fn accept_reason(error: &ConnectionError) -> FailureReason {
    match alert(error) {
        Some((code, _)) if CERTIFICATE_ALERTS.contains(&code) => FailureReason::Certificate,
        Some((PROTOCOL_ALERT, _)) => FailureReason::Version,
        _ => match error {
            ConnectionError::ApplicationClosed(_) => FailureReason::Refused,
            ConnectionError::TimedOut => FailureReason::Timeout,
            _ => FailureReason::Unreachable,
        },
    }
}

/// The identity in the certificate that the peer proved to hold.
pub(crate) fn identity(connection: &Connection) -> Result<NodeIdentity, HelloError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = chain
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or(IdentityError::NoCertificate)?;
    Ok(NodeIdentity::from_certificate(certificate)?)
}

/// Writes the first frame of a stream.
pub(crate) async fn write_first<M: Message>(
    send: &mut SendStream,
    frame: &M,
) -> Result<(), Failed> {
    let mut buffer = BytesMut::new();
    encode_frame(frame, frame.encoded_len(), &mut buffer);
    match send.write_chunk(buffer.freeze()).await {
        Ok(()) => Ok(()),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(Failed::Lost(error)),
        Err(error) => Err(Failed::not_hello(&error)),
    }
}

/// Reads the first frame of a stream; what came behind it stays in the reader.
pub(crate) async fn read_first<M: Message + Default>(
    mut recv: RecvStream,
) -> Result<(M, RecvStream, FrameReader), Failed> {
    let mut reader = FrameReader::new(OPENING_BYTES_MAX);
    loop {
        if let Some(frame) = reader.next_frame().map_err(|e| Failed::not_hello(&e))? {
            return Ok((frame, recv, reader));
        }
        match recv.read(reader.space()).await {
            Ok(Some(n)) => reader.filled(n),
            Ok(None) => return Err(Failed::not_hello(&"the stream ended")),
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(Failed::Lost(error)),
            Err(error) => return Err(Failed::not_hello(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_of_tls_are_alerts() {
        use quinn::TransportErrorCode as Code;
        for (code, want) in [
            // What an endpoint says that takes nobody, and others below the codes of TLS.
            (Code::CONNECTION_REFUSED, None),
            (Code::NO_ERROR, None),
            (Code::NO_VIABLE_PATH, None),
            (Code::crypto(0), Some(0)),
            (Code::crypto(42), Some(42)),
            (Code::crypto(255), Some(255)),
        ] {
            let error = ConnectionError::ConnectionClosed(quinn::ConnectionClose {
                error_code: code,
                frame_type: None,
                reason: bytes::Bytes::from_static(b"why"),
            });
            let found = alert(&error).map(|(alert, _)| alert);
            assert_eq!(found, want, "{code}");
        }
    }
}
