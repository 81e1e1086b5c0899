//! The settings of TLS towards clients: 1.3 only, no early data, and nothing kept between two
//! connections. A ticket would save a returning client about 40 % of its work and the server 5 to
//! 10 %, for keys that must be rotated and shared; a reconnect storm is bounded by the server.

use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;

use super::current::Certificates;

fn settings(
    certificates: Arc<Certificates>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// For HTTP over TCP.
pub(crate) fn over_tcp(
    certificates: Arc<Certificates>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    settings(certificates, &[b"http/1.1"]).map(Arc::new)
}

/// For QUIC, which speaks one of `protocols` or nothing.
pub(crate) fn over_quic(
    certificates: Arc<Certificates>,
    protocols: &[&[u8]],
) -> Result<Arc<QuicServerConfig>, rustls::Error> {
    let config = settings(certificates, protocols)?;
    QuicServerConfig::try_from(config)
        .map(Arc::new)
        .map_err(|e| rustls::Error::General(e.to_string()))
}
