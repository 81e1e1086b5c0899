//! Reading archived records.

use std::io;
use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::{BlobKey, Page, StoreError};
use gb6_core_wire::record::Record;

use crate::archive::Archive;
use crate::format::HEADER_BYTES;
use crate::index::{Bounds, INDEX_BYTES_MAX, IndexFile};
use crate::manifest::{Manifest, SegmentEntry};
use crate::object::Object;
use crate::read::SegmentView;
use crate::scan::{ScanOptions, scan};
use crate::walk::WalkError;

/// How often a read begins again because a segment was replaced under it.
const RETRIES: usize = 16;
/// Bytes read at a time for single records.
const POINT_CHUNK: usize = 64 * 1024;
/// Bytes read at a time for pages.
const PAGE_CHUNK: usize = 1024 * 1024;

/// Why a segment could not be read.
pub(crate) enum SegmentError {
    /// Its object is not there.
    Gone(StoreError),
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for SegmentError {
    fn from(e: StoreError) -> Self {
        SegmentError::Store(e)
    }
}

fn missing(segment: &SegmentEntry, path: &str) -> SegmentError {
    SegmentError::Gone(StoreError::Corrupt {
        segment: path.to_owned(),
        byte: 0,
        position: segment.first,
        detail: "the manifest names this object, and it is not there".into(),
    })
}

/// The error of reading a segment's object.
fn read_error(error: WalkError, segment: &SegmentEntry, path: &str) -> SegmentError {
    match error {
        WalkError::Io(e) if e.kind() == io::ErrorKind::NotFound => missing(segment, path),
        other => other.of(path).into(),
    }
}

impl Archive {
    /// Runs `read` with the newest manifest known; again with a newer one while an object is gone.
    pub(crate) fn reading<T>(
        &self,
        mut read: impl FnMut(&Manifest) -> Result<T, SegmentError>,
    ) -> Result<T, StoreError> {
        for _ in 0..RETRIES {
            let manifest = self.current();
            match read(&manifest) {
                Ok(value) => return Ok(value),
                Err(SegmentError::Store(e)) => return Err(e),
                Err(SegmentError::Gone(missing)) => {
                    // Changed by this handle meanwhile, or by another one.
                    let changed = self.current().number > manifest.number;
                    if !changed && !self.refresh()? {
                        return Err(missing);
                    }
                }
            }
        }
        Err(StoreError::Unavailable {
            cause: "archived segments were replaced faster than they could be read".into(),
        })
    }

    /// The index of a segment: as it was written beside it, else made from its records.
    pub(crate) fn index(
        &self,
        manifest: &Manifest,
        segment: &SegmentEntry,
    ) -> Result<Arc<IndexFile>, SegmentError> {
        let key = self.names.index(&segment.name)?;
        if let Some(index) = self.common.indexes.lock().get(&key) {
            return Ok(index);
        }
        let stored = match self.blobs().get(&key, INDEX_BYTES_MAX) {
            Ok(stored) => stored,
            // Derived: made again.
            Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let read = stored
            .and_then(|bytes| IndexFile::decode(&bytes, segment.seq, segment.generation))
            .filter(|index| fits(index, segment));
        let index = match read {
            Some(index) => index,
            None => self.index_from_records(manifest, segment)?,
        };
        Ok(self.keep_index(key, index))
    }

    /// Keeps an index in memory.
    pub(crate) fn keep_index(&self, key: BlobKey, index: IndexFile) -> Arc<IndexFile> {
        let index = Arc::new(index);
        let weight = index.weight();
        self.common.indexes.lock().put(key, index.clone(), weight);
        index
    }

    fn index_from_records(
        &self,
        manifest: &Manifest,
        segment: &SegmentEntry,
    ) -> Result<IndexFile, SegmentError> {
        let object = self.object(segment, false)?;
        let path = object.key.to_string();
        let options = ScanOptions {
            path: path.clone(),
            limit: Position::MAX,
            index_every: self.common.config.index_every,
        };
        let header = segment.header(manifest);
        // The scan knows no objects that are gone.
        if self.blobs().head(&object.key)?.is_none() {
            return Err(missing(segment, &path));
        }
        let found = scan(&object, &header, &options, |_, _, _| Ok(()))?;
        let index = IndexFile {
            seq: segment.seq,
            generation: segment.generation,
            bounds: bounds_of(segment),
            points: found.points,
            summary: None,
        };
        let whole = found.frames_end == segment.frames_end() && fits(&index, segment);
        if !whole {
            return Err(StoreError::Corrupt {
                segment: path,
                byte: found.frames_end,
                position: segment.first,
                detail: "the segment's batches do not end where the manifest says".into(),
            }
            .into());
        }
        Ok(index)
    }

    /// Hands the records of one segment from `from` on to `each`, decoded and as they lie there, until it
    /// answers false. Answers whether it always answered true.
    pub(crate) fn read_segment(
        &self,
        manifest: &Manifest,
        segment: &SegmentEntry,
        from: Position,
        object: &Object,
        each: &mut dyn FnMut(Record, &[u8]) -> bool,
    ) -> Result<bool, SegmentError> {
        let index = self.index(manifest, segment)?;
        let view = SegmentView {
            file: object,
            header: &segment.header(manifest),
            bounds: bounds_of(segment),
            points: &index.points,
        };
        view.read(from, PAGE_CHUNK, each)
            .map_err(|e| read_error(e, segment, object.key.as_str()))
    }

    /// Reads from `from` on: at most `max_records`, at most `max_bytes` of encoded records, but always one
    /// where there is one. `end` of the page is the archive's; a page at or behind it is empty.
    ///
    /// # Errors
    /// `Trimmed` before the first kept position; `Corrupt`; `Unavailable`.
    pub fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        let mut page = Page {
            next: from,
            ..Page::default()
        };
        let mut bytes = 0;
        self.reading(|manifest| {
            self.fill(manifest, &mut page, &mut bytes, max_records, max_bytes)
        })?;
        Ok(page)
    }

    fn fill(
        &self,
        manifest: &Manifest,
        page: &mut Page,
        bytes: &mut usize,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<(), SegmentError> {
        page.end = manifest.next;
        if page.next < manifest.first {
            let first = manifest.first;
            return Err(StoreError::Trimmed { first }.into());
        }
        let begin = manifest.segments.partition_point(|s| s.next <= page.next);
        for segment in &manifest.segments[begin..] {
            let object = self.object(segment, true)?;
            let from = page.next;
            let mut take = |record: Record, encoded: &[u8]| {
                let size = encoded.len();
                let full = page.records.len() >= max_records || *bytes + size > max_bytes;
                if full && !page.records.is_empty() {
                    return false;
                }
                *bytes += size;
                page.next = record.position + 1;
                page.records.push(record);
                true
            };
            if !self.read_segment(manifest, segment, from, &object, &mut take)? {
                return Ok(());
            }
            // A segment's last records may have been dropped: read on behind the hole.
            page.next = page.next.max(segment.next);
        }
        Ok(())
    }

    /// Reads the records at `positions`, in the order asked; `None` where it was dropped or trimmed, or
    /// lies behind the archive's end.
    ///
    /// # Errors
    /// `Corrupt`; `Unavailable`.
    pub fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        let mut order: Vec<usize> = (0..positions.len()).collect();
        order.sort_unstable_by_key(|i| positions[*i]);
        let mut found = vec![None; positions.len()];
        let mut done = 0;
        self.reading(|manifest| {
            while let Some(wanted) = order.get(done).map(|i| positions[*i]) {
                if wanted >= manifest.next {
                    return Ok(());
                }
                let Some(segment) = manifest.index_of(wanted).map(|i| &manifest.segments[i]) else {
                    done += 1;
                    continue;
                };
                let index = self.index(manifest, segment)?;
                let object = self.object(segment, true)?;
                let view = SegmentView {
                    file: &object,
                    header: &segment.header(manifest),
                    bounds: bounds_of(segment),
                    points: &index.points,
                };
                view.find(positions, &order, POINT_CHUNK, &mut done, &mut found)
                    .map_err(|e| read_error(e, segment, object.key.as_str()))?;
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// The bounds of an archived segment.
pub(crate) fn bounds_of(segment: &SegmentEntry) -> Bounds {
    Bounds {
        first: segment.first,
        end: segment.next,
        frames_end: segment.frames_end(),
        records: segment.records,
    }
}

/// Whether an index is one of this segment and leads to its first batch.
fn fits(index: &IndexFile, segment: &SegmentEntry) -> bool {
    let leads = match index.points.first() {
        Some((_, byte)) => *byte == HEADER_BYTES as u64,
        None => segment.records == 0,
    };
    leads && index.bounds == bounds_of(segment)
}
