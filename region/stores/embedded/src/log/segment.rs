//! A segment as its readers and its writer share it.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::StoreError;
use gb6_region_archive::format::{FORMAT_VERSION, HEADER_BYTES, HeaderError, SegmentHeader};
use gb6_region_archive::index::{Bounds, INDEX_BYTES_MAX, IndexFile, Point};
use gb6_region_archive::scan::{ScanOptions, scan};
use gb6_region_archive::summary::Summary;
use parking_lot::{Mutex, RwLock};

use crate::vfs::{Named, Vfs, VfsFile, io_error, read_exact_at, read_file};

/// The name of a segment's file.
pub(crate) fn segment_name(seq: u64) -> String {
    format!("{seq:016}.seg")
}

/// The name of a segment's index file.
pub(crate) fn index_name(seq: u64) -> String {
    format!("{seq:016}.idx")
}

/// The number of the segment with this file name.
pub(crate) fn segment_seq(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let well_formed = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

/// What of a segment may change: the open one grows, the others are as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentState {
    pub(crate) first: Position,
    /// The position after the last committed record.
    pub(crate) end: Position,
    /// Where the committed batches end, in bytes.
    pub(crate) frames_end: u64,
    pub(crate) records: u64,
    pub(crate) sealed: bool,
    /// `None`: not loaded yet.
    pub(crate) points: Option<Vec<Point>>,
}

impl SegmentState {
    /// Its bounds.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            first: self.first,
            end: self.end,
            frames_end: self.frames_end,
            records: self.records,
        }
    }
}

/// One segment of a log. A rewritten segment is a new value with a higher generation.
pub(crate) struct Segment<F> {
    pub(crate) header: SegmentHeader,
    pub(crate) state: RwLock<SegmentState>,
    file: Mutex<Option<Arc<F>>>,
}

/// Why a segment could not be read.
pub(crate) enum SegmentError {
    /// The file was replaced or removed since the reader looked: look again.
    Moved,
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for SegmentError {
    fn from(e: StoreError) -> Self {
        SegmentError::Store(e)
    }
}

impl<F: VfsFile> Segment<F> {
    pub(crate) fn new(header: SegmentHeader, state: SegmentState, file: Option<Arc<F>>) -> Self {
        Self {
            header,
            state: RwLock::new(state),
            file: Mutex::new(file),
        }
    }

    pub(crate) fn name(&self) -> String {
        segment_name(self.header.seq)
    }

    /// The open file, opened when it is not. The flag says whether this call opened it.
    pub(crate) fn file<V: Vfs<File = F>>(&self, vfs: &V) -> Result<(Arc<F>, bool), SegmentError> {
        let mut slot = self.file.lock();
        if let Some(file) = &*slot {
            return Ok((file.clone(), false));
        }
        let name = self.name();
        let file = match vfs.open(&name) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(SegmentError::Moved),
            Err(e) => return Err(io_error("open", vfs.path(&name), &e).into()),
        };
        let header = read_header(vfs, &name, &file)?;
        if header.generation != self.header.generation {
            return Err(SegmentError::Moved);
        }
        let file = Arc::new(file);
        *slot = Some(file.clone());
        Ok((file, true))
    }

    /// What its index file says, with `summary`.
    pub(crate) fn index(&self, summary: Summary) -> IndexFile {
        let state = self.state.read();
        IndexFile {
            seq: self.header.seq,
            generation: self.header.generation,
            bounds: state.bounds(),
            points: state.points.clone().unwrap_or_default(),
            summary: Some(summary),
        }
    }

    /// Its bounds and its sparse index, as they are now.
    pub(crate) fn indexed(&self) -> (Bounds, Vec<Point>) {
        let state = self.state.read();
        (state.bounds(), state.points.clone().unwrap_or_default())
    }

    /// Lets the file be closed once nobody reads it; the next reader opens it again.
    pub(crate) fn close(&self) {
        *self.file.lock() = None;
    }

    /// Loads the sparse index where it is not there yet: from the index file, else by reading the
    /// segment.
    pub(crate) fn load_points<V: Vfs<File = F>>(
        &self,
        vfs: &V,
        file: &F,
        index_every: u64,
    ) -> Result<(), StoreError> {
        if self.state.read().points.is_some() {
            return Ok(());
        }
        if let Some(index) = read_index(vfs, &self.header) {
            let mut state = self.state.write();
            // An index that does not lead to the first batch would hide records.
            let leads = match index.points.first() {
                Some((_, byte)) => *byte == HEADER_BYTES as u64,
                None => state.records == 0,
            };
            let fits = index.bounds.end == state.end && index.bounds.frames_end == state.frames_end;
            if leads && fits {
                state.points = Some(index.points);
                return Ok(());
            }
        }
        let limit = self.state.read().end;
        let options = ScanOptions {
            path: vfs.path(&self.name()),
            limit,
            index_every,
        };
        let found = scan(file, &self.header, &options, |_, _, _| Ok(()))?;
        self.state.write().points = Some(found.points);
        Ok(())
    }
}

/// Reads and checks the header of a segment's file.
pub(crate) fn read_header<V: Vfs>(
    vfs: &V,
    name: &str,
    file: &V::File,
) -> Result<SegmentHeader, StoreError> {
    let corrupt = |detail: String| StoreError::Corrupt {
        segment: vfs.path(name),
        byte: 0,
        position: 0,
        detail,
    };
    let mut bytes = [0; HEADER_BYTES];
    match read_exact_at(file, 0, &mut bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(corrupt("the file is shorter than a header".into()));
        }
        other => other.named(vfs, "read", name)?,
    }
    let header = SegmentHeader::decode(&bytes).map_err(|e| match e {
        HeaderError::Damaged(detail) => corrupt(detail.into()),
        HeaderError::Newer(found) => StoreError::Format {
            path: vfs.path(name),
            found,
            supported: FORMAT_VERSION,
        },
    })?;
    if segment_seq(name).is_some_and(|seq| seq != header.seq) {
        return Err(corrupt(format!(
            "the header says that this is segment {}",
            header.seq
        )));
    }
    Ok(header)
}

/// The index file of a segment, when there is a whole one of its generation.
pub(crate) fn read_index<V: Vfs>(vfs: &V, header: &SegmentHeader) -> Option<IndexFile> {
    let name = index_name(header.seq);
    if !vfs.exists(&name).ok()? {
        return None;
    }
    let bytes = read_file(vfs, &name, INDEX_BYTES_MAX).ok()?;
    IndexFile::decode(&bytes, header.seq, header.generation)
}
