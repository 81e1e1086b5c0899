//! The data directory: one process at a time, one format version, one folder for each shard.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gb6_core_model::ShardId;
use gb6_core_ports::StoreError;
use gb6_region_archive::Archives;
use rustix::fs::{FlockOperation, flock};

use crate::archived::{ArchivedShardLog, Archiving};
use crate::log::LogConfig;
use crate::log::format::FORMAT_VERSION;
use crate::real_vfs::RealVfs;
use crate::shard_log::EmbeddedShardLog;
use crate::vfs::{io_error, is_full, replace_file};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";

/// An open data directory; it is locked until this, the logs opened from it and the work that they
/// began are gone.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // Held, never read: closing the last one releases the lock.
    lock: Arc<File>,
}

impl DataDir {
    /// Opens the directory at `path`, made where it is missing.
    ///
    /// Errors: `Locked` names the process that has it open; `Format` when a newer version wrote
    /// it; `Io`, `StorageFull`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let vfs = RealVfs::create(path).map_err(|e| io("create directory", path, &e))?;
        let lock = lock(&path.join(LOCK))?;
        let format = path.join(FORMAT);
        match fs::read_to_string(&format) {
            Ok(text) => check_format(&format, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                replace_file(&vfs, FORMAT, format!("gb6 {FORMAT_VERSION}\n").as_bytes())?;
            }
            Err(e) => return Err(io("read", &format, &e)),
        }
        Ok(Self {
            path: path.to_owned(),
            lock: Arc::new(lock),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a shard's log.
    pub fn shard_path(&self, shard: ShardId) -> PathBuf {
        self.path.join("shards").join(shard.to_string())
    }

    /// The folder of the rooms' index; it may be deleted at any time.
    pub fn rooms_path(&self) -> PathBuf {
        self.path.join("rooms")
    }

    /// Opens a shard's log and starts its threads.
    pub fn shard_log(
        &self,
        shard: ShardId,
        config: LogConfig,
    ) -> Result<EmbeddedShardLog<RealVfs>, StoreError> {
        let path = self.shard_path(shard);
        let vfs = RealVfs::create(&path).map_err(|e| io("create directory", &path, &e))?;
        EmbeddedShardLog::start(
            vfs.under(self.lock.clone()),
            config,
            &format!("gb6-log-{shard}"),
        )
    }
}

impl DataDir {
    /// As [`DataDir::shard_log`], for a log that is copied into the archive of its shard in `archives`, and
    /// begins from there where its folder is empty.
    ///
    /// # Errors
    /// As [`ArchivedShardLog::start`].
    pub fn archived_shard_log(
        &self,
        shard: ShardId,
        config: LogConfig,
        archives: &Archives,
        archiving: &Archiving,
    ) -> Result<ArchivedShardLog<RealVfs>, StoreError> {
        let path = self.shard_path(shard);
        let vfs = RealVfs::create(&path).map_err(|e| io("create directory", &path, &e))?;
        ArchivedShardLog::start(
            vfs.under(self.lock.clone()),
            config,
            &format!("gb6-log-{shard}"),
            archives.unread(shard)?,
            archiving,
        )
    }
}

fn io(operation: &'static str, path: &Path, error: &io::Error) -> StoreError {
    io_error(operation, path.display().to_string(), error)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| io("open", path, &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Without a readable pid the error says only that it is in use.
            let _ = file.read_to_string(&mut holder);
            return Err(StoreError::Locked {
                path: path.display().to_string(),
                holder: holder.trim().parse().ok(),
            });
        }
        Err(e) => return Err(io("lock", path, &e.into())),
    }
    match name_holder(&mut file) {
        // The lock is held; on a full disk it only says less about who holds it.
        Err(e) if is_full(&e) => {}
        other => other.map_err(|e| io("write", path, &e))?,
    }
    Ok(file)
}

/// Writes the process id over the one before, so that a full disk has the blocks already.
fn name_holder(file: &mut File) -> io::Result<()> {
    let pid = format!("{}\n", std::process::id());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
}

fn check_format(path: &Path, text: &str) -> Result<(), StoreError> {
    let version = text
        .trim()
        .strip_prefix("gb6 ")
        .and_then(|v| v.parse().ok());
    match version {
        Some(found) if found > FORMAT_VERSION => Err(StoreError::Format {
            path: path.display().to_string(),
            found,
            supported: FORMAT_VERSION,
        }),
        Some(_) => Ok(()),
        None => Err(StoreError::Corrupt {
            segment: path.display().to_string(),
            byte: 0,
            position: 0,
            detail: "no format version: this is no data directory of gb6".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_refused_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        match DataDir::open(dir.path()) {
            Err(StoreError::Locked { holder, .. }) => {
                assert_eq!(holder, Some(std::process::id()));
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_log_keeps_the_directory_locked() {
        let dir = tempfile::tempdir().unwrap();
        let open = DataDir::open(dir.path()).unwrap();
        let log = open.shard_log(ShardId(0), LogConfig::default()).unwrap();
        drop(open);
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        drop(log);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join(FORMAT), "gb6 99\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Format { found: 99, .. }),
            "{error}"
        );
        fs::write(dir.path().join(FORMAT), "something else").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}
