//! One snapshot in one file, replaced as a whole: after a crash there is the old one or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gb6_core_model::SnapshotError;
use gb6_core_model::snapshot::Snapshot;

/// Why a kept snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory.
    #[error("the snapshot {} can not be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What stands there is no snapshot.
    #[error(
        "{} holds no snapshot: {reason}; remove it, and the node asks geo for one", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What stands there can not be worked by.
    #[error("{} can not be worked by: {source}; remove it, and the node asks geo for one", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SnapshotError,
    },
}

/// The file of the last good snapshot: JSON, mode 0600, because it may hold keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotStore {
    path: PathBuf,
}

impl SnapshotStore {
    /// The file's name in a node's data directory.
    pub const FILE: &'static str = "snapshot.json";

    /// The store in `data_dir`.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(Self::FILE),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kept snapshot, checked; `None` when none is kept. Blocks on the disk.
    ///
    /// # Errors
    /// The file can not be read, or what it holds can not be worked by.
    pub fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io("read", source)),
        };
        let snapshot: Snapshot =
            serde_json::from_slice(&text).map_err(|e| StoreError::Damaged {
                path: self.path.clone(),
                reason: e.to_string(),
            })?;
        snapshot.check().map_err(|source| StoreError::Unusable {
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(snapshot))
    }

    /// Keeps `snapshot`; its directory is made if absent. Blocks until the disk has it.
    ///
    /// # Errors
    /// The file can not be written; the old one is still there.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let failed = |source| self.io("written", source);
        let json = serde_json::to_vec(snapshot).map_err(|e| failed(e.into()))?;
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let new = self.path.with_extension("json.new");
        // What a crash left behind may have another mode.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new).map_err(failed)?;
        file.write_all(&json)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(failed)
    }

    fn io(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }
}
