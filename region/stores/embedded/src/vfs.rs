//! What the log needs of a directory of files, small enough that a simulated disk can stand in.

use std::io;

use gb6_core_ports::StoreError;
use gb6_region_archive::ReadAt;
use gb6_region_archive::format::SegmentHeader;
use gb6_region_archive::index::Bounds;
pub(crate) use gb6_region_archive::read_at::{io_error, is_full, read_exact_at};

/// One open file. Offsets are explicit, so that readers and the writer share a handle.
pub trait VfsFile: ReadAt {
    /// Writes all of `data` at `offset`. On an error any prefix may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes `[offset, offset + len)` blocks that exist and read as zeros, so that later writes
    /// there need no space and no metadata.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the file's data, and what is needed to find it, durable (fdatasync). After an error
    /// nothing is known about any write since the last success.
    fn sync(&self) -> io::Result<()>;
    /// Sets the length; a longer file reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// One directory. Names are plain file names. Creations, renames and removals are durable after
/// [`Vfs::sync_dir`].
pub trait Vfs: Clone + Send + Sync + 'static {
    /// Its files.
    type File: VfsFile;
    /// Creates a file; `AlreadyExists` when there is one.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Whether a file of this name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Renames, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Renames; `AlreadyExists` when `to` exists. Atomic: of two callers one wins.
    fn publish(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All file names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// The name as people should read it in messages: with the directory.
    fn path(&self, name: &str) -> String;
    /// The bounds of the sealed segment with this header, where they are known without reading it.
    fn sealed_bounds(&self, _header: &SegmentHeader) -> Option<Bounds> {
        None
    }
}

/// Turns the I/O errors of one directory into store errors that name the file.
pub(crate) trait Named<T> {
    /// Names what was tried, on which file.
    fn named<V: Vfs>(self, vfs: &V, operation: &'static str, name: &str) -> Result<T, StoreError>;
}

impl<T> Named<T> for io::Result<T> {
    fn named<V: Vfs>(self, vfs: &V, operation: &'static str, name: &str) -> Result<T, StoreError> {
        self.map_err(|e| io_error(operation, vfs.path(name), &e))
    }
}

/// What temporary files are called at the end.
const TEMPORARY: &str = ".tmp";
/// Names that are tried for a temporary file.
const TEMPORARY_NAMES: u32 = 1000;

/// Creates a file under a temporary name that begins with `stem` and that nobody else has, and
/// answers the name too. Whoever creates it is alone in renaming or removing it: a file that was
/// found under a name is never replaced, because somebody may be about to rename it.
pub(crate) fn create_temporary<V: Vfs>(
    vfs: &V,
    stem: &str,
) -> Result<(String, V::File), StoreError> {
    let mut number = 0;
    loop {
        let name = format!("{stem}.{number}{TEMPORARY}");
        match vfs.create(&name) {
            Ok(file) => return Ok((name, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < TEMPORARY_NAMES => {
                number += 1;
            }
            Err(e) => return Err(io_error("create", vfs.path(&name), &e)),
        }
    }
}

/// Whether a file of this name was made by [`create_temporary`].
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// Writes `data` as the whole content of `name`, durable and all or nothing: a temporary file,
/// synced, renamed over the old one.
pub(crate) fn replace_file<V: Vfs>(vfs: &V, name: &str, data: &[u8]) -> Result<(), StoreError> {
    let (temporary, file) = create_temporary(vfs, name)?;
    let written = file
        .write_at(0, data)
        .named(vfs, "write", &temporary)
        .and_then(|()| file.sync().named(vfs, "sync", &temporary))
        .and_then(|()| vfs.rename(&temporary, name).named(vfs, "rename", name));
    if let Err(e) = written {
        // Best effort: what is left is removed by the next owner and never read.
        let _ = vfs.remove(&temporary);
        return Err(e);
    }
    vfs.sync_dir().named(vfs, "sync directory of", name)
}

/// The whole content of a file of at most `limit` bytes.
pub(crate) fn read_file<V: Vfs>(vfs: &V, name: &str, limit: u64) -> Result<Vec<u8>, StoreError> {
    let file = vfs.open(name).named(vfs, "open", name)?;
    let len = file.len().named(vfs, "measure", name)?;
    if len > limit {
        return Err(StoreError::Corrupt {
            segment: vfs.path(name),
            byte: limit,
            position: 0,
            detail: format!("the file has {len} bytes, more than the {limit} it may have"),
        });
    }
    let mut data = vec![0; len as usize];
    read_exact_at(&file, 0, &mut data).named(vfs, "read", name)?;
    Ok(data)
}
