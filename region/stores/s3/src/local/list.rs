//! Finding the objects of a directory in the order of their keys.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use gb6_core_ports::{BlobKey, BlobMeta, StoreError};

use super::{failed, is_absent, trailer};

/// What the name of an object's file ends with, and no key has.
pub(super) const OBJECT_MARK: char = '+';

/// The objects below `root` whose keys begin with `prefix` and come behind `after`.
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&BlobKey>,
    limit: usize,
) -> Result<Vec<BlobMeta>, StoreError> {
    let mut walk = Walk {
        prefix,
        after: after.map_or("", BlobKey::as_str),
        limit,
        found: Vec::new(),
    };
    walk.directory(root, "")?;
    Ok(walk.found)
}

/// What is known of the object in the file `path`.
pub(super) fn meta(path: &Path, key: BlobKey) -> Result<Option<BlobMeta>, StoreError> {
    let mut end = [0; trailer::LEN as usize];
    let read = File::open(path).and_then(|mut file| {
        let size = file.metadata()?.len().checked_sub(trailer::LEN);
        if let Some(size) = size {
            file.seek(SeekFrom::Start(size))?;
            file.read_exact(&mut end)?;
        }
        Ok(size.unwrap_or(0))
    });
    let size = match read {
        Ok(size) => size,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed("read", path, &error)),
    };
    // What is wrong with a damaged one, who reads it is told.
    let tag = trailer::read(&end, &key, path)
        .map_or_else(|_| "damaged".to_owned(), |trailer| trailer.tag.to_string());
    Ok(Some(BlobMeta { key, size, tag }))
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    found: Vec<BlobMeta>,
}

impl Walk<'_> {
    /// Takes what fits from the directory `path`, whose keys begin with `at`: nothing, or parts with a
    /// `/` at the end.
    fn directory(&mut self, path: &Path, at: &str) -> Result<(), StoreError> {
        // Only one directory fits: it need not be searched for.
        if let Some(rest) = self.prefix.strip_prefix(at)
            && let Some((next, _)) = rest.split_once('/')
        {
            return match BlobKey::stored(&format!("{at}{next}")) {
                Some(_) => self.directory(&path.join(next), &format!("{at}{next}/")),
                None => Ok(()),
            };
        }
        for (name, key) in self.entries(path, at)? {
            if self.found.len() >= self.limit {
                break;
            }
            let path = path.join(&name);
            if key.ends_with('/') {
                self.directory(&path, &key)?;
            } else if let Some(key) = BlobKey::stored(&key)
                && let Some(meta) = meta(&path, key)?
            {
                self.found.push(meta);
            }
        }
        Ok(())
    }

    /// Names of what may fit in a directory and the keys they stand for, a directory's with a `/` at the
    /// end, in the order of the keys below them.
    fn entries(&self, path: &Path, at: &str) -> Result<Vec<(String, String)>, StoreError> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(failed("list", path, &error)),
        };
        let mut fitting = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", path, &error))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let key = match name.strip_suffix(OBJECT_MARK) {
                Some(part) => format!("{at}{part}"),
                None if entry.file_type().is_ok_and(|kind| kind.is_dir()) => format!("{at}{name}/"),
                None => continue,
            };
            if BlobKey::stored(key.trim_end_matches('/')).is_some() && self.fits(&key) {
                fitting.push((name, key));
            }
        }
        fitting.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
        Ok(fitting)
    }

    fn fits(&self, key: &str) -> bool {
        if !key.ends_with('/') {
            return key.starts_with(self.prefix) && key > self.after;
        }
        let begins = key.starts_with(self.prefix) || self.prefix.starts_with(key);
        begins && (key > self.after || self.after.starts_with(key))
    }
}
