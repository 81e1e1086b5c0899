//! What a handle keeps of a shard's live part: where positions lie in Kafka, and the newest batches
//! themselves.

use std::collections::VecDeque;

use bytes::Bytes;
use gb6_core_model::{Position, ShardId};
use gb6_core_ports::StoreError;
use gb6_core_wire::record::Record;

use crate::frame::{self, FrameError, FrameHeader};
use crate::tail::Tail;

/// Bytes of batches between two entries of the index: what one read from Kafka takes at least.
const INDEX_EVERY: u64 = 512 * 1024;

/// A batch that counts, as it lies in Kafka.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) first: Position,
    pub(crate) next: Position,
    pub(crate) header: FrameHeader,
    /// The served time at this batch: what an acquire record says.
    pub(crate) served_ms: u64,
    pub(crate) message: Bytes,
}

impl Batch {
    /// Its records.
    pub(crate) fn records(&self, topic: &str) -> Result<Vec<Record>, StoreError> {
        frame::records(&self.header, &self.message, self.first, self.served_ms)
            .map_err(|error| damage(topic, None, self.first, &error))
    }
}

/// What a message that can not be read means for the log.
pub(crate) fn damage(
    topic: &str,
    offset: Option<u64>,
    position: Position,
    error: &FrameError,
) -> StoreError {
    let (found, detail) = match error {
        FrameError::Newer(version) => {
            return StoreError::Format {
                path: format!("{topic} offset {}", offset.unwrap_or_default()),
                found: *version,
                supported: frame::FRAME_VERSION,
            };
        }
        FrameError::Foreign => (offset, "it is no batch of this program"),
        FrameError::Damaged(what) => (offset, *what),
    };
    StoreError::Corrupt {
        segment: topic.to_owned(),
        byte: found.unwrap_or_default(),
        position,
        detail: detail.to_owned(),
    }
}

/// An entry of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Point {
    /// What is known before the message at its offset.
    tail: Tail,
    /// Bytes of all batches before it that this handle has seen.
    bytes: u64,
}

/// See the module.
pub(crate) struct Kept {
    /// The first one is where the archive ends.
    index: VecDeque<Point>,
    /// Bytes of all batches that this handle has seen.
    bytes: u64,
    cache: VecDeque<Batch>,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

impl Kept {
    /// Of a shard whose archive ends with `tail`.
    pub(crate) fn new(tail: Tail, cache_bytes_max: usize) -> Self {
        Self {
            index: VecDeque::from([Point { tail, bytes: 0 }]),
            bytes: 0,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
        }
    }

    /// Where the archive ends, as far as this handle knows: what lies behind is in Kafka.
    pub(crate) fn begin(&self) -> Tail {
        self.index.front().map_or_else(Tail::default, |p| p.tail)
    }

    /// Bytes of batches behind [`Kept::begin`].
    pub(crate) fn live_bytes(&self) -> u64 {
        self.bytes - self.index.front().map_or(self.bytes, |point| point.bytes)
    }

    /// Bytes of all batches that this handle has seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The newest batch.
    pub(crate) fn newest(&self) -> Option<&Batch> {
        self.cache.back()
    }

    /// Keeps a batch that counts; `before` is what was known before its message.
    pub(crate) fn push(&mut self, before: Tail, batch: Batch) {
        let last = self.index.back().map_or(0, |point| point.bytes);
        if self.bytes - last >= INDEX_EVERY {
            self.index.push_back(Point {
                tail: before,
                bytes: self.bytes,
            });
        }
        self.bytes += batch.message.len() as u64;
        self.cache_bytes += batch.message.len();
        self.cache.push_back(batch);
        self.evict();
    }

    /// Bytes of the batches in memory.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Keeps no more than so many bytes in memory from now on, and the newest batch.
    pub(crate) fn bound(&mut self, cache_bytes_max: usize) {
        self.cache_bytes_max = cache_bytes_max;
        self.evict();
    }

    fn evict(&mut self) {
        // overflow: the oldest go, and are read from Kafka.
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.len() > 1
            && let Some(oldest) = self.cache.pop_front()
        {
            self.cache_bytes -= oldest.message.len();
        }
    }

    /// The batches in memory from `from` on, in order; `None` where the first of them is not there.
    pub(crate) fn cached(&self, from: Position) -> Option<impl Iterator<Item = &Batch>> {
        let begin = self.cache.front()?.first;
        if from < begin {
            return None;
        }
        let at = self.cache.partition_point(|batch| batch.next <= from);
        Some(self.cache.range(at..))
    }

    /// Where to read in Kafka to find `position`, and the offset before which it is; `end` is what is
    /// known of the log's end.
    pub(crate) fn find(&self, position: Position, end: Tail) -> Option<(Tail, u64)> {
        if position >= end.next {
            return None;
        }
        let behind = self
            .index
            .partition_point(|point| point.tail.next <= position);
        let point = self.index.get(behind.checked_sub(1)?)?;
        let end = self.index.get(behind).map_or(end, |p| p.tail);
        Some((point.tail, end.offset))
    }

    /// What lies before `tail` is in the archive: it is forgotten here, cached batches too, for what was
    /// erased there must not be found here. `bytes` is [`Kept::bytes`] as it was there, if that is known.
    pub(crate) fn archived(&mut self, tail: Tail, bytes: Option<u64>) {
        let mut before = bytes.unwrap_or(0);
        while let Some(point) = self.index.pop_front_if(|p| p.tail.offset <= tail.offset) {
            before = before.max(point.bytes);
        }
        self.index.push_front(Point {
            tail,
            bytes: before,
        });
        while let Some(batch) = self.cache.pop_front_if(|b| b.first < tail.next) {
            self.cache_bytes -= batch.message.len();
        }
    }
}

/// The header of a message and the served time that it says, if it is an acquisition.
pub(crate) fn read_message(
    shard: ShardId,
    message: &Bytes,
) -> Result<(FrameHeader, u64), FrameError> {
    let header = FrameHeader::decode(message)?;
    if header.shard != shard {
        return Err(FrameError::Damaged("it was written for another shard"));
    }
    let served_ms = match header.is_acquire() {
        true => frame::served_ms_of(&header, message)?,
        false => 0,
    };
    Ok((header, served_ms))
}
