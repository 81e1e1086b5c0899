//! Moving records out of a log's live part into the archive.

use bytes::{Bytes, BytesMut};
use gb6_core_model::{Incarnation, Position, ShardEpoch};
use gb6_core_ports::{BlobKey, BlobWriter, Fence, LogRange, PutIf, StoreError};
use gb6_core_wire::record::Record;
use prost::Message;

use crate::archive::Archive;
use crate::format::{FIRST_UNKNOWN, FOOTER_BYTES, SegmentHeader};
use crate::index::IndexFile;
use crate::manifest::{Owner, SegmentEntry};
use crate::names::Names;
use crate::reading::SegmentError;
use crate::write::{SegmentWriter, Sink};

/// Bytes that are gathered before they are given to the store.
const PART_BYTES: usize = 1024 * 1024;
/// A segment at the archive's end is written again together with what follows it when it is at most
/// so many times as large: what is sealed in small ranges is then copied about as often as the number
/// of segments would otherwise double, and few small ones are left.
const MERGE_FACTOR: u64 = 2;

/// An object that a segment is written to.
pub(crate) struct BlobSink {
    writer: Box<dyn BlobWriter>,
    buf: BytesMut,
}

impl BlobSink {
    pub(crate) fn begin(writer: Box<dyn BlobWriter>) -> Self {
        Self {
            writer,
            buf: BytesMut::new(),
        }
    }

    /// From when this returns the object is there.
    pub(crate) fn end(mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.writer.finish().map(|_| ())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.writer.write(self.buf.split().freeze())
    }
}

impl Sink for BlobSink {
    fn put(&mut self, _: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= PART_BYTES {
            self.flush()?;
        }
        Ok(())
    }
}

/// A segment of the archive that is being written.
pub(crate) struct Output {
    name: String,
    writer: SegmentWriter<BlobSink>,
}

impl Archive {
    /// Begins a segment under a name of its own.
    pub(crate) fn output(
        &self,
        fence: &Fence,
        first: Position,
        header: SegmentHeader,
    ) -> Result<Output, StoreError> {
        let name = Names::new_segment(first, header.generation, fence);
        let sink = BlobSink::begin(self.blobs().writer(&self.names.segment(&name)?)?);
        let every = self.common.config.index_every;
        let writer = SegmentWriter::begin(header, every, sink)?;
        Ok(Output { name, writer })
    }

    /// Ends a segment that covers the positions from `first` up to `next`: its object, and its index
    /// beside it.
    pub(crate) fn close(
        &self,
        output: Output,
        first: Position,
        next: Position,
    ) -> Result<SegmentEntry, StoreError> {
        let header = output.writer.header().clone();
        let (sink, index) = output.writer.finish(first, next)?;
        sink.end()?;
        let entry = SegmentEntry {
            name: output.name,
            seq: header.seq,
            generation: header.generation,
            owner: Owner::new(header.shard_epoch, header.owner_incarnation),
            first,
            next,
            bytes: index.bounds.frames_end + FOOTER_BYTES as u64,
            records: index.bounds.records,
        };
        self.put_index(&entry.name, &index)?;
        self.common.metrics.written_bytes.inc_by(entry.bytes);
        Ok(entry)
    }

    pub(crate) fn put_index(&self, name: &str, index: &IndexFile) -> Result<(), StoreError> {
        let key = self.names.index(name)?;
        self.blobs()
            .put(&key, index.encode().into(), PutIf::Always)
            .map(|_| ())
    }

    /// Begins to seal what follows the archive's end: records are pushed one by one, and count once
    /// [`Sealer::finish`] has returned. `about_bytes` is an estimate of them: small segments at the
    /// archive's end are written again together with what follows where that is worth it, so that sealing
    /// small ranges often leaves few segments. With 0 none is, and a segment begins and ends where this does:
    /// for `seal_around`.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn sealer(&self, fence: &Fence, about_bytes: u64) -> Result<Sealer<'_>, StoreError> {
        self.check(fence)?;
        let manifest = self.current();
        Ok(Sealer {
            archive: self,
            fence: fence.clone(),
            about_bytes,
            begin: manifest.next,
            next: manifest.next,
            next_seq: manifest.next_seq,
            open: None,
            sealed: Vec::new(),
            replaced: Vec::new(),
        })
    }
}

/// Records on their way into the archive. Dropped unfinished, it has changed nothing.
pub struct Sealer<'a> {
    archive: &'a Archive,
    fence: Fence,
    about_bytes: u64,
    /// The archive's end when it began.
    begin: Position,
    next: Position,
    next_seq: u64,
    /// The first position of the segment that is being written.
    open: Option<(Position, Output)>,
    sealed: Vec<SegmentEntry>,
    /// Segments of the archive that the first new one holds too.
    replaced: Vec<SegmentEntry>,
}

impl Sealer<'_> {
    /// The position that the next record must have.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Adds a record, which is of the ownership that it says.
    ///
    /// # Errors
    /// `Conflict`: its position does not follow. What the store answers: begin again.
    pub fn push(&mut self, record: &Record) -> Result<(), StoreError> {
        self.push_encoded(record, &record.encode_to_vec())
    }

    /// Adds a record as it is encoded, with fields that are not known here.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn push_encoded(&mut self, record: &Record, encoded: &[u8]) -> Result<(), StoreError> {
        if record.position != self.next {
            return Err(StoreError::Conflict {
                what: format!(
                    "a record has position {}, the archive goes on at {}",
                    record.position, self.next
                ),
            });
        }
        let epoch = ShardEpoch(record.shard_epoch);
        let incarnation = Incarnation(record.owner_incarnation);
        let largest = self.archive.common.config.segment_bytes_max;
        let goes_on = self.open.as_ref().is_some_and(|(_, output)| {
            let header = output.writer.header();
            let same = header.shard_epoch == epoch && header.owner_incarnation == incarnation;
            same && output.writer.bytes() + (encoded.len() as u64) < largest
        });
        if !goes_on {
            self.close_open()?;
            self.begin_segment(Owner::new(epoch, incarnation))?;
        }
        if let Some((_, output)) = &mut self.open {
            output.writer.push(record, encoded)?;
        }
        self.next += 1;
        Ok(())
    }

    fn begin_segment(&mut self, owner: Owner) -> Result<(), StoreError> {
        let archive = self.archive;
        let merged = match self.sealed.is_empty() {
            true => self.worth_merging(owner),
            false => Vec::new(),
        };
        let first = merged.first().map_or(self.next, |s| s.first);
        let header = SegmentHeader {
            seq: self.next_seq,
            shard_epoch: ShardEpoch(owner.epoch),
            owner_incarnation: Incarnation(owner.incarnation),
            first: FIRST_UNKNOWN,
            shard: archive.shard,
            generation: 0,
            region: self.fence.region.to_string(),
        };
        let mut output = archive.output(&self.fence, first, header)?;
        for segment in &merged {
            archive.copy(segment, &mut output)?;
        }
        self.next_seq += 1;
        self.replaced.extend(merged);
        self.open = Some((first, output));
        Ok(())
    }

    /// The segments at the archive's end that are written again with what follows them.
    fn worth_merging(&self, owner: Owner) -> Vec<SegmentEntry> {
        let manifest = self.archive.current();
        if manifest.next != self.begin {
            return Vec::new();
        }
        let mut bytes = self.about_bytes;
        let mut merged = Vec::new();
        for segment in manifest.segments.iter().rev() {
            let worth = segment.generation == 0
                && segment.owner == owner
                && segment.bytes <= bytes.saturating_mul(MERGE_FACTOR)
                && bytes + segment.bytes <= self.archive.common.config.segment_bytes_max;
            if !worth {
                break;
            }
            bytes += segment.bytes;
            merged.push(segment.clone());
        }
        merged.reverse();
        merged
    }

    fn close_open(&mut self) -> Result<(), StoreError> {
        if let Some((first, output)) = self.open.take() {
            let entry = self.archive.close(output, first, self.next)?;
            self.sealed.push(entry);
        }
        Ok(())
    }

    /// Makes what was pushed part of the archive, and stores `resume` (at most 64 KiB): how the engine
    /// goes on behind it. Answers what the archive holds then.
    ///
    /// # Errors
    /// `Fenced`; `Conflict`: the archive was changed meanwhile, begin again; `OutcomeUnknown`: refresh
    /// and look at its range.
    pub fn finish(mut self, resume: Bytes) -> Result<LogRange, StoreError> {
        self.close_open()?;
        let sealed = std::mem::take(&mut self.sealed);
        let replaced = std::mem::take(&mut self.replaced);
        let (archive, next, next_seq) = (self.archive, self.next, self.next_seq);
        let manifest = archive.change("seal", &self.fence, |manifest| {
            let is_in = |s: &SegmentEntry| manifest.segments.iter().any(|m| m.name == s.name);
            if !sealed.is_empty() && sealed.iter().all(is_in) {
                return Ok(false);
            }
            let as_it_was = manifest.next == self.begin
                && manifest.next_seq <= next_seq
                && manifest.segments.ends_with(&replaced);
            if !as_it_was {
                return Err(StoreError::Conflict {
                    what: format!(
                        "the archive ends at {} now, not as it did at {}",
                        manifest.next, self.begin
                    ),
                });
            }
            let kept = manifest.segments.len() - replaced.len();
            manifest.segments.truncate(kept);
            manifest.segments.extend(sealed.iter().cloned());
            manifest.next = next;
            manifest.next_seq = next_seq;
            manifest.resume = resume.clone();
            Ok(true)
        })?;
        let mut gone: Vec<BlobKey> = Vec::new();
        for segment in &replaced {
            gone.extend(archive.keys_of(segment)?);
        }
        // The records are archived: what can not be deleted now is tried again later.
        if let Err(error) = archive
            .delete(gone)
            .and_then(|()| archive.tidy(&self.fence))
        {
            tracing::warn!(shard = %archive.shard, %error, "old objects of the archive are left for later");
        }
        Ok(manifest.range())
    }
}

impl Archive {
    /// Copies the records of a whole segment.
    fn copy(&self, segment: &SegmentEntry, output: &mut Output) -> Result<(), StoreError> {
        let manifest = self.current();
        let object = self.object(segment, false)?;
        let mut failed = None;
        let read = self.read_segment(
            &manifest,
            segment,
            segment.first,
            &object,
            &mut |record, encoded| {
                failed = output.writer.push(&record, encoded).err();
                failed.is_none()
            },
        );
        match (read, failed) {
            (Err(SegmentError::Store(e) | SegmentError::Gone(e)), _) | (_, Some(e)) => Err(e),
            (Ok(_), None) => Ok(()),
        }
    }
}

impl Output {
    /// The segment's writer.
    pub(crate) fn writer(&mut self) -> &mut SegmentWriter<BlobSink> {
        &mut self.writer
    }
}
