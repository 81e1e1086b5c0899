//! `BlobStore` in memory.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::blobs::{BLOB_PUT_MAX, BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf};
use crate::error::StoreError;

/// One object.
struct Object {
    /// As it was put: what its checksum would be of.
    put: Bytes,
    /// As it is stored.
    stored: Bytes,
    number: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    puts: u64,
}

/// Objects that live as long as this does. Cloning shares them.
#[derive(Clone, Default)]
pub struct MemoryBlobs(Arc<Mutex<State>>);

impl State {
    fn put(&mut self, key: &BlobKey, body: Bytes, when: &PutIf) -> Result<BlobMeta, StoreError> {
        if *when == PutIf::Absent && self.objects.contains_key(key.as_str()) {
            return Err(StoreError::Conflict {
                what: format!("there is an object {key} already"),
            });
        }
        self.puts += 1;
        let object = Object {
            put: body.clone(),
            stored: body,
            number: self.puts,
        };
        let meta = object.meta(key.clone());
        self.objects.insert(key.as_str().to_owned(), object);
        Ok(meta)
    }
}

impl Object {
    fn meta(&self, key: BlobKey) -> BlobMeta {
        BlobMeta {
            key,
            size: self.stored.len() as u64,
            tag: self.number.to_string(),
        }
    }
}

impl MemoryBlobs {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Flips the bits `mask` of a stored byte behind the store's back; answers whether there is one.
    pub fn damage(&self, key: &BlobKey, byte: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Some(object) = state.objects.get_mut(key.as_str()) else {
            return false;
        };
        let mut bytes = BytesMut::from(&object.stored[..]);
        let Some(flipped) = usize::try_from(byte).ok().and_then(|at| bytes.get_mut(at)) else {
            return false;
        };
        *flipped ^= mask;
        object.stored = bytes.freeze();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    store: MemoryBlobs,
    key: BlobKey,
    body: BytesMut,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.body.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BlobMeta, StoreError> {
        self.store.put(&self.key, self.body.freeze(), PutIf::Always)
    }
}

fn bounded(size: u64) -> Result<(), StoreError> {
    match size {
        0..=BLOB_PUT_MAX => Ok(()),
        _ => Err(StoreError::TooLarge {
            size,
            limit: BLOB_PUT_MAX,
        }),
    }
}

impl BlobStore for MemoryBlobs {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        bounded(body.len() as u64)?;
        self.state().put(key, body, &when)
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(Writer {
            store: self.clone(),
            key: key.clone(),
            body: BytesMut::new(),
        }))
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let state = self.state();
        let Some(object) = state.objects.get(key.as_str()) else {
            return Ok(None);
        };
        let size = object.stored.len() as u64;
        if size > bytes_max {
            return Err(StoreError::TooLarge {
                size,
                limit: bytes_max,
            });
        }
        if object.stored != object.put {
            return Err(StoreError::Corrupt {
                segment: key.to_string(),
                byte: 0,
                position: 0,
                detail: "the object is not what was written".into(),
            });
        }
        Ok(Some(object.stored.clone()))
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        bounded(range.end.saturating_sub(range.start))?;
        let state = self.state();
        let Some(object) = state.objects.get(key.as_str()) else {
            return Ok(None);
        };
        let cut = |at: u64| {
            usize::try_from(at).map_or(object.stored.len(), |at| at.min(object.stored.len()))
        };
        let (from, to) = (cut(range.start), cut(range.end));
        Ok(Some(object.stored.slice(from..to.max(from))))
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        let state = self.state();
        let object = state.objects.get(key.as_str());
        Ok(object.map(|object| object.meta(key.clone())))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        let state = self.state();
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        state
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .filter_map(|(key, object)| Some(Ok(object.meta(BlobKey::stored(key)?))))
            .collect()
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.state().objects.remove(key.as_str());
        Ok(())
    }

    fn presign(&self, _: &BlobKey, _: Presigned, _: Duration) -> Result<String, StoreError> {
        Err(StoreError::Unsupported {
            feature: "URLs of objects in memory",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::blobs::{BlobFixture, all};

    impl BlobFixture for MemoryBlobs {
        fn open(&self) -> Arc<dyn BlobStore> {
            Arc::new(self.clone())
        }

        fn damage(&self, key: &BlobKey) {
            assert!(MemoryBlobs::damage(self, key, 1234, 0x40));
        }
    }

    #[test]
    fn the_contract_holds() {
        all(MemoryBlobs::new);
    }
}
