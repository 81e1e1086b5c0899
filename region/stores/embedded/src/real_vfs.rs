//! The directory of files of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gb6_region_archive::ReadAt;
use rustix::fs::{CWD, RenameFlags};

use crate::vfs::{Vfs, VfsFile};

/// Bytes of zeros written at a time when blocks are allocated.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
/// Bytes that are allocated before they are synced: about what a sync costs in any case.
const ALLOCATE_STEP: u64 = 256 * 1024;

/// A directory on disk.
#[derive(Clone, Debug)]
pub struct RealVfs {
    dir: Arc<Path>,
    /// The lock of the data directory that it is in, held by whoever may still write here.
    _lock: Option<Arc<File>>,
}

impl RealVfs {
    /// The directory at `dir`, created (and its parents) where it is missing.
    pub fn create(dir: &Path) -> io::Result<Self> {
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            // The new name must survive a power cut before anything in it is acknowledged.
            for parent in dir.ancestors().skip(1).take(2) {
                if let Ok(parent) = File::open(parent) {
                    parent.sync_all()?;
                }
            }
        }
        Ok(Self::existing(dir))
    }

    /// The directory at `dir`, which is not touched.
    pub fn existing(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            _lock: None,
        }
    }

    /// The same, which holds `lock` as long as somebody has it.
    pub(crate) fn under(self, lock: Arc<File>) -> Self {
        Self {
            _lock: Some(lock),
            ..self
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A file on disk.
#[derive(Debug)]
pub struct RealFile(File);

impl ReadAt for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }
}

impl VfsFile for RealFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        // Written zeros, not only reserved ones: a block that was never written is converted at
        // its first write, and each sync would pay for that in the journal.
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS.len() as u64);
            self.0.write_all_at(&ZEROS[..n as usize], offset + done)?;
            done += n;
            if done.is_multiple_of(ALLOCATE_STEP) {
                // Step by step: a commit that comes meanwhile waits for one step to reach the disk,
                // not for a whole segment.
                self.0.sync_data()?;
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl Vfs for RealVfs {
    type File = RealFile;

    fn create(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.at(name))
            .map(RealFile)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.at(name))
            .or_else(|e| match e.kind() {
                // Tools read directories that they may not write.
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    File::open(self.at(name))
                }
                _ => Err(e),
            })
            .map(RealFile)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::access(self.at(name), rustix::fs::Access::EXISTS) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems without that flag: a link is exclusive everywhere.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(&from, &to)?;
                fs::remove_file(&from)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // Names that are not UTF-8 are none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}
