//! A directory of which the older part lies in an archive: segments that are not on the disk are read
//! from there. What is written, is written to the disk, and what is on the disk counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gb6_core_model::Position;
use gb6_region_archive::format::SegmentHeader;
use gb6_region_archive::index::Bounds;
use gb6_region_archive::read_at::carry;
use gb6_region_archive::{Archive, ArchivedFile, ReadAt};

use super::marker::{Marker, MarkerFile};
use crate::log::segment_seq;
use crate::vfs::{Vfs, VfsFile};

/// A directory with an archive behind it.
#[derive(Clone)]
pub struct Overlay<V: Vfs> {
    local: V,
    behind: Arc<Behind<V>>,
}

/// What lies in the archive only.
pub(crate) struct Behind<V: Vfs> {
    archive: Arc<Archive>,
    marker: Arc<MarkerFile<V>>,
    /// By number. Static: what replaces one of them is written to the disk.
    segments: BTreeMap<u64, Archived>,
    /// Those below this number have been removed, as the marker says too.
    removed_below: AtomicU64,
}

/// A segment in the archive.
struct Archived {
    header: SegmentHeader,
    /// `None`: of an owner that never wrote a batch. The archive has none for it.
    bounds: Option<Bounds>,
}

impl<V: Vfs> Behind<V> {
    /// What `marker` says of `archive`.
    pub(crate) fn new(archive: Arc<Archive>, says: &Marker, marker: Arc<MarkerFile<V>>) -> Self {
        let mut segments = BTreeMap::new();
        for segment in archive.segments() {
            if segment.header.seq >= says.before {
                break;
            }
            // Numbers have no gaps in a directory.
            let last = segments.last_key_value().map(|(seq, _)| *seq);
            for seq in last.map_or(segment.header.seq, |last| last + 1)..segment.header.seq {
                let header = SegmentHeader {
                    seq,
                    generation: 0,
                    first: Position::MAX,
                    ..segment.header.clone()
                };
                segments.insert(
                    seq,
                    Archived {
                        header,
                        bounds: None,
                    },
                );
            }
            segments.insert(
                segment.header.seq,
                Archived {
                    header: segment.header,
                    bounds: Some(segment.bounds),
                },
            );
        }
        Self {
            archive,
            marker,
            segments,
            removed_below: AtomicU64::new(says.removed),
        }
    }

    fn get(&self, seq: u64) -> Option<&Archived> {
        let removed = seq < self.removed_below.load(Ordering::Acquire);
        self.segments.get(&seq).filter(|_| !removed)
    }

    /// What lies before this position may lie in the archive only; 0: nothing does.
    fn archived_before(&self) -> Position {
        let ends = |archived: &Archived| archived.bounds.map(|bounds| bounds.end);
        self.segments.values().filter_map(ends).max().unwrap_or(0)
    }

    /// What stands under a file's name.
    fn named(&self, name: &str) -> Option<(&Archived, bool)> {
        if let Some(seq) = segment_seq(name) {
            return self.get(seq).map(|found| (found, true));
        }
        let stem = name.strip_suffix(".idx")?;
        let seq = segment_seq(&format!("{stem}.seg"))?;
        let found = self.get(seq)?;
        found.bounds.map(|_| (found, false))
    }
}

impl<V: Vfs> Overlay<V> {
    pub(crate) fn new(local: V, behind: Behind<V>) -> Self {
        Self {
            local,
            behind: Arc::new(behind),
        }
    }

    /// What lies before this position may lie in the archive only; 0: nothing does.
    pub(crate) fn archived_before(&self) -> Position {
        self.behind.archived_before()
    }
}

/// A file of such a directory.
pub enum OverlayFile<F> {
    /// On the disk.
    Local(F),
    /// A segment in the archive.
    Archived(Box<ArchivedFile>),
    /// Something small from there, in memory.
    Bytes(Vec<u8>),
}

impl<F: VfsFile> OverlayFile<F> {
    /// The file to write to.
    fn writable(&self) -> io::Result<&F> {
        match self {
            OverlayFile::Local(file) => Ok(file),
            // What is sealed is replaced by another file, never written to.
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

impl<F: VfsFile> ReadAt for OverlayFile<F> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            OverlayFile::Local(file) => file.read_at(offset, buf),
            OverlayFile::Archived(file) => file.read_at(offset, buf),
            OverlayFile::Bytes(bytes) => {
                let at = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                let rest = &bytes[at..];
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            OverlayFile::Local(file) => file.len(),
            OverlayFile::Archived(file) => file.len(),
            OverlayFile::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
}

impl<F: VfsFile> VfsFile for OverlayFile<F> {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?.write_at(offset, data)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.writable()?.allocate(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.writable()?.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?.set_len(len)
    }
}

impl<V: Vfs> Vfs for Overlay<V> {
    type File = OverlayFile<V::File>;

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.local.create(name).map(OverlayFile::Local)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        let missing = match self.local.open(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => e,
            other => return other.map(OverlayFile::Local),
        };
        let Some((found, segment)) = self.behind.named(name) else {
            return Err(missing);
        };
        let (seq, archive) = (found.header.seq, &self.behind.archive);
        if !segment {
            let bytes = archive.index_bytes(seq).map_err(carry)?;
            return bytes.map(OverlayFile::Bytes).ok_or(missing);
        }
        if found.bounds.is_none() {
            return Ok(OverlayFile::Bytes(found.header.encode().to_vec()));
        }
        let file = archive.segment_file(seq).map_err(carry)?;
        let file = file.ok_or(missing)?;
        Ok(OverlayFile::Archived(Box::new(file)))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.local.exists(name)? || self.behind.named(name).is_some())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.local.rename(from, to)
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        if self.behind.named(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.local.publish(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let archived = self.behind.named(name);
        if let Some((found, true)) = archived {
            let below = found.header.seq + 1;
            let stored = self.behind.marker.change(|marker| marker.without(below));
            stored.map_err(carry)?;
            self.behind.removed_below.fetch_max(below, Ordering::AcqRel);
        }
        match self.local.remove(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && archived.is_some() => Ok(()),
            other => other,
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.local.list()?;
        let removed = self.behind.removed_below.load(Ordering::Acquire);
        let archived = self.behind.segments.range(removed..);
        names.extend(archived.map(|(seq, _)| format!("{seq:016}.seg")));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.local.sync_dir()
    }

    fn path(&self, name: &str) -> String {
        let path = self.local.path(name);
        match self.behind.named(name) {
            Some(_) if !self.local.exists(name).unwrap_or(true) => format!("{path} (archived)"),
            _ => path,
        }
    }

    fn sealed_bounds(&self, header: &SegmentHeader) -> Option<Bounds> {
        let found = self.behind.get(header.seq)?;
        // Another generation is on the disk.
        (found.header == *header).then_some(found.bounds).flatten()
    }
}
