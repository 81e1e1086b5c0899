//! What moves a connection's bytes. A carrier is polled by the connection's own task and holds no
//! buffer that it does not need: reads go into memory that belongs to the thread.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::Verdict;

/// A two-way stream of bytes with an end that can be said.
pub(crate) trait Carrier: Send + Unpin + 'static {
    /// Reads what has come; nothing read means that the client sends no more.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Writes some of `bytes`.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends what was written and is kept back; pending while the client does not take it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says that nothing more comes, and waits until the client can have all of it. Polled until it
    /// is ready or the time for a close is up.
    fn poll_finish(&mut self, cx: &mut Context<'_>, verdict: Verdict) -> Poll<()>;

    /// The client does not take what is left: nothing of it may stay anywhere.
    fn cut(&mut self, verdict: Verdict);
}

impl Carrier for TcpStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, _: Verdict) -> Poll<()> {
        // Dropping it sends what is left, then the end.
        Poll::Ready(())
    }

    fn cut(&mut self, _: Verdict) {
        reset_on_drop(self);
    }
}

/// Has a connection reset when it is dropped: bytes that the client does not take would stay in the
/// kernel for minutes.
pub(crate) fn reset_on_drop(tcp: &TcpStream) {
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}
