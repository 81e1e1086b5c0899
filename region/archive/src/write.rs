//! Writing a sealed segment record by record: what retention and erasure leave of another, or what
//! is moved out of a log's live part.

use gb6_core_model::Position;
use gb6_core_ports::retention::erase;
use gb6_core_ports::{Retain, StoreError};
use gb6_core_wire::record::{Record, erase_encoded};
use prost::Message;

use crate::format::{Footer, FrameBuilder, HEADER_BYTES, SegmentHeader};
use crate::index::{Bounds, IndexFile, Point};
use crate::summary::Summary;

/// Bytes of a batch: small, so that one record is read cheaply. A larger record goes alone.
const BATCH_BYTES: usize = 64 * 1024;

/// Where a segment's bytes go, in their order.
pub trait Sink {
    /// Takes the bytes that stand at `at`.
    ///
    /// # Errors
    /// They could not be written: the segment is given up.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), StoreError>;
}

/// A segment that is being written.
pub struct SegmentWriter<S> {
    sink: S,
    header: SegmentHeader,
    index_every: u64,
    batch: FrameBuilder,
    at: u64,
    points: Vec<Point>,
    records: u64,
    summary: Summary,
}

impl<S: Sink> SegmentWriter<S> {
    /// Begins a segment; a point of its index stands every `index_every` bytes.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn begin(header: SegmentHeader, index_every: u64, mut sink: S) -> Result<Self, StoreError> {
        sink.put(0, &header.encode())?;
        Ok(Self {
            sink,
            header,
            index_every,
            batch: FrameBuilder::new(),
            at: HEADER_BYTES as u64,
            points: Vec::new(),
            records: 0,
            summary: Summary::default(),
        })
    }

    /// Its header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Bytes of it so far.
    pub fn bytes(&self) -> u64 {
        self.at + self.batch.bytes() as u64
    }

    /// Adds a record as it is encoded: a newer version may have written fields that are not known
    /// here. Positions ascend; one that does not follow leaves a hole.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn push(&mut self, record: &Record, encoded: &[u8]) -> Result<(), StoreError> {
        let hole = record.position != self.batch.end();
        let full = self.batch.bytes() + encoded.len() > BATCH_BYTES;
        if self.batch.count() > 0 && (hole || full) {
            self.flush()?;
        }
        let before = self.batch.bytes();
        self.batch.push_encoded(record.position, encoded);
        self.summary
            .add(record, (self.batch.bytes() - before) as u64);
        self.records += 1;
        Ok(())
    }

    /// Adds what `what` leaves of a record.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn retain(
        &mut self,
        mut record: Record,
        encoded: &[u8],
        what: Retain,
    ) -> Result<(), StoreError> {
        match what {
            Retain::Drop => Ok(()),
            Retain::Keep => self.push(&record, encoded),
            Retain::Erase => {
                erase(&mut record);
                match erase_encoded(encoded) {
                    Ok(erased) => self.push(&record, &erased),
                    // It was decoded a moment ago: a way to read it that this does not know.
                    Err(_) => self.push(&record, &record.encode_to_vec()),
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.batch.count() == 0 {
            return Ok(());
        }
        let due = |(_, byte): &Point| self.at - byte >= self.index_every;
        if self.points.last().is_none_or(due) {
            self.points.push((self.batch.first(), self.at));
        }
        let frame = self
            .batch
            .seal(self.header.shard_epoch, self.header.owner_incarnation);
        self.sink.put(self.at, frame)?;
        self.at += frame.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// Ends it with its footer: it covers the positions from `first` up to `end`. Answers where the
    /// bytes went, and its index.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn finish(mut self, first: Position, end: Position) -> Result<(S, IndexFile), StoreError> {
        self.flush()?;
        let bounds = Bounds {
            first,
            end,
            frames_end: self.at,
            records: self.records,
        };
        let footer = Footer {
            first,
            end,
            frames_end: bounds.frames_end,
            records: bounds.records,
            seq: self.header.seq,
            generation: self.header.generation,
        };
        self.sink.put(self.at, &footer.encode())?;
        let index = IndexFile {
            seq: self.header.seq,
            generation: self.header.generation,
            bounds,
            points: self.points,
            summary: Some(self.summary),
        };
        Ok((self.sink, index))
    }
}
