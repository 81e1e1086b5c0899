//! The snapshot file and the secret files that it names, as they are on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gb6_core_model::snapshot::Snapshot;
use gb6_geo_config_plan::{Problems, read_snapshot};

/// Largest snapshot file in bytes: what is made of it must fit into one frame of the mesh.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest secret file in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why the files give no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file can not be read.
    #[error(
        "the snapshot file {} can not be read: {reason}; `gb6 config example snapshot` prints one",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file has mistakes.
    #[error("the snapshot file {} has mistakes:\n{problems}", path.display())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Problems,
    },
    /// The files and the directory do not go together.
    #[error("the snapshot file and the directory do not go together:\n{0}")]
    Directory(Problems),
    /// What is made of it does not fit into a frame of the mesh.
    #[error("the snapshot has {bytes} bytes as JSON, more than the {max} that one frame may have")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It can not be written as JSON.
    #[error("the snapshot can not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a file looks like from outside; equal as long as nobody has written it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Print {
    path: PathBuf,
    /// `None`: it is not there.
    seen: Option<(Option<SystemTime>, u64, u64)>,
}

impl Print {
    fn of(path: &Path) -> Self {
        let seen = fs::metadata(path).ok().map(|meta| {
            #[cfg(unix)]
            let inode = std::os::unix::fs::MetadataExt::ino(&meta);
            #[cfg(not(unix))]
            let inode = 0;
            (meta.modified().ok(), meta.len(), inode)
        });
        Self {
            path: path.to_path_buf(),
            seen,
        }
    }
}

/// The files.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// The files as they were when they were read last.
    prints: Vec<Print>,
    /// The files as they were at the last look.
    looked: Vec<Print>,
}

impl Source {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            prints: Vec::new(),
            looked: Vec::new(),
        }
    }

    /// Whether the files are others than at the last read, and the same as at the last look: one
    /// that is being written is not taken for whole. Blocks on the disk.
    pub(crate) fn settled_anew(&mut self) -> bool {
        let now: Vec<Print> = self.prints.iter().map(|p| Print::of(&p.path)).collect();
        let settled_anew = now != self.prints && now == self.looked;
        self.looked = now;
        settled_anew
    }

    /// The snapshot that the files say, with revision 0. Blocks on the disk.
    pub(crate) fn read(&mut self) -> Result<Snapshot, SourceError> {
        // Looked at before reading: what is written in between is seen as a change.
        let mut prints = vec![Print::of(&self.path)];
        let dir = self.path.parent().unwrap_or(Path::new("")).to_path_buf();
        let result = read_bounded(&self.path, FILE_BYTES_MAX)
            .map_err(|error| SourceError::Read {
                path: self.path.clone(),
                reason: error.to_string(),
            })
            .and_then(|text| {
                read_snapshot(&text, 0, |secret| {
                    let path = dir.join(secret);
                    prints.push(Print::of(&path));
                    read_bounded(&path, SECRET_FILE_BYTES_MAX).map_err(|e| e.to_string())
                })
                .map_err(|problems| SourceError::Mistakes {
                    path: self.path.clone(),
                    problems,
                })
            });
        self.prints = prints;
        result
    }
}

fn read_bounded(path: &Path, max: u64) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?
        .take(max + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok(text)
}
