//! The framing of a stream: each frame is its length as a varint, then its Protobuf bytes. Pure,
//! so that it is fuzzed and tested without a network.

use bytes::BufMut;
use gb6_core_model::limits::MESH_FRAME_BYTES_MAX;
use prost::Message;

/// Bytes read from the transport at once, and the size to which a reader's buffer returns: about
/// a hundred small frames for one wakeup.
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// A free rest of the buffer below this is worth moving the buffered bytes to its front.
const READ_SPACE_MIN: usize = 4 * 1024;
/// Longest length prefix: a `u32` in base 128.
const PREFIX_BYTES_MAX: usize = 5;

/// What is wrong with received bytes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix does not end.
    #[error("a frame's length prefix does not end within {PREFIX_BYTES_MAX} bytes")]
    BadPrefix,
    /// The frame is larger than the stream allows.
    #[error("a frame of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not the expected message.
    #[error("a frame is not the expected message: {0}")]
    Malformed(prost::DecodeError),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, after {0} bytes of it")]
    Truncated(usize),
}

/// Appends `frame`, whose encoded length is `len`, with its length prefix.
pub fn encode_frame<M: Message>(frame: &M, len: usize, out: &mut impl BufMut) {
    prost::encoding::encode_varint(len as u64, out);
    frame.encode_raw(out);
}

/// Cuts received bytes into frames. Bytes go in through [`FrameReader::space`] and
/// [`FrameReader::filled`], frames come out of [`FrameReader::next_frame`]. Memory follows what was
/// received, never what a length prefix claims.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(MESH_FRAME_BYTES_MAX)
    }
}

impl FrameReader {
    /// A reader that refuses frames above `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            limit,
        }
    }

    /// Changes the limit, for the frames after a stream's first one.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes that are buffered and not yet given out.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Where the next bytes go: never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > 4 * READ_BUFFER_BYTES {
                self.buffer.truncate(READ_BUFFER_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        if self.buffer.len() - self.end < READ_SPACE_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() - self.end < READ_SPACE_MIN {
                let grown = (self.buffer.len() * 2)
                    .clamp(READ_BUFFER_BYTES, self.limit + 2 * READ_BUFFER_BYTES)
                    .max(self.end + READ_SPACE_MIN);
                self.buffer.resize(grown, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// Says that `n` bytes were put into [`FrameReader::space`].
    pub fn filled(&mut self, n: usize) {
        debug_assert!(n <= self.buffer.len() - self.end);
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// The next whole frame, `None` until more bytes come.
    ///
    /// # Errors
    /// The framing is broken; the stream can not be read any further.
    pub fn next_frame<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((len, prefix)) = prefix(bytes)? else {
            return Ok(None);
        };
        if len > self.limit as u64 {
            return Err(FrameError::TooLarge {
                bytes: len,
                limit: self.limit,
            });
        }
        let total = prefix + len as usize;
        if bytes.len() < total {
            return Ok(None);
        }
        // Decoding from a slice copies byte fields: a small body kept for long must not keep the
        // whole read buffer alive.
        let frame = M::decode(&bytes[prefix..total]).map_err(FrameError::Malformed)?;
        self.start += total;
        Ok(Some(frame))
    }

    /// Checks that the stream did not end inside a frame.
    ///
    /// # Errors
    /// It did.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.buffered() {
            0 => Ok(()),
            rest => Err(FrameError::Truncated(rest)),
        }
    }
}

/// The length in front of `bytes` and how many bytes it takes; `None` if it is not whole yet.
fn prefix(bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
    let mut len = 0u64;
    for (i, byte) in bytes.iter().take(PREFIX_BYTES_MAX).enumerate() {
        len |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((len, i + 1)));
        }
    }
    if bytes.len() >= PREFIX_BYTES_MAX {
        return Err(FrameError::BadPrefix);
    }
    Ok(None)
}
