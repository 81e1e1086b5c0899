//! The port `BlobStore`: whole objects by name. What is sealed of a log, checkpoints, and in time media
//! and attachments.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::error::StoreError;

/// Longest key in bytes.
pub const BLOB_KEY_MAX: usize = 512;
/// Longest part of a key in bytes: it may be the name of a file.
pub const BLOB_KEY_PART_MAX: usize = 200;
/// Largest body in bytes that [`BlobStore::put`] takes; a larger object is written in parts.
pub const BLOB_PUT_MAX: u64 = 512 * 1024 * 1024;
/// Longest time for which a URL may be valid: what S3 allows.
pub const PRESIGN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name of an object: parts of letters, digits, `.`, `_`, `-` and `=`, joined by `/`, none of them
/// empty, longer than [`BLOB_KEY_PART_MAX`] or with a `.` at its beginning (such names are the stores'
/// own); at most [`BLOB_KEY_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlobKey(String);

impl BlobKey {
    /// The key that `text` is.
    ///
    /// # Errors
    /// `Conflict`: it is no key.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        if text.len() <= BLOB_KEY_MAX && text.split('/').all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(StoreError::Conflict {
            what: format!(
                "{shown:?} is no key of an object: parts of letters, digits, '.', '_', '-' and '=', none \
                 with '.' at its beginning, joined by '/'"
            ),
        })
    }

    /// A key as a store holds it: with an instance's prefix it may be longer than [`BLOB_KEY_MAX`].
    /// `None` where it is none: somebody else put something there, or it is the store's own.
    pub fn stored(text: &str) -> Option<Self> {
        let good = text.len() <= 2 * BLOB_KEY_MAX && text.split('/').all(is_part);
        good.then(|| Self(text.to_owned()))
    }

    /// `key` below `prefix`, which is a key itself, of another store's objects: together they may be
    /// longer than [`BLOB_KEY_MAX`].
    pub(crate) fn below(prefix: &BlobKey, key: &BlobKey) -> Self {
        Self(format!("{prefix}/{key}"))
    }

    /// What is left of it behind `prefix` and a `/`, where that is a key.
    pub(crate) fn behind(&self, prefix: &BlobKey) -> Option<Self> {
        let rest = self.0.strip_prefix(&prefix.0)?.strip_prefix('/')?;
        Self::parse(rest).ok()
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_part(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'=');
    !part.is_empty()
        && !part.starts_with('.')
        && part.len() <= BLOB_KEY_PART_MAX
        && part.bytes().all(allowed)
}

impl std::fmt::Display for BlobKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of an object without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobMeta {
    /// Its key.
    pub key: BlobKey,
    /// Its bytes.
    pub size: u64,
    /// Names its content: contents of one key that differ never have the same. Opaque.
    pub tag: String,
}

/// When an object may be put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutIf {
    /// Whatever is there.
    Always,
    /// Only where nothing is there.
    Absent,
}

/// What a presigned URL allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presigned {
    /// To read the object.
    Get,
    /// To write it.
    Put,
}

/// An object that is written in parts. Dropped unfinished, it leaves no object.
pub trait BlobWriter: Send {
    /// Adds bytes at its end; blocks while too much is under way.
    ///
    /// # Errors
    /// As [`BlobStore::put`]; the object is then given up.
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Ends it: from when this returns it can be read.
    ///
    /// # Errors
    /// As [`BlobStore::put`].
    fn finish(self: Box<Self>) -> Result<BlobMeta, StoreError>;
}

/// Objects by key. Calls block the calling thread; each has a deadline of its own.
///
/// A put that has returned is durable and seen by every later get and list. Objects are whole: a reader
/// gets one content or the other, never a mixture, and an object that is being written can not be seen.
/// What [`BlobStore::get`] gives has been checked against the checksum that was made when it was written;
/// an object that was put through a URL has none of ours.
pub trait BlobStore: Send + Sync {
    /// Writes an object.
    ///
    /// # Errors
    /// `Conflict`: something is there already ([`PutIf::Absent`]). `TooLarge` above [`BLOB_PUT_MAX`].
    /// `StorageFull`, `Unavailable`: nothing was written. `OutcomeUnknown`: read back what is there.
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError>;

    /// Begins to write an object in parts, whatever is there: for what is too large to be held in
    /// memory.
    ///
    /// # Errors
    /// As [`BlobStore::put`]; `TooLarge` above what the store takes in parts, which is 40 GiB or more.
    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError>;

    /// The whole of an object; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` where the bytes are not those that were written; `TooLarge` above
    /// `bytes_max`.
    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError>;

    /// A part of an object, cut at its end, of at most [`BLOB_PUT_MAX`] bytes; `None` where there is no
    /// object. Parts are not checked against a checksum: formats that are read so have their own.
    ///
    /// # Errors
    /// `Unavailable`; `TooLarge`.
    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;

    /// What is known of an object; `None` where there is none. One whose bytes are damaged is known all
    /// the same, and listed.
    ///
    /// # Errors
    /// `Unavailable`.
    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError>;

    /// Objects whose keys begin with `prefix` (any text) and come behind `after`, in the order of their
    /// keys' bytes, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError>;

    /// Removes an object; it is no error when there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    fn delete(&self, key: &BlobKey) -> Result<(), StoreError>;

    /// A URL with which whoever has it may do one thing with one object, for so long: a second to
    /// [`PRESIGN_MAX`].
    ///
    /// # Errors
    /// `Unsupported`: this store is not reached by URLs. `Conflict`: not for so long.
    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_nowhere_else() {
        for good in ["a", "eu/shards/3/seg/0001-0.seg", "a=b/c_d-e.f"] {
            assert_eq!(BlobKey::parse(good).expect("a key").as_str(), good);
        }
        let part = "a".repeat(BLOB_KEY_PART_MAX);
        BlobKey::parse(&part).expect("a long part");
        let long = format!("{part}/{part}/{}", "a".repeat(BLOB_KEY_MAX - 401));
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/./b",
            "a/..",
            ".a",
            "a/.b",
            "a b",
            "ü",
            "a\0",
            "a+",
            "a~",
            &format!("{part}a"),
            &long,
        ] {
            BlobKey::parse(bad).expect_err(bad);
        }
    }
}
