//! Rewriting a sealed segment: what is dead goes, what is erased loses its content, positions
//! stay. The new generation is made beside the old one, on any thread, and then takes its name.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::retention::erase;
use gb6_core_ports::{Retain, StoreError};
use gb6_core_wire::record::{Record, erase_encoded};
use prost::Message;

use super::format::{FOOTER_BYTES, Footer, FrameBuilder, HEADER_BYTES, SegmentHeader};
use super::index::{Bounds, IndexFile, Point};
use super::reader::Shared;
use super::segment::{Segment, SegmentError, SegmentState, segment_name};
use super::summary::Summary;
use crate::vfs::{Named, Vfs, VfsFile, create_temporary};

/// Bytes of a batch in a rewritten segment: small, so that one record is read cheaply.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes read at a time.
const READ_CHUNK: usize = 1024 * 1024;

/// A new generation of a segment that waits under a temporary name.
pub struct Rewritten<V: Vfs> {
    pub(crate) temporary: String,
    pub(crate) segment: Arc<Segment<V::File>>,
    pub(crate) replaces: u32,
    pub(crate) index: IndexFile,
    pub(crate) freed: u64,
}

impl<V: Vfs> Rewritten<V> {
    /// Bytes that the new generation is smaller by.
    pub fn freed(&self) -> u64 {
        self.freed
    }
}

struct Output<'a, V: Vfs> {
    shared: &'a Shared<V>,
    file: &'a V::File,
    name: &'a str,
    header: &'a SegmentHeader,
    batch: FrameBuilder,
    at: u64,
    points: Vec<Point>,
    records: u64,
    summary: Summary,
    failed: Option<StoreError>,
}

impl<V: Vfs> Output<'_, V> {
    /// Adds a record as it is encoded.
    fn push(&mut self, record: &Record, encoded: &[u8]) -> Result<(), StoreError> {
        let hole = self.batch.count() > 0 && record.position != self.batch.end();
        if hole || self.batch.bytes() >= BATCH_BYTES {
            self.flush()?;
        }
        let before = self.batch.bytes();
        self.batch.push_encoded(record.position, encoded);
        self.summary
            .add(record, (self.batch.bytes() - before) as u64);
        self.records += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.batch.count() == 0 {
            return Ok(());
        }
        let first = self.batch.first();
        let every = self.shared.config.index_every;
        if self.points.last().is_none_or(|(_, b)| self.at - b >= every) {
            self.points.push((first, self.at));
        }
        let frame = self
            .batch
            .seal(self.header.shard_epoch, self.header.owner_incarnation);
        self.file
            .write_at(self.at, frame)
            .named(&self.shared.vfs, "write", self.name)?;
        self.at += frame.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// What stays is copied as it lies there: a newer version may have written fields that are not
    /// known here.
    fn take(
        &mut self,
        mut record: Record,
        encoded: &[u8],
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> bool {
        let pushed = match retain(&record) {
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
        };
        self.failed = pushed.err();
        self.failed.is_none()
    }
}

impl<V: Vfs> Shared<V> {
    /// The sealed segment with this number.
    pub(crate) fn sealed_segment(&self, seq: u64) -> Result<Arc<Segment<V::File>>, StoreError> {
        let segments = self.segments();
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let found = sealed.iter().find(|s| s.header.seq == seq).cloned();
        found.ok_or_else(|| StoreError::Conflict {
            what: format!("segment {seq} is not a sealed segment of this log"),
        })
    }

    /// Writes the next generation of a segment under a temporary name. Blocks; the log goes on.
    pub(crate) fn prepare_rewrite(
        &self,
        seq: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<Rewritten<V>, StoreError> {
        let segment = self.sealed_segment(seq)?;
        let (temporary, file) = create_temporary(&self.vfs, &format!("{seq:016}.rewrite"))?;
        let made = self.write_generation(&segment, &temporary, file, retain);
        made.inspect_err(|_| {
            // Gives the space back; nothing refers to it.
            let _ = self.vfs.remove(&temporary);
        })
    }

    fn write_generation(
        &self,
        segment: &Arc<Segment<V::File>>,
        temporary: &str,
        file: V::File,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<Rewritten<V>, StoreError> {
        let vfs = &self.vfs;
        let old = {
            let state = segment.state.read();
            Bounds {
                first: state.first,
                end: state.end,
                frames_end: state.frames_end,
                records: state.records,
            }
        };
        let header = SegmentHeader {
            first: old.first,
            generation: segment.header.generation + 1,
            ..segment.header.clone()
        };
        file.write_at(0, &header.encode())
            .named(vfs, "write", temporary)?;
        let mut out = Output {
            shared: self,
            file: &file,
            name: temporary,
            header: &header,
            batch: FrameBuilder::new(),
            at: HEADER_BYTES as u64,
            points: Vec::new(),
            records: 0,
            summary: Summary::default(),
            failed: None,
        };
        let read = self.read_segment(segment, old.first, READ_CHUNK, &mut |record, encoded| {
            out.take(record, encoded, retain)
        });
        match read {
            Ok(_) => {}
            Err(SegmentError::Store(e)) => return Err(e),
            Err(SegmentError::Moved) => {
                return Err(StoreError::Conflict {
                    what: format!("segment {} was replaced meanwhile", segment.header.seq),
                });
            }
        }
        if let Some(error) = out.failed.take() {
            return Err(error);
        }
        out.flush()?;
        let bounds = Bounds {
            first: old.first,
            end: old.end,
            frames_end: out.at,
            records: out.records,
        };
        let (points, summary) = (out.points, out.summary);
        let footer = Footer {
            first: bounds.first,
            end: bounds.end,
            frames_end: bounds.frames_end,
            records: bounds.records,
            seq: header.seq,
            generation: header.generation,
        };
        file.write_at(bounds.frames_end, &footer.encode())
            .named(vfs, "write", temporary)?;
        file.set_len(bounds.frames_end + FOOTER_BYTES as u64)
            .named(vfs, "shorten", temporary)?;
        file.sync().named(vfs, "sync", temporary)?;
        Ok(Rewritten {
            temporary: temporary.to_owned(),
            replaces: segment.header.generation,
            index: IndexFile {
                seq: header.seq,
                generation: header.generation,
                bounds,
                points: points.clone(),
                summary: Some(summary),
            },
            segment: Arc::new(Segment::new(
                header,
                SegmentState {
                    first: bounds.first,
                    end: bounds.end,
                    frames_end: bounds.frames_end,
                    records: bounds.records,
                    sealed: true,
                    points: Some(points),
                },
                Some(Arc::new(file)),
            )),
            freed: old.frames_end.saturating_sub(bounds.frames_end),
        })
    }

    /// Lets a prepared generation take the segment's name.
    pub(crate) fn install(&self, rewritten: &Rewritten<V>) -> Result<(), StoreError> {
        let vfs = &self.vfs;
        let seq = rewritten.segment.header.seq;
        let current = self.sealed_segment(seq)?;
        if current.header.generation != rewritten.replaces {
            return Err(StoreError::Conflict {
                what: format!("segment {seq} was replaced meanwhile"),
            });
        }
        // Readers first: they have the new file open, and never look for it under its name while
        // the old one has that.
        self.swap(&current, &rewritten.segment);
        let name = segment_name(seq);
        let named = vfs
            .rename(&rewritten.temporary, &name)
            .named(vfs, "rename", &name);
        if let Err(e) = named {
            self.swap(&rewritten.segment, &current);
            return Err(e);
        }
        self.adopt(&rewritten.segment);
        vfs.sync_dir().named(vfs, "sync directory of", &name)?;
        // The segment is replaced whether or not this can be written: it only saves a scan.
        let _ = super::jobs::write_index(vfs, &rewritten.index);
        Ok(())
    }

    fn swap(&self, old: &Arc<Segment<V::File>>, new: &Arc<Segment<V::File>>) {
        let mut segments = self.segments.write();
        let all = segments
            .iter()
            .map(|s| if Arc::ptr_eq(s, old) { new } else { s }.clone())
            .collect();
        *segments = Arc::new(all);
    }

    /// The number of the segment that holds `position`, and whether it is the open one.
    pub(crate) fn segment_at(&self, position: Position) -> Option<(u64, bool)> {
        let segments = self.segments();
        let index = segments.partition_point(|s| s.state.read().end <= position);
        let segment = segments.get(index)?;
        let holds = segment.state.read().first <= position;
        holds.then_some((segment.header.seq, index + 1 == segments.len()))
    }
}
