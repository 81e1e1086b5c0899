//! Files that are made once and hold secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a JSON file; `None` when it is not there.
///
/// # Errors
/// It can not be read, or holds something else.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("{} can not be read", path.display())),
    };
    // What stands there is secret: the error says where it breaks, not what it reads.
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        anyhow::anyhow!(
            "{} is damaged at line {}, column {}: restore it from a backup",
            path.display(),
            e.line(),
            e.column()
        )
    })
}

/// Writes a JSON file that nobody else may read, as a whole or not at all.
///
/// # Errors
/// It can not be written, or is there already.
pub(crate) fn create_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    // A link, unlike a renamed file, never takes the place of what is there.
    write_json(path, value, |new| {
        fs::hard_link(new, path)?;
        fs::remove_file(new)
    })
}

/// As [`create_json`], in place of what is there.
///
/// # Errors
/// It can not be written.
pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    write_json(path, value, |new| fs::rename(new, path))
}

fn write_json<T: Serialize>(
    path: &Path,
    value: &T,
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir)?;
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new)?;
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()?;
        put(&new)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("{} can not be written", path.display()))
}
