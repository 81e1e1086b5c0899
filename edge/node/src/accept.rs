//! The listener: takes connections whatever happens, and brings each from its first byte, through
//! TLS where that is spoken, to its answer or its session.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::admission::{Permit, Unproven};
use crate::connection::carrier::Carrier;
use crate::connection::driver::Connection;
use crate::connection::framing::{Framing, Verdict};
use crate::connection::transport::{Opening, Transport};
use crate::http::{self, Grant, Granted};
use crate::one_way::listening::Listening;
use crate::shared::Shared;
use crate::tls;
use crate::ws::framing::WebSocket;

/// Connections that the kernel completes for us while we are busy; it caps this at `somaxconn`.
const BACKLOG: i32 = 4096;
/// Largest request head in bytes: a connect command in the query of an event stream must fit.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long one HTTP exchange may take, and a client may take to read its answer. It is far above
/// what any page needs: idle connections end by the head's timeout.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Waits after a failed accept: doubled from the first to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// Bytes that the kernel may hold unsent for one client. Behind it the outbox fills, whose bound
/// decides who is slow; without it the kernel would hide megabytes of a client's delay.
const UNSENT_BYTES: u32 = 256 * 1024;
/// The answer where every place is taken.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

/// The answer to plain HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 40\r\n\r\nthis address speaks TLS: use https, wss\n";

thread_local! {
    /// Where request heads are looked at: nothing in it outlives one look.
    static HEAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEAD_BYTES_MAX].into_boxed_slice());
}

/// A listener on `address`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // So that a restart does not wait for the connections of the last run.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop` says so, while the edge drains too: whoever asks for its health then is
/// answered, and who asks for a session is told to go elsewhere. No error ends it.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = PAUSE_FIRST;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                pause = PAUSE_FIRST;
                shared.metrics.accepted.inc();
                admit(&shared, tcp, peer.ip());
            }
            Err(error) => {
                let kind = kind(&error);
                shared.metrics.accept_errors.with(&[kind.name()]).inc();
                if kind == AcceptError::Peer {
                    continue;
                }
                // Out of files or memory: whoever said nothing so far gives way, and the ones
                // that wait in the backlog wait a little longer.
                shared.admission.evict_oldest();
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "accept failed");
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_LONGEST);
            }
        }
    }
}

/// What a failed accept means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AcceptError {
    /// This process or machine is out of files.
    Files,
    /// The machine is out of memory for sockets.
    Memory,
    /// The connection ended before it was accepted, or its network did.
    Peer,
}

impl AcceptError {
    fn name(self) -> &'static str {
        match self {
            AcceptError::Files => "files",
            AcceptError::Memory => "memory",
            AcceptError::Peer => "peer",
        }
    }
}

fn kind(error: &io::Error) -> AcceptError {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => AcceptError::Files,
        Some(Errno::NOBUFS | Errno::NOMEM) => AcceptError::Memory,
        _ => AcceptError::Peer,
    }
}

fn admit(shared: &Arc<Shared>, tcp: TcpStream, address: IpAddr) {
    let Some(permit) = shared.admission.admit(address) else {
        // One try: whoever does not read it sees the end of the connection.
        let _ = tcp.try_write(FULL);
        return;
    };
    // Without it a handshake's last small packet waits for a delayed acknowledgement.
    let socket = SockRef::from(&tcp);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    let config = &shared.config;
    match shared.tls.clone() {
        None => shared.admission.start(config.header_timeout, |unproven| {
            tokio::spawn(plain(shared.clone(), tcp, unproven, permit)).abort_handle()
        }),
        Some(tls) => shared
            .admission
            .start(config.handshake_timeout, |unproven| {
                tokio::spawn(secured(shared.clone(), tls, tcp, unproven, permit)).abort_handle()
            }),
    }
}

/// One connection until the head of its first request is there: it costs a task of a few hundred
/// bytes, no buffer and no timer.
async fn plain(shared: Arc<Shared>, tcp: TcpStream, unproven: Unproven, permit: Permit) {
    if head_arrived(&tcp).await.is_err() {
        return;
    }
    // What HTTP needs is put aside, so that it is gone when a WebSocket begins.
    if let Some((websocket, unproven)) = Box::pin(speak_http(shared, tcp, unproven, permit)).await {
        unproven.hand_over(websocket);
    }
}

/// One connection with TLS below it. Until its first byte is there it costs as little as a plain
/// one; what the handshake needs is gone when it is over.
async fn secured(
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    tcp: TcpStream,
    unproven: Unproven,
    permit: Permit,
) {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(1) if first[0] == tls::HANDSHAKE_RECORD => {}
        Ok(1) if first[0].is_ascii_uppercase() => {
            shared.metrics.handshakes.with(&["plain"]).inc();
            // One try, and the request is taken so that the answer is not lost with it.
            let _ = tcp.try_read(&mut [0; 1024]);
            let _ = tcp.try_write(SPEAK_TLS);
            return;
        }
        Ok(_) => {
            shared.metrics.handshakes.with(&["failed"]).inc();
            return;
        }
        Err(_) => return,
    }
    let stream = match Box::pin(tls.accept(tcp)).await {
        Ok(stream) => stream,
        Err(error) => {
            shared.metrics.handshakes.with(&["failed"]).inc();
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
    };
    shared.metrics.handshakes.with(&["done"]).inc();
    unproven.prolong(shared.config.header_timeout);
    if let Some((websocket, unproven)) =
        Box::pin(speak_http(shared, stream, unproven, permit)).await
    {
        unproven.hand_over(websocket);
    }
}

/// Waits until a whole head, or more than one may have, lies in the kernel's buffer: what is not
/// complete is left there, so that a client which never ends its request holds no buffer of ours.
async fn head_arrived(tcp: &TcpStream) -> io::Result<()> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let looked = tcp.try_io(Interest::READABLE, || {
            HEAD.with_borrow_mut(|buf| {
                let (seen, _) = rustix::net::recv(tcp, &mut buf[..], RecvFlags::PEEK)?;
                if seen == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let ended = buf[..seen].windows(4).any(|w| w == b"\r\n\r\n");
                if ended || seen == buf.len() {
                    return Ok(());
                }
                // So that the runtime waits for more instead of for these bytes.
                Err(io::ErrorKind::WouldBlock.into())
            })
        });
        match looked {
            // The end of the stream stays readable for ever behind the bytes that are left there.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// Starts the task of a session.
type Begin = Box<dyn FnOnce(Unproven) -> AbortHandle + Send>;

/// Answers requests until the connection ends or becomes that of a session.
async fn speak_http<C: Carrier + AsyncRead + AsyncWrite>(
    shared: Arc<Shared>,
    stream: C,
    unproven: Unproven,
    permit: Permit,
) -> Option<(Begin, Unproven)> {
    let granted: Granted = Arc::default();
    let unproven = Arc::new(unproven);
    let service = service_fn({
        let (shared, granted, unproven) = (shared.clone(), granted.clone(), unproven.clone());
        move |request| {
            unproven.prolong(EXCHANGE_TIMEOUT);
            let (shared, granted) = (shared.clone(), granted.clone());
            Box::pin(http::serve(shared, granted, unproven.clone(), request))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(shared.config.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut conn = http.serve_connection(TokioIo::new(stream), service);
    let spoken = poll_fn(|cx| Pin::new(&mut conn).poll_without_shutdown(cx)).await;
    let granted = granted.lock().take();
    if let Err(error) = spoken
        && granted.is_none()
    {
        tracing::debug!(%error, "http connection ended");
        return None;
    }
    let parts = conn.into_parts();
    let (mut stream, early) = (parts.io.into_inner(), parts.read_buf);
    let Some(granted) = granted else {
        let over = Verdict {
            code: 1000,
            reason: "",
            reconnect: false,
        };
        poll_fn(|cx| stream.poll_finish(cx, over)).await;
        return None;
    };
    // The service held the other half.
    drop(parts.service);
    let unproven = Arc::into_inner(unproven)?;
    let begin: Begin = match granted {
        Grant::WebSocket(opening) if opening.transport == Transport::UniWebSocket => {
            let framing = Listening::new(opening.dialect, shared.config.frame_bytes_max);
            begin(shared, stream, framing, early, opening, permit)
        }
        Grant::WebSocket(opening) => {
            let framing = WebSocket::new(shared.config.frame_bytes_max);
            begin(shared, stream, framing, early, opening, permit)
        }
        Grant::Stream(granted) => {
            // The session's deadlines begin behind it; until then the admission's hold.
            stream.write_all(&granted.head).await.ok()?;
            stream.flush().await.ok()?;
            begin(
                shared,
                stream,
                granted.framing,
                early,
                granted.opening,
                permit,
            )
        }
    };
    Some((begin, unproven))
}

/// What starts the task of a session over `stream`.
fn begin<C: Carrier, F: Framing>(
    shared: Arc<Shared>,
    stream: C,
    framing: F,
    early: Bytes,
    opening: Opening,
    permit: Permit,
) -> Begin {
    Box::new(move |unproven| {
        let connection =
            Connection::new(shared, stream, framing, &early, opening, unproven, permit);
        tokio::spawn(connection).abort_handle()
    })
}

/// Drops half-open connections that take too long, until `stop` says so.
pub(crate) async fn sweep(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = every.tick() => shared.admission.sweep(Instant::now()),
        }
    }
}
