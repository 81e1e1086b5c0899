//! The client side: full handshakes without resumption, certificates taken as they come, and the
//! first words of the protocol.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Carrier, SecureTarget};
use crate::codec::{Codec, Event};
use crate::ws::{frame, handshake};

/// Bytes asked for as the receive buffer of the UDP socket; the system may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// The ALPN protocol of GB6's clients.
const ALPN: &[u8] = b"gb6";
/// Bytes that a server may say before the subscription has begun.
const SAID_BYTES_MAX: usize = 1024 * 1024;
/// The mask of every frame: nobody between the two reads along here.
const MASK: [u8; 4] = [1, 2, 3, 4];
/// The key of every WebSocket handshake.
const KEY: [u8; 16] = [7; 16];

/// What is said once the transport is open.
pub(super) enum Greeting {
    /// One byte, which the server answers with one.
    Byte,
    /// A WebSocket handshake, then connect and subscribe.
    WebSocket(Codec),
    /// Connect and subscribe, in length-delimited Protobuf.
    Framed(Codec),
}

/// A connection that is kept open.
pub(super) enum Kept {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Quic {
        connection: quinn::Connection,
        /// Both ends, which would be closed if they were dropped.
        _streams: (quinn::SendStream, quinn::RecvStream),
    },
}

impl Kept {
    /// Whether the server has ended it. What a TLS server said meanwhile is thrown away: nothing is
    /// said on the connection after this.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Kept::Tls(stream) => {
                let mut bytes = [0; 4096];
                matches!(stream.get_ref().0.try_read(&mut bytes), Ok(0))
            }
            Kept::Quic { connection, .. } => connection.close_reason().is_some(),
        }
    }
}

/// What makes connections to one server.
#[derive(Clone)]
pub(super) struct Client {
    target: SecureTarget,
    how: How,
}

#[derive(Clone)]
enum How {
    Tls(TlsConnector),
    Quic(quinn::Endpoint),
}

impl Client {
    /// For the servers of one target.
    ///
    /// # Errors
    /// No socket can be opened.
    pub(super) fn new(target: &SecureTarget) -> Result<Self> {
        let how = match target.carrier {
            Carrier::Tls => How::Tls(TlsConnector::from(Arc::new(config(b"http/1.1")?))),
            Carrier::Quic => {
                let config = QuicClientConfig::try_from(config(ALPN)?)
                    .context("making a TLS configuration for QUIC")?;
                let local = match target.addr.is_ipv4() {
                    true => "127.0.0.1:0",
                    false => "[::1]:0",
                };
                let local: SocketAddr = local.parse().context("the own address")?;
                let socket = UdpSocket::bind(local).context("opening a UDP socket")?;
                // All connections share it: with the usual buffer it loses what servers send at
                // once, and the waits for it again would be in every figure.
                let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
                let runtime = Arc::new(quinn::TokioRuntime);
                let mut endpoint = quinn::Endpoint::new(Default::default(), None, socket, runtime)
                    .context("speaking QUIC on a UDP socket")?;
                endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
                How::Quic(endpoint)
            }
        };
        Ok(Self {
            target: target.clone(),
            how,
        })
    }

    /// Opens `count` connections, `at_once` of them under way at any time.
    ///
    /// # Errors
    /// One fails, or takes longer than `timeout`.
    pub(super) async fn open_all(
        &self,
        count: usize,
        at_once: usize,
        timeout: Duration,
        mut greeting: impl FnMut(usize) -> (Greeting, String),
    ) -> Result<Vec<Kept>> {
        let mut under_way = JoinSet::new();
        let mut kept = Vec::with_capacity(count);
        for n in 0..count {
            if under_way.len() >= at_once {
                kept.push(joined(under_way.join_next().await, kept.len(), count)?);
            }
            let (client, (greeting, room)) = (self.clone(), greeting(n));
            under_way.spawn(async move {
                tokio::time::timeout(timeout, client.open(greeting, &room))
                    .await
                    .map_err(|_| anyhow!("it was not set up within {} s", timeout.as_secs()))?
            });
        }
        while !under_way.is_empty() {
            kept.push(joined(under_way.join_next().await, kept.len(), count)?);
        }
        Ok(kept)
    }

    async fn open(&self, greeting: Greeting, room: &str) -> Result<Kept> {
        match &self.how {
            How::Tls(connector) => {
                let tcp = TcpStream::connect(self.target.addr).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::try_from("localhost").context("a server's name")?;
                let mut stream = connector
                    .connect(name, tcp)
                    .await
                    .context("the handshake")?;
                let host = self.target.addr.to_string();
                let (mut read, mut write) = tokio::io::split(&mut stream);
                greet(&mut read, &mut write, greeting, &host, room).await?;
                Ok(Kept::Tls(Box::new(stream)))
            }
            How::Quic(endpoint) => {
                let connection = endpoint
                    .connect(self.target.addr, "localhost")?
                    .await
                    .context("the handshake")?;
                let (mut write, mut read) = connection.open_bi().await?;
                greet(&mut read, &mut write, greeting, "localhost", room).await?;
                Ok(Kept::Quic {
                    connection,
                    _streams: (write, read),
                })
            }
        }
    }
}

type Joined = Option<Result<Result<Kept>, tokio::task::JoinError>>;

fn joined(done: Joined, nth: usize, count: usize) -> Result<Kept> {
    let kept = done.context("no connection is under way")?;
    kept.context("a connection's task failed")?
        .with_context(|| format!("connection {} of {count} failed", nth + 1))
}

/// Says the greeting and waits until the server has answered all of it.
async fn greet(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    greeting: Greeting,
    host: &str,
    room: &str,
) -> Result<()> {
    let (mut codec, websocket) = match greeting {
        Greeting::Byte => {
            write.write_all(b"x").await?;
            write.flush().await?;
            read.read_u8().await.context("the answer")?;
            return Ok(());
        }
        Greeting::WebSocket(codec) => (codec, true),
        Greeting::Framed(codec) => (codec, false),
    };
    let mut said = Vec::new();
    if websocket {
        let protocol = gb6_core_wire::client::Dialect::Protobuf.subprotocol();
        let request = handshake::request(host, "/connection/websocket", Some(protocol), KEY);
        write.write_all(&request).await?;
        write.flush().await?;
        let head = loop {
            if let Some(length) = handshake::read_response(&said, KEY)? {
                break length;
            }
            more(read, &mut said).await?;
        };
        said.drain(..head);
    }
    let mut words = Vec::new();
    codec.hello(&mut words);
    say(write, &words, websocket).await?;
    loop {
        let Some((message, used)) = message(&said, websocket)? else {
            more(read, &mut said).await?;
            continue;
        };
        let (mut ready, mut subscribed, mut wrong) = (false, false, None);
        words.clear();
        codec.read(&message, &mut words, &mut |event| match event {
            Event::Ready => ready = true,
            Event::Subscribed { .. } => subscribed = true,
            Event::SubscriptionLost { code, message } => {
                wrong = Some(format!("the subscription was refused: {code} {message}"));
            }
            _ => {}
        })?;
        said.drain(..used);
        if let Some(why) = wrong {
            bail!(why);
        }
        if ready {
            codec.subscribe(room, None, &mut words);
        }
        if !words.is_empty() {
            say(write, &words, websocket).await?;
        }
        if subscribed {
            return Ok(());
        }
    }
}

async fn say(write: &mut (impl AsyncWrite + Unpin), words: &[u8], websocket: bool) -> Result<()> {
    if websocket {
        let mut framed = Vec::with_capacity(words.len() + 14);
        frame::write(frame::BINARY, words, MASK, &mut framed);
        write.write_all(&framed).await?;
    } else {
        write.write_all(words).await?;
    }
    write.flush().await.context("writing")
}

async fn more(read: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> Result<()> {
    if said.len() > SAID_BYTES_MAX {
        bail!("the server says too much before the subscription has begun");
    }
    if read.read_buf(said).await.context("reading")? == 0 {
        bail!("the server closed the connection");
    }
    Ok(())
}

/// The first whole message in `said`, and how many bytes it takes there.
fn message(said: &[u8], websocket: bool) -> Result<Option<(Vec<u8>, usize)>> {
    if !websocket {
        // Varints of whole replies: one at a time.
        let Some(end) = said.iter().take(5).position(|b| b & 0x80 == 0) else {
            return Ok(None);
        };
        let length = said[..=end]
            .iter()
            .rev()
            .fold(0usize, |n, b| n << 7 | usize::from(b & 0x7f));
        let used = end + 1 + length;
        return Ok((said.len() >= used).then(|| (said[..used].to_vec(), used)));
    }
    let Some(found) = frame::read(said)? else {
        return Ok(None);
    };
    if found.opcode == frame::CLOSE {
        let (code, reason) = frame::close_reason(found.payload);
        bail!("the server closed the connection: {code} {reason}");
    }
    Ok(Some((found.payload.to_vec(), found.length)))
}

fn config(alpn: &[u8]) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("making a TLS configuration")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    // Every connection pays for a whole handshake.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// Takes any certificate: the server was started for this run, on loopback. Signatures are checked,
/// so that a handshake costs what it costs.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
