//! Files that are being written, before they have the name of an object.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gb6_core_ports::StoreError;

use super::failed;
use super::trailer::Trailer;
use crate::sum::{Sum, Tag};

/// Where they lie: no part of a key begins with a `.`.
const STAGED: &str = ".staged";

/// Makes the directory, and removes from it what nobody writes any more: a file that is being written
/// is locked.
pub(super) fn prepare(root: &Path) -> Result<(), StoreError> {
    let directory = root.join(STAGED);
    fs::create_dir_all(&directory).map_err(|error| failed("create", &directory, &error))?;
    let entries = fs::read_dir(&directory).map_err(|error| failed("list", &directory, &error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| failed("list", &directory, &error))?
            .path();
        // Who holds the lock is writing, or is another that cleans up.
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed("delete", &path, &error));
        }
    }
    Ok(())
}

/// How often one is begun where others clean up at that moment.
const BEGIN_TRIES: usize = 16;

/// One of them. Dropped before it has a name, it is removed.
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    tag: Tag,
    sum: Sum,
    moved: bool,
}

impl Staged {
    pub(super) fn begin(root: &Path) -> Result<Self, StoreError> {
        for _ in 0..BEGIN_TRIES {
            if let Some(staged) = Self::try_begin(root)? {
                return Ok(staged);
            }
        }
        Err(StoreError::Unavailable {
            cause: format!("others remove what is begun in {}", root.display()),
        })
    }

    /// `None`: somebody who cleans up took the file, which was not locked yet.
    fn try_begin(root: &Path) -> Result<Option<Self>, StoreError> {
        let tag = Tag::new()?;
        let path = root.join(STAGED).join(tag.to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| failed("create", &path, &error))?;
        let staged = Self {
            file,
            path,
            tag,
            sum: Sum::default(),
            moved: false,
        };
        match staged.file.try_lock() {
            Ok(()) if staged.path.exists() => Ok(Some(staged)),
            Ok(()) | Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(failed("lock", &staged.path, &error)),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.sum.size
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(|error| failed("write", &self.path, &error))?;
        self.sum.add(bytes);
        Ok(())
    }

    /// Writes its trailer and makes its bytes durable; answers with its tag.
    pub(super) fn seal(&mut self) -> Result<Tag, StoreError> {
        let trailer = Trailer {
            sum: self.sum,
            tag: self.tag,
        };
        self.file
            .write_all(&trailer.to_bytes())
            .and_then(|()| self.file.sync_all())
            .map_err(|error| failed("write", &self.path, &error))?;
        Ok(self.tag)
    }

    /// Gives it the name `to`, whatever has it now.
    pub(super) fn rename(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.moved = true;
        Ok(())
    }

    /// Gives it the name `to`, where nothing has it.
    pub(super) fn link(&mut self, to: &Path) -> io::Result<()> {
        fs::hard_link(&self.path, to)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.moved {
            // Where this fails, the next who opens the store removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system's own full disk stands in for the file's.
    #[test]
    fn a_full_disk_is_told_as_such_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        prepare(dir.path()).expect("prepare");
        let mut staged = Staged::begin(dir.path()).expect("begin");
        staged.write(b"fits").expect("write");
        staged.file = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("the full device");
        let error = staged.write(b"does not").expect_err("full");
        assert!(matches!(error, StoreError::StorageFull { .. }), "{error}");
        assert!(error.retryable());
        let error = staged.seal().expect_err("full");
        assert!(matches!(error, StoreError::StorageFull { .. }), "{error}");
        assert_eq!(count(dir.path()), 1);
        drop(staged);
        assert_eq!(count(dir.path()), 0);
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_is_written_now_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        prepare(dir.path()).expect("prepare");
        fs::write(dir.path().join(STAGED).join("left"), "half").expect("write");
        let mut staged = Staged::begin(dir.path()).expect("begin");
        assert_eq!(count(dir.path()), 2);
        prepare(dir.path()).expect("prepare");
        assert_eq!(count(dir.path()), 1);
        staged.write(b"x").expect("write");
        staged.seal().expect("seal");
        staged.rename(&dir.path().join("a+")).expect("rename");
        drop(staged);
        assert!(dir.path().join("a+").exists());
    }

    fn count(root: &Path) -> usize {
        fs::read_dir(root.join(STAGED)).expect("list").count()
    }
}
