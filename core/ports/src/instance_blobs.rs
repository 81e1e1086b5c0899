//! The objects of one instance: a store that knows nothing of what lies beside them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf};
use crate::error::StoreError;

/// A [`BlobStore`] of one instance's objects alone, kept below `instances/<instance>/` of another. Keys
/// have no way out of it, so whoever holds it can not name an object of another instance, and none is
/// in its answers.
#[derive(Clone)]
pub struct ForInstance {
    inner: Arc<dyn BlobStore>,
    prefix: BlobKey,
}

impl fmt::Debug for ForInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForInstance")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl ForInstance {
    /// The objects of `instance` in `inner`.
    ///
    /// # Errors
    /// `Conflict`: an instance can not have that name.
    pub fn new(inner: Arc<dyn BlobStore>, instance: &str) -> Result<Self, StoreError> {
        if instance.contains('/') {
            return Err(StoreError::Conflict {
                what: format!("{instance:?} is no name of an instance"),
            });
        }
        let prefix = BlobKey::parse(&format!("instances/{instance}"))?;
        Ok(Self { inner, prefix })
    }

    /// The key of an object in the store below.
    pub fn key_below(&self, key: &BlobKey) -> BlobKey {
        BlobKey::below(&self.prefix, key)
    }

    fn meta(&self, key: &BlobKey, mut meta: BlobMeta) -> BlobMeta {
        meta.key = key.clone();
        meta
    }
}

impl BlobStore for ForInstance {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        let meta = self.inner.put(&self.key_below(key), body, when)?;
        Ok(self.meta(key, meta))
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(Writer {
            inner: self.inner.writer(&self.key_below(key))?,
            key: key.clone(),
        }))
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(&self.key_below(key), bytes_max)
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_range(&self.key_below(key), range)
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        let meta = self.inner.head(&self.key_below(key))?;
        Ok(meta.map(|meta| self.meta(key, meta)))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        let after = after.map(|key| self.key_below(key));
        let below = format!("{}/{prefix}", self.prefix);
        let found = self.inner.list(&below, after.as_ref(), limit)?;
        found
            .into_iter()
            .map(|mut meta| {
                let key = meta.key.behind(&self.prefix);
                meta.key = key.ok_or_else(|| StoreError::Conflict {
                    what: "an object of another instance was listed".to_owned(),
                })?;
                Ok(meta)
            })
            .collect()
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.inner.delete(&self.key_below(key))
    }

    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        self.inner.presign(&self.key_below(key), what, valid)
    }
}

struct Writer {
    inner: Box<dyn BlobWriter>,
    key: BlobKey,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<BlobMeta, StoreError> {
        let mut meta = self.inner.finish()?;
        meta.key = self.key;
        Ok(meta)
    }
}
