//! Work beside writing: allocating the next segment, sealing the one before.

use std::sync::Arc;

use gb6_core_ports::StoreError;
use gb6_region_archive::format::{FOOTER_BYTES, Footer, HEADER_BYTES, SegmentHeader};
use gb6_region_archive::index::IndexFile;
use gb6_region_archive::summary::Summary;

use super::segment::{Segment, index_name};
use crate::vfs::{Named, Vfs, VfsFile, create_temporary};

/// Slow work on a log's directory that needs nothing of the log itself.
pub struct Job<V: Vfs> {
    vfs: V,
    work: Work<V::File>,
}

enum Work<F> {
    Prepare {
        header: SegmentHeader,
        bytes: u64,
    },
    Seal {
        segment: Arc<Segment<F>>,
        file: Arc<F>,
        summary: Summary,
    },
}

/// The result of a [`Job`].
pub struct JobDone<V: Vfs> {
    vfs: V,
    pub(crate) result: Done<V::File>,
}

pub(crate) enum Done<F> {
    /// With the header that was asked for: it names the ownership that asked.
    Prepared(Box<SegmentHeader>, Result<Box<Prepared<F>>, StoreError>),
    Sealed(Result<(), StoreError>),
}

/// A segment file that waits under a temporary name: header written, blocks allocated, synced.
pub(crate) struct Prepared<F> {
    pub(crate) name: String,
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<F>,
    pub(crate) bytes: u64,
}

impl<V: Vfs> Job<V> {
    pub(crate) fn prepare(vfs: V, header: SegmentHeader, bytes: u64) -> Self {
        Self {
            vfs,
            work: Work::Prepare { header, bytes },
        }
    }

    pub(crate) fn seal(
        vfs: V,
        segment: Arc<Segment<V::File>>,
        file: Arc<V::File>,
        summary: Summary,
    ) -> Self {
        Self {
            vfs,
            work: Work::Seal {
                segment,
                file,
                summary,
            },
        }
    }

    /// Does the work. Blocks.
    pub fn run(self) -> JobDone<V> {
        let vfs = self.vfs;
        let result = match self.work {
            Work::Prepare { header, bytes } => {
                let asked = Box::new(header.clone());
                Done::Prepared(asked, prepare(&vfs, header, bytes).map(Box::new))
            }
            Work::Seal {
                segment,
                file,
                summary,
            } => Done::Sealed(seal(&vfs, &segment, &file, summary)),
        };
        JobDone { vfs, result }
    }
}

impl<V: Vfs> JobDone<V> {
    /// Undoes what nobody will use.
    pub(crate) fn discard(self) -> Result<(), StoreError> {
        match self.result {
            Done::Prepared(_, Ok(prepared)) => match self.vfs.remove(&prepared.name) {
                // The next owner may have tidied it away.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.named(&self.vfs, "remove", &prepared.name),
            },
            Done::Prepared(_, Err(e)) => Err(e),
            Done::Sealed(result) => result,
        }
    }
}

/// Creates a segment under a temporary name.
pub(crate) fn prepare<V: Vfs>(
    vfs: &V,
    header: SegmentHeader,
    bytes: u64,
) -> Result<Prepared<V::File>, StoreError> {
    let stem = format!(
        "{:016}-{:x}-{:016x}.next",
        header.seq, header.shard_epoch.0, header.owner_incarnation.0
    );
    let (name, file) = create_temporary(vfs, &stem)?;
    match fill(vfs, &name, &file, &header, bytes) {
        Ok(()) => Ok(Prepared {
            name,
            header,
            file: Arc::new(file),
            bytes,
        }),
        Err(e) => {
            // Gives the space back; nothing refers to it.
            let _ = vfs.remove(&name);
            Err(e)
        }
    }
}

fn fill<V: Vfs>(
    vfs: &V,
    name: &str,
    file: &V::File,
    header: &SegmentHeader,
    bytes: u64,
) -> Result<(), StoreError> {
    file.write_at(0, &header.encode())
        .named(vfs, "write", name)?;
    let header_bytes = HEADER_BYTES as u64;
    if bytes > header_bytes {
        file.allocate(header_bytes, bytes - header_bytes)
            .named(vfs, "allocate", name)?;
    }
    file.sync().named(vfs, "sync", name)
}

/// Writes a segment's footer, gives back the blocks behind it and writes its index file.
fn seal<V: Vfs>(
    vfs: &V,
    segment: &Segment<V::File>,
    file: &V::File,
    summary: Summary,
) -> Result<(), StoreError> {
    let name = segment.name();
    let (bounds, points) = segment.indexed();
    let footer = Footer {
        first: bounds.first,
        end: bounds.end,
        frames_end: bounds.frames_end,
        records: bounds.records,
        seq: segment.header.seq,
        generation: segment.header.generation,
    };
    file.write_at(bounds.frames_end, &footer.encode())
        .named(vfs, "write", &name)?;
    file.set_len(bounds.frames_end + FOOTER_BYTES as u64)
        .named(vfs, "shorten", &name)?;
    file.sync().named(vfs, "sync", &name)?;
    let index = IndexFile {
        seq: segment.header.seq,
        generation: segment.header.generation,
        bounds,
        points,
        summary: Some(summary),
    };
    write_index(vfs, &index)
}

/// Writes an index file. It is not synced: a damaged one is made again.
pub(crate) fn write_index<V: Vfs>(vfs: &V, index: &IndexFile) -> Result<(), StoreError> {
    let name = index_name(index.seq);
    let (temporary, file) = create_temporary(vfs, &name)?;
    let written = file
        .write_at(0, &index.encode())
        .named(vfs, "write", &temporary)
        .and_then(|()| vfs.rename(&temporary, &name).named(vfs, "rename", &name));
    written.inspect_err(|_| {
        // Nothing refers to it.
        let _ = vfs.remove(&temporary);
    })
}
