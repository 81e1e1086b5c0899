//! WebSocket frames as a framing of a connection: what goes out leaves as it was encoded.

use std::collections::VecDeque;

use bytes::Bytes;
use gb6_core_wire::client::{Dialect, close_frame, pong_frame};

use super::reader::FrameReader;
use crate::connection::batch::{Batch, Envelope};
use crate::connection::framing::{Farewell, Framing, Incoming, Verdict};

/// The framing of one WebSocket.
pub(crate) struct WebSocket {
    reader: FrameReader,
    bytes_max: usize,
}

impl WebSocket {
    /// Messages of up to `bytes_max` bytes are taken.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            reader: FrameReader::new(bytes_max),
            bytes_max,
        }
    }
}

impl Framing for WebSocket {
    const ANSWERS_CLOSE: bool = true;

    fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Verdict> {
        self.reader.next(input).map_err(|error| Verdict {
            code: error.close_code(),
            reason: error.close_reason(),
            reconnect: false,
        })
    }

    fn forget(&mut self) {
        self.reader = FrameReader::new(self.bytes_max);
    }

    fn envelope(&self) -> Envelope {
        Envelope::Bare
    }

    fn push(&self, frame: Bytes, batch: &mut Batch) {
        batch.push(frame);
    }

    fn append(&self, frames: VecDeque<Bytes>, batch: &mut Batch) {
        batch.append(frames);
    }

    fn verdict(&self, _: Dialect, verdict: Farewell<'_>) -> Bytes {
        close_frame(verdict.code, verdict.reason)
    }

    fn pong(&self, payload: &[u8]) -> Option<Bytes> {
        Some(pong_frame(payload))
    }
}
