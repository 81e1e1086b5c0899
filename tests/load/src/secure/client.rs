//! The client side: full handshakes without resumption, certificates taken as they come, and the
//! first words of the protocol, in two steps, so that accepting a connection and beginning its
//! session are measured apart.

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

use super::{Carrier, SOCKET_BUFFER, SecureTarget};
use crate::clock::now_ns;
use crate::codec::{Codec, Event};
use crate::histogram::Histogram;
use crate::ws::{frame, handshake};

/// The ALPN protocol of GB6's clients.
const ALPN: &[u8] = b"gb6";
/// Bytes that a server may say before the subscription has begun.
const SAID_BYTES_MAX: usize = 1024 * 1024;
/// Handshakes, or sessions that begin, under way at any time.
const AT_ONCE: usize = 64;
/// How long one of them may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The mask of every frame: nobody between the two reads along here.
const MASK: [u8; 4] = [1, 2, 3, 4];
/// The key of every WebSocket handshake.
const KEY: [u8; 16] = [7; 16];

/// What is said over a connection.
pub(super) enum Greeting {
    /// One byte, which the server answers with one: there is no session behind it.
    Byte,
    /// A WebSocket handshake; the session's words are connect and subscribe.
    WebSocket(Codec),
    /// Connect and subscribe in length-delimited Protobuf, of which the first byte opens the stream.
    Framed(Codec),
}

/// A connection that the server has accepted, and what is still to be said on it.
pub(super) struct Accepted {
    kept: Kept,
    /// `None`: nothing, it was a bare server.
    rest: Option<Rest>,
}

/// What begins the session.
struct Rest {
    codec: Codec,
    /// Words that were made and not said yet.
    words: Vec<u8>,
    /// What the server has said before it was asked.
    said: Vec<u8>,
    websocket: bool,
}

/// A connection that is kept open.
pub(super) enum Kept {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Quic {
        connection: quinn::Connection,
        /// Both ends, which would be closed if they were dropped.
        streams: (quinn::SendStream, quinn::RecvStream),
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

    /// One connection, as far as the server does something for it before it knows who is there.
    async fn accept(&self, greeting: Greeting) -> Result<Accepted> {
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
                let rest = {
                    let (mut read, mut write) = tokio::io::split(&mut stream);
                    greet(&mut read, &mut write, greeting, &host).await?
                };
                let kept = Kept::Tls(Box::new(stream));
                Ok(Accepted { kept, rest })
            }
            How::Quic(endpoint) => {
                let connection = endpoint
                    .connect(self.target.addr, "localhost")?
                    .await
                    .context("the handshake")?;
                let (mut write, mut read) = connection.open_bi().await?;
                let rest = greet(&mut read, &mut write, greeting, "localhost").await?;
                let kept = Kept::Quic {
                    connection,
                    streams: (write, read),
                };
                Ok(Accepted { kept, rest })
            }
        }
    }

    /// Has the server accept `greetings.len()` connections.
    ///
    /// # Errors
    /// One fails, or takes too long.
    pub(super) async fn accept_all(
        &self,
        greetings: Vec<Greeting>,
        took: &mut Histogram,
    ) -> Result<Vec<Accepted>> {
        let ways = greetings.into_iter().map(|greeting| {
            let client = self.clone();
            async move { client.accept(greeting).await }
        });
        all(ways, took).await
    }
}

impl Accepted {
    /// Begins the session and subscribes to `room`; nothing where there is none.
    async fn begin(self, room: String) -> Result<Kept> {
        let Accepted { mut kept, rest } = self;
        if let Some(rest) = rest {
            match &mut kept {
                Kept::Tls(stream) => {
                    let (mut read, mut write) = tokio::io::split(stream);
                    begin(&mut read, &mut write, rest, &room).await?;
                }
                Kept::Quic {
                    streams: (write, read),
                    ..
                } => begin(read, write, rest, &room).await?,
            }
        }
        Ok(kept)
    }

    /// Begins the sessions of all of them, each subscribed to its room.
    ///
    /// # Errors
    /// One fails, or takes too long.
    pub(super) async fn begin_all(
        accepted: Vec<(Accepted, String)>,
        took: &mut Histogram,
    ) -> Result<Vec<Kept>> {
        let ways = accepted.into_iter().map(|(one, room)| one.begin(room));
        all(ways, took).await
    }
}

/// Goes all ways, [`AT_ONCE`] of them at any time, each in bounded time, which is noted.
async fn all<T: Send + 'static>(
    ways: impl Iterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
    took: &mut Histogram,
) -> Result<Vec<T>> {
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    let mut keep = |joined: Joined<T>, done: &mut Vec<T>| {
        let (one, ns) = joined
            .context("no connection is under way")?
            .context("a connection's task failed")?
            .with_context(|| format!("connection {} failed", done.len() + 1))?;
        took.record(ns);
        done.push(one);
        anyhow::Ok(())
    };
    for way in ways {
        if under_way.len() >= AT_ONCE {
            keep(under_way.join_next().await, &mut done)?;
        }
        under_way.spawn(async move {
            let began = now_ns();
            let one = tokio::time::timeout(CONNECT_TIMEOUT, way)
                .await
                .map_err(|_| anyhow!("it took more than {} s", CONNECT_TIMEOUT.as_secs()))??;
            Ok((one, now_ns() - began))
        });
    }
    while !under_way.is_empty() {
        keep(under_way.join_next().await, &mut done)?;
    }
    Ok(done)
}

type Joined<T> = Option<Result<Result<(T, u64)>, tokio::task::JoinError>>;

/// Says the greeting and waits until the server has answered all of it; what is to be said then.
async fn greet(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    greeting: Greeting,
    host: &str,
) -> Result<Option<Rest>> {
    let (mut codec, websocket) = match greeting {
        Greeting::Byte => {
            write.write_all(b"x").await?;
            write.flush().await?;
            read.read_u8().await.context("the answer")?;
            return Ok(None);
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
    if !websocket && !words.is_empty() {
        // A stream is not there for the server before something of it comes.
        let first = words.remove(0);
        write.write_all(&[first]).await.context("writing")?;
    }
    Ok(Some(Rest {
        codec,
        words,
        said,
        websocket,
    }))
}

/// Connects, subscribes and waits until that is answered.
async fn begin(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    rest: Rest,
    room: &str,
) -> Result<()> {
    let Rest {
        mut codec,
        mut words,
        mut said,
        websocket,
    } = rest;
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
            Event::SubscriptionLost { code, message, .. } => {
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
