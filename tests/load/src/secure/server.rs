//! The floors: bare servers on tokio-rustls and on quinn that do the handshake, answer one byte with
//! one byte, and keep the connection.

use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::{Carrier, SOCKET_BUFFER};
use crate::process::raise_file_limit;

/// How long a connection that says nothing is kept: longer than any run.
const IDLE: Duration = Duration::from_secs(600);
/// Windows of a QUIC connection and its streams in bytes: small, as a server of many idle
/// connections has them.
const WINDOW: u32 = 64 * 1024;

/// Serves until the process is ended, after its address was printed.
///
/// # Errors
/// It can not listen.
pub(crate) fn serve(carrier: Carrier) -> Result<()> {
    raise_file_limit(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the floor's runtime")?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
        .context("making a certificate")?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let certificate = made.cert.der().clone();
    match carrier {
        Carrier::Tls => runtime.block_on(tls(certificate, key)),
        Carrier::Quic => runtime.block_on(quic(certificate, key)),
    }
}

fn config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("making a TLS configuration")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("using the certificate")?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // As ours: nothing is kept for a next connection.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn tell(address: std::net::SocketAddr) -> Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{address}")
        .and_then(|()| output.flush())
        .context("printing the address")
}

async fn tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config(certificate, key, b"http/1.1")?));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listening")?;
    tell(listener.local_addr()?)?;
    loop {
        let (tcp, _) = listener.accept().await.context("accepting")?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that fails is the load's to tell.
            let _ = tcp.set_nodelay(true);
            let Ok(mut stream) = Box::pin(acceptor.accept(tcp)).await else {
                return;
            };
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                if stream.write_all(&byte).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn quic(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<()> {
    let tls = QuicServerConfig::try_from(config(certificate, key, b"gb6")?)
        .context("making a TLS configuration for QUIC")?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(1u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE.try_into().context("the idle timeout")?));
    config.transport_config(Arc::new(transport));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    // As much as ours asks for: what is lost in a burst and said again would be in every figure.
    let options = socket2::SockRef::from(&socket);
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER);
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = quinn::Endpoint::new(Default::default(), Some(config), socket, runtime)
        .context("speaking QUIC on a UDP socket")?;
    tell(endpoint.local_addr()?)?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            let Ok((mut write, mut read)) = connection.accept_bi().await else {
                return;
            };
            let mut byte = [0];
            while read.read_exact(&mut byte).await.is_ok() {
                if write.write_all(&byte).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
