//! Length-delimited Protobuf over the one stream of a QUIC connection (ALPN `gb6`).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use gb6_core_wire::client::{Command, Dialect};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint, IdleTimeout, ReadError, TransportConfig, VarInt};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::framing::{ended, replies_of, take_delimited};
use super::{ClientError, Incoming, encode_commands};

/// The ALPN protocol of GB6's clients.
const ALPN: &[u8] = b"gb6";
/// A server that was not heard of for so long is gone, in ms.
const IDLE_MS: u32 = 4_000;
/// How often it is asked for a sign.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// A session's stream.
#[derive(Debug)]
pub(super) struct QuicWire {
    // Ends the connection when it is dropped.
    _endpoint: Endpoint,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    read: BytesMut,
}

impl QuicWire {
    /// Connects to `address`, which has to prove by a certificate of the authority in the file `ca`
    /// that it is `name`.
    pub(super) async fn open(address: SocketAddr, name: &str, ca: &Path) -> Result<Self, String> {
        let mut endpoint =
            Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).map_err(|e| e.to_string())?;
        endpoint.set_default_client_config(config(ca)?);
        let connecting = endpoint.connect(address, name).map_err(|e| e.to_string())?;
        let connection = connecting.await.map_err(|e| e.to_string())?;
        let (send, receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
        Ok(Self {
            _endpoint: endpoint,
            send,
            receive,
            read: BytesMut::new(),
        })
    }

    /// Sends commands.
    pub(super) async fn send(&mut self, commands: &[Command]) -> Result<(), ClientError> {
        let frame = encode_commands(Dialect::Protobuf, commands);
        let sent = self.send.write_all(&frame).await;
        sent.map_err(|error| ClientError::Closed {
            code: 1006,
            reason: error.to_string(),
        })
    }

    /// The reply that comes next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            if let Some(reply) = take_delimited(&mut self.read) {
                return Ok(replies_of(Dialect::Protobuf, reply)?);
            }
            match self.receive.read_chunk(READ, true).await {
                Ok(Some(chunk)) => self.read.extend_from_slice(&chunk.bytes),
                Ok(None) => return Ok(ended("the stream has ended")),
                Err(ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close))) => {
                    return Ok(Incoming::Closed {
                        code: u16::try_from(close.error_code.into_inner()).unwrap_or(u16::MAX),
                        reason: String::from_utf8_lossy(&close.reason).into_owned(),
                    });
                }
                Err(error) => return Ok(ended(&error.to_string())),
            }
        }
    }
}

fn config(ca: &Path) -> Result<quinn::ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca).map_err(|e| format!("{}: {e}", ca.display()))?;
    roots.add(ca).map_err(|e| e.to_string())?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(|e| e.to_string())?;
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
