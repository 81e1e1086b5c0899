//! A directory to which something happens right before a step of its user.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use gb6_region_stores_embedded::sim_disk::SimVfs;
use gb6_region_stores_embedded::{ReadAt, Vfs, VfsFile};
use parking_lot::Mutex;

pub(crate) type Hook = Box<dyn FnOnce() + Send>;

/// When something happens to a directory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Before {
    Create,
    Publish,
    Remove,
}

/// A directory to which something happens right before a step of its user.
#[derive(Clone)]
pub(crate) struct Interrupted {
    vfs: SimVfs,
    pub(crate) hook: Arc<Mutex<Option<(Before, Hook)>>>,
    /// Whether files refuse to be written: a full file system that never overwrites in place.
    pub(crate) full: Arc<AtomicBool>,
}

/// A file of such a directory.
pub(crate) struct InterruptedFile {
    file: <SimVfs as Vfs>::File,
    full: Arc<AtomicBool>,
}

impl ReadAt for InterruptedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
}

impl VfsFile for InterruptedFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if self.full.load(Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(offset, data)
    }
    fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }
}

impl Interrupted {
    pub(crate) fn new(vfs: SimVfs) -> Self {
        Self {
            vfs,
            hook: Arc::default(),
            full: Arc::default(),
        }
    }

    fn file(&self, file: <SimVfs as Vfs>::File) -> InterruptedFile {
        InterruptedFile {
            file,
            full: self.full.clone(),
        }
    }

    fn step(&self, step: Before) {
        let due = self.hook.lock().take_if(|(before, _)| *before == step);
        if let Some((_, hook)) = due {
            hook();
        }
    }
}

impl Vfs for Interrupted {
    type File = InterruptedFile;
    fn create(&self, name: &str) -> std::io::Result<Self::File> {
        self.step(Before::Create);
        self.vfs.create(name).map(|file| self.file(file))
    }
    fn open(&self, name: &str) -> std::io::Result<Self::File> {
        self.vfs.open(name).map(|file| self.file(file))
    }
    fn exists(&self, name: &str) -> std::io::Result<bool> {
        self.vfs.exists(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.vfs.rename(from, to)
    }
    fn publish(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.step(Before::Publish);
        self.vfs.publish(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        if name.ends_with(".seg") {
            self.step(Before::Remove);
        }
        self.vfs.remove(name)
    }
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.vfs.list()
    }
    fn sync_dir(&self) -> std::io::Result<()> {
        self.vfs.sync_dir()
    }
    fn path(&self, name: &str) -> String {
        self.vfs.path(name)
    }
}
