//! TLS over TCP as a carrier.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connection::carrier::{Carrier, reset_on_drop};
use crate::connection::framing::Verdict;

impl Carrier for TlsStream<TcpStream> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, _: Verdict) -> Poll<()> {
        // Whether the client still takes it changes nothing any more.
        AsyncWrite::poll_shutdown(Pin::new(self), cx).map(|_| ())
    }

    fn cut(&mut self, _: Verdict) {
        reset_on_drop(self.get_ref().0);
    }
}
