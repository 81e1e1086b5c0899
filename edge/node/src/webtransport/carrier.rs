//! The stream of a WebTransport session as a carrier: its end is the end of the session, and that of
//! the connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use web_transport_proto::{Capsule, Frame};

use crate::connection::carrier::Carrier;
use crate::connection::framing::Verdict;

/// No error, of HTTP/3 (RFC 9114 section 8.1).
const NO_ERROR: VarInt = VarInt::from_u32(0x100);
/// Bytes of the request's stream that are passed over at once: capsules, of which only the end
/// matters.
const CAPSULES_AT_ONCE: usize = 256;

/// What must stay open while the session lasts.
pub(super) struct Http3 {
    pub(super) connection: Connection,
    /// Our side of the request's stream.
    pub(super) answer: Option<SendStream>,
    /// The client's side of it: its end is the end of the session.
    pub(super) request: RecvStream,
    pub(super) _control: SendStream,
    /// The client's control stream, and those of QPACK that came before it.
    pub(super) _theirs: Vec<RecvStream>,
}

/// The one stream of a session.
pub(crate) struct WebTransportStream {
    send: SendStream,
    recv: RecvStream,
    http3: Box<Http3>,
    /// Once the end is being said.
    finishing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl WebTransportStream {
    /// The stream that the client opened in its session.
    pub(super) fn new(http3: Http3, send: SendStream, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            http3: Box::new(http3),
            finishing: None,
        }
    }

    /// Whether the client has ended the session.
    fn poll_session_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; CAPSULES_AT_ONCE];
        loop {
            let mut capsules = ReadBuf::new(&mut bytes);
            match AsyncRead::poll_read(Pin::new(&mut self.http3.request), cx, &mut capsules) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !capsules.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Carrier for WebTransportStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf) {
            // Nothing read says that no more comes.
            Poll::Pending => self.poll_session_over(cx).map(Ok),
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
        let (send, http3) = (&mut self.send, &mut self.http3);
        let finishing = self.finishing.get_or_insert_with(|| {
            // Fails only where the client has stopped the stream, which is then known.
            let _ = send.finish();
            let told = send.stopped();
            let (answer, connection) = (http3.answer.take(), http3.connection.clone());
            Box::pin(async move {
                // However it ends, the session's close is next.
                let _ = told.await;
                if let Some(answer) = answer {
                    close_session(answer, verdict).await;
                }
                connection.close(NO_ERROR, verdict.reason.as_bytes());
            })
        });
        finishing.as_mut().poll(cx)
    }

    fn cut(&mut self, verdict: Verdict) {
        self.http3
            .connection
            .close(NO_ERROR, verdict.reason.as_bytes());
    }
}

/// Says with which code the session ends, and waits until the client has it.
async fn close_session(mut answer: SendStream, verdict: Verdict) {
    let mut capsule = BytesMut::new();
    Capsule::CloseWebTransportSession {
        code: u32::from(verdict.code),
        reason: verdict.reason.to_owned(),
    }
    .encode(&mut capsule);
    let mut frame = BytesMut::new();
    Frame::DATA.encode(&mut frame);
    // A close is short: its reason is one of ours.
    web_transport_proto::VarInt::from_u32(capsule.len() as u32).encode(&mut frame);
    frame.extend_from_slice(&capsule);
    if answer.write_all(&frame).await.is_ok() && answer.finish().is_ok() {
        // An error says that nobody is there to be told.
        let _ = answer.stopped().await;
    }
}
