//! A stream's two typed halves. Both kinds of links give the same ones: on QUIC frames are encoded
//! by a writer task and decoded by the receiver; in memory they are moved.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use gb6_core_model::limits::MESH_FRAME_BYTES_MAX;
use gb6_core_wire::mesh::Class;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use crate::close::Closed;
use crate::frame::{FrameError, FrameReader, encode_frame};
use crate::lanes::{Lanes, PushError, QueueLimits};
use crate::link::Link;
use crate::memory::MemoryStream;
use crate::transport::FINISH_TIMEOUT;

/// Encoded bytes written at once: what is behind it in a lower lane waits for so much at most.
const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Frames taken for one write.
const WRITE_BATCH_FRAMES: usize = 1024;

/// A stream whose first frame was exchanged. [`Stream::split`] gives its halves; dropping it
/// refuses what the peer sends and finishes what this side would.
#[derive(Debug)]
pub struct Stream {
    link: Link,
    raw: RawStream,
}

#[derive(Debug)]
pub(crate) enum RawStream {
    Quic {
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        reader: FrameReader,
    },
    Memory(MemoryStream),
}

impl Stream {
    pub(crate) fn new(link: Link, raw: RawStream) -> Self {
        Self { link, raw }
    }

    /// The link that it belongs to.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The halves: frames `S` go out, frames `R` come in. `limits` bound what may wait to go out.
    /// Must be called within a tokio runtime.
    pub fn split<S, R>(self, limits: QueueLimits) -> (FrameSender<S>, FrameReceiver<R>)
    where
        S: Message + 'static,
        R: Message + Default + 'static,
    {
        let Stream { link, raw } = self;
        match raw {
            RawStream::Quic {
                send,
                recv,
                mut reader,
            } => {
                reader.set_limit(MESH_FRAME_BYTES_MAX);
                let lanes = Arc::new(Lanes::new(limits));
                tokio::spawn(write(send, Arc::clone(&lanes), link.clone()));
                (
                    FrameSender {
                        lanes,
                        link: link.clone(),
                        _permit: None,
                    },
                    FrameReceiver {
                        link,
                        source: Source::Quic { recv, reader },
                        failed: None,
                    },
                )
            }
            RawStream::Memory(stream) => {
                let (lanes, incoming, permit) = stream.split::<S, R>(limits);
                let failed = incoming.is_none().then_some(RecvError::Types);
                (
                    FrameSender {
                        lanes,
                        link: link.clone(),
                        _permit: Some(Arc::clone(&permit)),
                    },
                    FrameReceiver {
                        link,
                        source: Source::Memory {
                            lanes: incoming.unwrap_or_else(|| Arc::new(Lanes::new(limits))),
                            _permit: permit,
                        },
                        failed,
                    },
                )
            }
        }
    }
}

/// Why a frame was not queued at once.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrySendError<M> {
    /// The lane of its class is full: the peer reads too slowly. The frame is handed back.
    #[error("the lane is full: the peer reads too slowly")]
    Full(M),
    /// The frame is larger than any frame may be.
    #[error("a frame of {bytes} bytes is larger than the limit of {MESH_FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
    },
    /// The link ended, or the peer reads this stream no more.
    #[error("the stream is closed")]
    Closed,
}

/// Why a frame was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The frame is larger than any frame may be.
    #[error("a frame of {bytes} bytes is larger than the limit of {MESH_FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its encoded length.
        bytes: usize,
    },
    /// The link ended, or the peer reads this stream no more.
    #[error("the stream is closed")]
    Closed,
}

/// Why no further frame can be received.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecvError {
    /// The link ended.
    #[error(transparent)]
    Link(#[from] Closed),
    /// The peer gave the stream up, with this code.
    #[error("the peer reset the stream (code {0})")]
    Reset(u64),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The two ends of a stream in memory speak different frames.
    #[error("the two ends of the stream speak different frames")]
    Types,
}

/// The sending half: a bounded queue with a lane for each class. Dropping it finishes the stream
/// after what was queued.
pub struct FrameSender<M: Message + 'static> {
    lanes: Arc<Lanes<M>>,
    link: Link,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl<M: Message + 'static> std::fmt::Debug for FrameSender<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameSender")
            .field("peer", &self.link.peer().node)
            .field("waiting", &self.lanes.waiting())
            .finish()
    }
}

impl<M: Message + 'static> FrameSender<M> {
    /// Queues a frame without waiting.
    ///
    /// # Errors
    /// The lane is full (the frame comes back), the frame is too large, or the stream is closed.
    pub fn try_send(&self, class: Class, frame: M) -> Result<(), TrySendError<M>> {
        let result = self.offer(1, class, frame);
        if matches!(result, Err(TrySendError::Full(_))) {
            self.link.stats().queue_full.add(1);
        }
        result
    }

    /// Queues a frame that may be lost: without waiting, and only where its lane is then at most half
    /// full, so that it is the first to go.
    ///
    /// # Errors
    /// The lane is half full (the frame comes back), the frame is too large, or the stream is
    /// closed.
    pub fn try_send_spare(&self, class: Class, frame: M) -> Result<(), TrySendError<M>> {
        self.offer(2, class, frame)
    }

    fn offer(&self, share: usize, class: Class, frame: M) -> Result<(), TrySendError<M>> {
        let bytes = frame.encoded_len();
        if bytes > MESH_FRAME_BYTES_MAX {
            return Err(TrySendError::TooLarge { bytes });
        }
        if self.link.close_reason().is_some() {
            return Err(TrySendError::Closed);
        }
        self.lanes
            .push(share, class, frame, bytes)
            .map_err(|error| match error {
                PushError::Full(frame) => TrySendError::Full(frame),
                PushError::Closed => TrySendError::Closed,
            })?;
        let stats = self.link.stats();
        stats.frames_out.add(1);
        stats.bytes_out.add(bytes as u64);
        Ok(())
    }

    /// Queues a frame, waiting for room in its lane. Dropping the future before it is ready queues
    /// nothing.
    ///
    /// # Errors
    /// The frame is too large, or the stream is closed.
    pub async fn send(&self, class: Class, frame: M) -> Result<(), SendError> {
        let mut frame = frame;
        loop {
            let mut drained = pin!(self.lanes.drained.notified());
            drained.as_mut().enable();
            frame = match self.offer(1, class, frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(frame)) => frame,
                Err(TrySendError::TooLarge { bytes }) => return Err(SendError::TooLarge { bytes }),
                Err(TrySendError::Closed) => return Err(SendError::Closed),
            };
            tokio::select! {
                () = drained => {}
                _ = self.link.closed() => return Err(SendError::Closed),
            }
        }
    }

    /// Waits until the link has ended or the peer reads this stream no more.
    pub async fn closed(&self) {
        loop {
            let mut drained = pin!(self.lanes.drained.notified());
            drained.as_mut().enable();
            if self.lanes.is_refused() {
                return;
            }
            tokio::select! {
                () = drained => {}
                _ = self.link.closed() => return,
            }
        }
    }

    /// Frames that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.lanes.waiting()
    }

    /// The link that it belongs to.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl<M: Message + 'static> Drop for FrameSender<M> {
    fn drop(&mut self) {
        // The link is held until the peer has everything: dropping its last handle would close it.
        // On QUIC the writer holds it too, but for a bounded time after the last write.
        self.lanes.finish_holding(self.link.clone());
    }
}

/// Writes what is queued until the sender is dropped and everything was acknowledged.
async fn write<M: Message>(mut send: quinn::SendStream, lanes: Arc<Lanes<M>>, link: Link) {
    let mut stopped = pin!(send.stopped());
    let mut batch: Vec<(M, usize)> = Vec::new();
    let mut buffer = BytesMut::new();
    loop {
        let taken = tokio::select! {
            biased;
            _ = &mut stopped => 0,
            taken = lanes.take_some(WRITE_BATCH_FRAMES, WRITE_BATCH_BYTES, |frame, len| {
                batch.push((frame, len));
            }) => taken,
        };
        if taken == 0 {
            break;
        }
        for (frame, len) in batch.drain(..) {
            buffer.reserve(len + 5);
            encode_frame(&frame, len, &mut buffer);
        }
        if send.write_chunk(buffer.split().freeze()).await.is_err() {
            lanes.refuse();
            return;
        }
    }
    lanes.refuse();
    // Fails only where the stream was stopped or the link lost.
    if send.finish().is_ok() {
        // The link is held until the peer has everything: dropping its last handle would close it.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, send.stopped()).await;
    }
    drop(link);
}

enum Source<M: Message> {
    Quic {
        recv: quinn::RecvStream,
        reader: FrameReader,
    },
    Memory {
        lanes: Arc<Lanes<M>>,
        _permit: Arc<OwnedSemaphorePermit>,
    },
}

/// The receiving half. Dropping it tells the peer that nothing more is read.
pub struct FrameReceiver<M: Message + Default + 'static> {
    link: Link,
    source: Source<M>,
    failed: Option<RecvError>,
}

impl<M: Message + Default + 'static> std::fmt::Debug for FrameReceiver<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameReceiver")
            .field("peer", &self.link.peer().node)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl<M: Message + Default + 'static> FrameReceiver<M> {
    /// The next frame; `None` when the peer has finished the stream. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// The link ended, the peer reset the stream, or what came is no frame. The error stays.
    pub async fn recv(&mut self) -> Result<Option<M>, RecvError> {
        let mut one = None;
        self.receive(1, |frame| one = Some(frame)).await?;
        Ok(one)
    }

    /// Waits for a frame and appends what has come, at most `max` frames, to `frames`. Returns how
    /// many; 0 when the peer has finished the stream. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`]; frames before the error were delivered by earlier calls.
    pub async fn recv_many(&mut self, frames: &mut Vec<M>, max: usize) -> Result<usize, RecvError> {
        self.receive(max, |frame| frames.push(frame)).await
    }

    /// A frame that has come, without waiting; `None` where none has. Whether the peer has
    /// finished the stream only [`FrameReceiver::recv`] tells.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`].
    pub fn try_recv(&mut self) -> Result<Option<M>, RecvError> {
        let mut one = None;
        let polled = {
            let receiving = pin!(self.receive(1, |frame| one = Some(frame)));
            receiving.poll(&mut Context::from_waker(Waker::noop()))
        };
        match polled {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(one),
        }
    }

    /// The link that it belongs to.
    pub fn link(&self) -> &Link {
        &self.link
    }

    async fn receive(&mut self, max: usize, each: impl FnMut(M)) -> Result<usize, RecvError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let result = match &mut self.source {
            Source::Quic { recv, reader } => {
                receive_quic(&self.link, recv, reader, max, each).await
            }
            Source::Memory { lanes, .. } => receive_memory(&self.link, lanes, max, each).await,
        };
        match result {
            Ok(received) => {
                self.link.stats().frames_in.add(received as u64);
                Ok(received)
            }
            Err(error) => {
                if matches!(error, RecvError::Frame(_)) {
                    self.link.stats().frames_bad.add(1);
                }
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl<M: Message + Default + 'static> Drop for FrameReceiver<M> {
    fn drop(&mut self) {
        // On QUIC dropping the stream says it to the peer.
        if let Source::Memory { lanes, .. } = &self.source {
            lanes.refuse();
        }
    }
}

async fn receive_memory<M>(
    link: &Link,
    lanes: &Lanes<M>,
    max: usize,
    mut each: impl FnMut(M),
) -> Result<usize, RecvError> {
    // As on QUIC, what was on its way when the link ended is lost.
    if let Some(reason) = link.close_reason() {
        return match lanes.is_exhausted() {
            true => Ok(0),
            false => Err(RecvError::Link(reason)),
        };
    }
    let (taken, more) = lanes.take(max.max(1), usize::MAX, |frame, _| each(frame));
    if taken > 0 || !more {
        return Ok(taken);
    }
    tokio::select! {
        biased;
        reason = link.closed() => Err(RecvError::Link(reason)),
        taken = lanes.take_some(max.max(1), usize::MAX, |frame, _| each(frame)) => Ok(taken),
    }
}

async fn receive_quic<M: Message + Default>(
    link: &Link,
    recv: &mut quinn::RecvStream,
    reader: &mut FrameReader,
    max: usize,
    mut each: impl FnMut(M),
) -> Result<usize, RecvError> {
    let mut received = 0;
    loop {
        while received < max.max(1) {
            match reader.next_frame::<M>() {
                Ok(Some(frame)) => {
                    each(frame);
                    received += 1;
                }
                Ok(None) => break,
                // The frames before the broken one are delivered; the next call meets it again.
                Err(_) if received > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        if received > 0 {
            return Ok(received);
        }
        match recv.read(reader.space()).await {
            Ok(Some(n)) => {
                reader.filled(n);
                link.stats().bytes_in.add(n as u64);
            }
            Ok(None) => {
                reader.finish()?;
                return Ok(0);
            }
            Err(error) => return Err(read_error(link, error)),
        }
    }
}

fn read_error(link: &Link, error: quinn::ReadError) -> RecvError {
    match error {
        quinn::ReadError::Reset(code) => RecvError::Reset(code.into_inner()),
        // Where this side closed, the link knows with what words.
        quinn::ReadError::ConnectionLost(error) => RecvError::Link(
            link.close_reason()
                .unwrap_or_else(|| Closed::from_quic(&error)),
        ),
        other => RecvError::Link(Closed::Lost(other.to_string().into())),
    }
}
