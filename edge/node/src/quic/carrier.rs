//! A bidirectional QUIC stream as a carrier: the stream's end is the end of its connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use gb6_core_model::Disconnect;
use quinn::{Connection, RecvStream, SendStream, StoppedError, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::carrier::Carrier;
use crate::connection::framing::Verdict;

/// What tells that the client has everything, or takes no more.
type Acknowledged = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// The stream of one session.
pub(super) struct QuicStream {
    send: SendStream,
    recv: RecvStream,
    connection: Connection,
    /// Ready when the client has opened a stream that it may not, or the connection is lost.
    other: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Once the stream is finished.
    acknowledged: Option<Acknowledged>,
}

impl QuicStream {
    /// The stream that the client of `connection` opened.
    pub(super) fn new(connection: Connection, send: SendStream, recv: RecvStream) -> Self {
        let watched = connection.clone();
        Self {
            send,
            recv,
            connection,
            other: Box::pin(async move {
                // Dropping the stream refuses it, an error says that the connection is lost.
                let _ = watched.accept_uni().await;
            }),
            acknowledged: None,
        }
    }
}

/// Ends a connection with a verdict.
pub(super) fn close(connection: &Connection, verdict: Verdict) {
    connection.close(
        VarInt::from_u32(u32::from(verdict.code)),
        verdict.reason.as_bytes(),
    );
}

impl Carrier for QuicStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf) {
            Poll::Pending => {
                ready!(self.other.as_mut().poll(cx));
                close(&self.connection, Disconnect::BadRequest.into());
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            ready => ready,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, verdict: Verdict) -> Poll<()> {
        // The close of the connection overtakes what is on its way, so it waits for that.
        let acknowledged = self.acknowledged.get_or_insert_with(|| {
            // Fails only where the client has stopped the stream, which is then known.
            let _ = self.send.finish();
            Box::pin(self.send.stopped())
        });
        let _ = ready!(acknowledged.as_mut().poll(cx));
        close(&self.connection, verdict);
        Poll::Ready(())
    }

    fn cut(&mut self, verdict: Verdict) {
        close(&self.connection, verdict);
    }
}
