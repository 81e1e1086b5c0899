//! The port `BlobStore`: whole objects by name. What is sealed of a log, checkpoints, and in time media
//! and attachments.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::error::StoreError;

/// Longest key in bytes.
pub const BLOB_KEY_MAX: usize = 512;

/// The name of an object: parts of letters, digits, `.`, `_`, `-` and `=`, joined by `/`, none of them
/// empty, `.` or `..`; at most [`BLOB_KEY_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlobKey(String);

impl BlobKey {
    /// The key that `text` is.
    ///
    /// # Errors
    /// `Conflict`: it is no key.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let part = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'='))
        };
        if text.len() <= BLOB_KEY_MAX && text.split('/').all(part) {
            return Ok(Self(text.to_owned()));
        }
        Err(StoreError::Conflict {
            what: format!("{text:?} is no key of an object"),
        })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
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
    /// Names this content of it: another one after every put. Opaque.
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
/// What is read has been checked against the checksum that was made when it was written.
pub trait BlobStore: Send + Sync {
    /// Writes an object.
    ///
    /// # Errors
    /// `Conflict`: something is there already ([`PutIf::Absent`]). `StorageFull`, `Unavailable`: nothing
    /// was written. `OutcomeUnknown`: read back what is there.
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError>;

    /// Begins to write an object in parts: for what is too large to be held in memory.
    ///
    /// # Errors
    /// As [`BlobStore::put`].
    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError>;

    /// The whole of an object; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` where the bytes are not those that were written; `TooLarge` above
    /// `bytes_max`.
    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError>;

    /// A part of an object, cut at its end; `None` where there is no object. Parts are not checked
    /// against a checksum: formats that are read so have their own.
    ///
    /// # Errors
    /// `Unavailable`.
    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;

    /// What is known of an object; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError>;

    /// Objects whose keys begin with `prefix` and come behind `after`, in the order of their keys, at most
    /// `limit`.
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

    /// A URL with which whoever has it may do one thing with one object, for so long.
    ///
    /// # Errors
    /// `Unsupported`: this store is not reached by URLs.
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
        let long = "a".repeat(BLOB_KEY_MAX + 1);
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "ü", &long] {
            BlobKey::parse(bad).expect_err(bad);
        }
    }
}
