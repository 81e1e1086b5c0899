//! Objects as files of a local directory.
//!
//! The object `a/b` is the file `a/b+`: no key has a `+`, so that an object may have the name of a
//! directory. The file is the body and a [`trailer`]. It is written in `.staged/`, synced, and then
//! renamed (or linked, where nothing may be there), and its directory is synced: so it is there as a
//! whole or not at all, also after a power cut. Several processes may share a directory.

mod list;
mod staged;
mod trailer;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_ports::blobs::BLOB_PUT_MAX;
use gb6_core_ports::{BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf, StoreError};

use crate::sum::{corrupt, verify};
use staged::Staged;

/// How often a directory that vanishes while a file is put into it is made again.
const VANISHED_MAX: usize = 16;

/// How long a put waits for a delete that takes directories away. That is over at once, unless its process
/// was stopped in the midst of it.
const DELETE_MAX: Duration = Duration::from_secs(2);
/// How often it looks.
const DELETE_LOOK: Duration = Duration::from_millis(2);

/// Objects below one directory.
pub(crate) struct LocalStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
}

/// What the system answered, as an error of the port.
fn failed(operation: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::StorageFull { path }
        }
        _ => StoreError::Io {
            operation,
            path,
            detail: error.to_string(),
        },
    }
}

/// Makes what lies in a directory durable; where a delete has taken the directory, nothing is left to
/// be made so.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|directory| directory.sync_all()) {
        Err(error) if !is_absent(&error) => Err(failed("sync", path, &error)),
        _ => Ok(()),
    }
}

/// Whether this is how the system says that there is no such file.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl LocalStore {
    /// The objects in `root`, which is made where it is not there. What others left unfinished is
    /// removed; what they are writing now is not.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(|error| failed("create", root, &error))?;
        let root = fs::canonicalize(root).map_err(|error| failed("open", root, &error))?;
        staged::prepare(&root)?;
        sync_directory(&root)?;
        if let Some(parent) = root.parent() {
            sync_directory(parent)?;
        }
        Ok(Self {
            inner: Arc::new(Inner { root }),
        })
    }
}

impl Inner {
    fn path(&self, key: &BlobKey) -> PathBuf {
        self.root.join(format!("{key}{}", list::OBJECT_MARK))
    }

    /// Makes the directory of a file, durably: also where another process has just made it, which may
    /// not have synced it yet. Of what was synced before, a sync costs next to nothing.
    fn make_directory(&self, directory: &Path) -> Result<(), StoreError> {
        if directory == self.root {
            return Ok(());
        }
        let parent = directory.parent().unwrap_or(&self.root);
        self.make_directory(parent)?;
        match fs::create_dir(directory) {
            // The parent has gone meanwhile: who puts comes again.
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("create", directory, &error))
            }
            _ => sync_directory(parent),
        }
    }

    /// Keeps deletes from taking directories away for as long as the answer lives.
    fn keep_directories(&self) -> Result<File, StoreError> {
        let root = File::open(&self.root).map_err(|error| failed("open", &self.root, &error))?;
        let begun = Instant::now();
        loop {
            match root.try_lock_shared() {
                Ok(()) => return Ok(root),
                Err(TryLockError::Error(error)) => return Err(failed("lock", &self.root, &error)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < DELETE_MAX => {
                    std::thread::sleep(DELETE_LOOK);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Unavailable {
                        cause: format!(
                            "{} is locked for {DELETE_MAX:?}: a process that deletes there does not go on",
                            self.root.display()
                        ),
                    });
                }
            }
        }
    }

    /// Gives what was staged its name.
    fn publish(
        &self,
        mut staged: Staged,
        key: &BlobKey,
        when: &PutIf,
    ) -> Result<BlobMeta, StoreError> {
        let size = staged.size();
        let tag = staged.seal()?;
        let path = self.path(key);
        let directory = path.parent().unwrap_or(&self.root);
        let mut tries = 0;
        // While this is held, no delete takes a directory.
        let _puts = self.keep_directories()?;
        loop {
            self.make_directory(directory)?;
            let moved = match when {
                PutIf::Always => staged.rename(&path),
                PutIf::Absent => staged.link(&path),
            };
            match moved {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(is_there(key));
                }
                // Whoever empties the directory by hand asks nobody.
                Err(error) if is_absent(&error) && tries < VANISHED_MAX => tries += 1,
                Err(error) => return Err(failed("put", &path, &error)),
            }
        }
        sync_directory(directory).map_err(|error| StoreError::OutcomeUnknown {
            cause: error.to_string(),
        })?;
        Ok(BlobMeta {
            key: key.clone(),
            size,
            tag: tag.to_string(),
        })
    }

    /// The file of an object, and how long its body is.
    fn find(&self, key: &BlobKey) -> Result<Option<(File, PathBuf, u64)>, StoreError> {
        let path = self.path(key);
        let found = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match found {
            Ok((len, file)) => Ok(Some((file, path, len.saturating_sub(trailer::LEN)))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("open", &path, &error)),
        }
    }
}

fn is_there(key: &BlobKey) -> StoreError {
    StoreError::Conflict {
        what: format!("the object {key} is there already"),
    }
}

impl BlobStore for LocalStore {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        let size = body.len() as u64;
        if size > BLOB_PUT_MAX {
            let limit = BLOB_PUT_MAX;
            return Err(StoreError::TooLarge { size, limit });
        }
        // Only to save the work: the link decides.
        if when == PutIf::Absent && self.inner.path(key).exists() {
            return Err(is_there(key));
        }
        let mut staged = Staged::begin(&self.inner.root)?;
        staged.write(&body)?;
        self.inner.publish(staged, key, &when)
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(Writer {
            inner: self.inner.clone(),
            staged: Staged::begin(&self.inner.root)?,
            key: key.clone(),
        }))
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let Some((mut file, path, size)) = self.inner.find(key)? else {
            return Ok(None);
        };
        if size > bytes_max {
            let limit = bytes_max;
            return Err(StoreError::TooLarge { size, limit });
        }
        let mut bytes = Vec::with_capacity((size + trailer::LEN) as usize);
        // Files never change; only one that somebody else writes to could be longer than it was.
        let whole = size + trailer::LEN;
        file.by_ref()
            .take(whole)
            .read_to_end(&mut bytes)
            .map_err(|error| failed("read", &path, &error))?;
        let mut body = Bytes::from(bytes);
        if body.len() < trailer::LEN as usize {
            return Err(corrupt(
                key,
                "the file is shorter than its trailer".to_owned(),
            ));
        }
        let end = body.split_off(body.len() - trailer::LEN as usize);
        let trailer = trailer::read(&end, key, &path)?;
        verify(key, &body, trailer.sum)?;
        Ok(Some(body))
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let asked = range.end.saturating_sub(range.start);
        if asked > BLOB_PUT_MAX {
            return Err(StoreError::TooLarge {
                size: asked,
                limit: BLOB_PUT_MAX,
            });
        }
        let Some((mut file, path, size)) = self.inner.find(key)? else {
            return Ok(None);
        };
        let len = range.end.min(size).saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(len as usize);
        if len > 0 {
            file.seek(SeekFrom::Start(range.start))
                .and_then(|_| file.take(len).read_to_end(&mut bytes))
                .map_err(|error| failed("read", &path, &error))?;
        }
        Ok(Some(bytes.into()))
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        list::meta(&self.inner.path(key), key.clone())
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        list::list(&self.inner.root, prefix, after, limit)
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        let path = self.inner.path(key);
        match fs::remove_file(&path) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other.map_err(|error| failed("delete", &path, &error))?,
        }
        let mut directory = path.parent().unwrap_or(&self.inner.root);
        sync_directory(directory)?;
        // Directories that are empty now go too, unless something is being put; this fails at the first that
        // is not.
        let root = File::open(&self.inner.root)
            .map_err(|error| failed("open", &self.inner.root, &error))?;
        if root.try_lock().is_err() {
            return Ok(());
        }
        while directory != self.inner.root && fs::remove_dir(directory).is_ok() {
            directory = directory.parent().unwrap_or(&self.inner.root);
        }
        Ok(())
    }

    fn presign(
        &self,
        _key: &BlobKey,
        _what: Presigned,
        _valid: Duration,
    ) -> Result<String, StoreError> {
        Err(StoreError::Unsupported {
            feature: "URLs of objects in a local directory: keep them on S3",
        })
    }
}

struct Writer {
    inner: Arc<Inner>,
    staged: Staged,
    key: BlobKey,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.staged.write(&bytes)
    }

    fn finish(self: Box<Self>) -> Result<BlobMeta, StoreError> {
        self.inner.publish(self.staged, &self.key, &PutIf::Always)
    }
}
