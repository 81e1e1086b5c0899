//! Rewriting a sealed segment: what is dead goes, what is erased loses its content, positions
//! stay. The new generation is made beside the old one, on any thread, and then takes its name.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::{Retain, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::format::{FOOTER_BYTES, SegmentHeader};
use gb6_region_archive::index::IndexFile;
use gb6_region_archive::write::{SegmentWriter, Sink};

use super::reader::Shared;
use super::segment::{Segment, SegmentError, SegmentState, segment_name};
use crate::vfs::{Named, Vfs, VfsFile, create_temporary};

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

/// The file that a new generation is written to.
struct Output<'a, V: Vfs> {
    vfs: &'a V,
    file: V::File,
    name: &'a str,
}

impl<V: Vfs> Sink for Output<'_, V> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_at(at, bytes)
            .named(self.vfs, "write", self.name)
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
        let old = segment.state.read().bounds();
        let header = SegmentHeader {
            first: old.first,
            generation: segment.header.generation + 1,
            ..segment.header.clone()
        };
        let out = Output {
            vfs,
            file,
            name: temporary,
        };
        let mut writer = SegmentWriter::begin(header.clone(), self.config.index_every, out)?;
        let mut failed = None;
        let read = self.read_segment(segment, old.first, READ_CHUNK, &mut |record, encoded| {
            let what = retain(&record);
            failed = writer.retain(record, encoded, what).err();
            failed.is_none()
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
        if let Some(error) = failed {
            return Err(error);
        }
        let (Output { file, .. }, index) = writer.finish(old.first, old.end)?;
        let (bounds, points) = (index.bounds, index.points.clone());
        file.set_len(bounds.frames_end + FOOTER_BYTES as u64)
            .named(vfs, "shorten", temporary)?;
        file.sync().named(vfs, "sync", temporary)?;
        Ok(Rewritten {
            temporary: temporary.to_owned(),
            replaces: segment.header.generation,
            index,
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
