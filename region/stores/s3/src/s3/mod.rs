//! Objects in a bucket of S3 or of what speaks like it.
//!
//! The object `a/b` is the object `PREFIX/a/b` of the bucket, as it is. Its checksum and the tag of its
//! put are in its metadata ([`meta`]). Every operation has a deadline and is repeated before that where
//! it may be ([`attempts`], [`put`]).

mod attempts;
mod client;
mod clock;
mod error;
mod meta;
mod parts;
mod put;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use gb6_core_ports::blobs::{BLOB_PUT_MAX, PRESIGN_MAX};
use gb6_core_ports::{
    BlobKey, BlobMeta, BlobStore, BlobWriter, Check, Presigned, PutIf, StoreError,
};
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::signer::{Method, Signer};
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::check::check_key;
use crate::config::S3Config;
use crate::sum::{Sum, corrupt, verify};
use attempts::Attempts;
use meta::Kept;

pub(crate) use clock::clock;

/// Most objects that a server lists at once.
const PAGE_MAX: usize = 1000;

/// Objects in a bucket.
pub(crate) struct S3Store {
    inner: Arc<Inner>,
}

struct Inner {
    client: AmazonS3,
    config: S3Config,
    runtime: Handle,
}

impl S3Store {
    /// The objects of a bucket; nothing is asked of the server yet.
    pub(crate) fn open(config: &S3Config, runtime: Handle) -> Result<Self, StoreError> {
        // Where the program has chosen a provider already, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client::builder(config)?
            .build()
            .map_err(|error| StoreError::Unavailable {
                cause: format!("{config}: {error}"),
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                config: config.clone(),
                runtime,
            }),
        })
    }

    fn keeps_metadata(&self) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let key = check_key()?;
        let path = inner.path(&key);
        inner.runtime.block_on(async {
            let body = PutPayload::from_static(b"written by gb6 to check this store");
            let sum = Sum::default();
            inner.put(&key, body, sum, &PutIf::Always).await?;
            let found = inner.look_until("head", &path).await?;
            inner.delete_path(&path).await?;
            Ok(found.is_some_and(|(kept, ..)| matches!(kept, Kept::Whole { .. })))
        })
    }
}

/// Whether metadata is kept: without it, no lost answer is cleared up and no damage is found.
pub(crate) fn metadata(config: &S3Config, runtime: &Handle) -> Check {
    let what = format!("{config}: metadata of objects");
    match S3Store::open(config, runtime.clone()).and_then(|store| store.keeps_metadata()) {
        Ok(true) => Check::good(what, "kept"),
        Ok(false) => Check::bad(
            what,
            "the server drops x-amz-meta-… of a put: without it damage is not found; use one that keeps it, \
             and look for a proxy between",
        ),
        Err(error) => Check::bad(what, error.to_string()),
    }
}

impl Inner {
    /// Where an object is in the bucket.
    fn path(&self, key: &BlobKey) -> Path {
        Path::from(self.place(key.as_str()))
    }

    fn place(&self, text: &str) -> String {
        match &self.config.prefix {
            Some(prefix) => format!("{prefix}/{text}"),
            None => text.to_owned(),
        }
    }

    /// Attempts at one operation that moves `bytes`.
    fn attempts(&self, operation: &'static str, bytes: u64) -> Attempts<'_> {
        Attempts::new(self, operation, bytes)
    }

    /// What is kept with an object, its size and its ETag.
    async fn look(&self, path: &Path) -> object_store::Result<Option<(Kept, u64, String)>> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.client.get_opts(path, options).await {
            Ok(found) => {
                let kept = Kept::from_attributes(&found.attributes);
                Ok(Some((
                    kept,
                    found.meta.size,
                    found.meta.e_tag.unwrap_or_default(),
                )))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Inner::look`], with attempts of its own.
    async fn look_until(
        &self,
        operation: &'static str,
        path: &Path,
    ) -> Result<Option<(Kept, u64, String)>, StoreError> {
        let mut attempts = self.attempts(operation, 0);
        attempts.repeat(|| self.look(path)).await
    }

    /// Begins to read an object: waits for the head of the answer.
    async fn begin_read(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> object_store::Result<Option<GetResult>> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let limit = attempts::attempt_limit(self.config.deadline);
        match timeout(limit, self.client.get_opts(path, options)).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if error::is_absent(&error) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silent()),
        }
    }

    /// Reads the body; `size` is what is expected.
    async fn read_body(&self, found: GetResult, size: u64) -> object_store::Result<Bytes> {
        let limit = attempts::attempt_limit(self.config.deadline);
        let mut bytes = BytesMut::with_capacity(size as usize);
        let mut chunks = found.into_stream();
        while let Some(chunk) = timeout(limit, chunks.next()).await.map_err(|_| silent())? {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.freeze())
    }

    /// The bytes of an object and what is kept with it; an error where it is above `bytes_max`.
    async fn fetch(
        &self,
        path: &Path,
        bytes_max: u64,
    ) -> Result<Option<(Bytes, Kept)>, StoreError> {
        let mut attempts = self.attempts("get", bytes_max);
        let fetched = attempts
            .repeat(|| async {
                let Some(found) = self.begin_read(path, None).await? else {
                    return Ok(None);
                };
                let size = found.meta.size;
                if size > bytes_max {
                    let limit = bytes_max;
                    return Ok(Some(Err(StoreError::TooLarge { size, limit })));
                }
                let kept = Kept::from_attributes(&found.attributes);
                Ok(Some(Ok((self.read_body(found, size).await?, kept))))
            })
            .await?;
        fetched.transpose()
    }

    /// The whole of an object, checked.
    async fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key);
        let mut before = None;
        loop {
            let Some((body, kept)) = self.fetch(&path, bytes_max).await? else {
                return Ok(None);
            };
            let sum = match kept {
                // It was put through a URL.
                Kept::Nothing => return Ok(Some(body)),
                Kept::Damaged => {
                    return Err(corrupt(key, "its metadata is damaged".to_owned()));
                }
                Kept::Whole { sum, .. } => sum,
                Kept::Apart { tag } => match self.sum_apart(key, tag).await? {
                    Some(sum) => sum,
                    // It was replaced after it was read, and the sum went.
                    None if before != Some(tag) => {
                        before = Some(tag);
                        continue;
                    }
                    None => return Err(corrupt(key, "its checksum is gone".to_owned())),
                },
            };
            verify(key, &body, sum)?;
            return Ok(Some(body));
        }
    }

    async fn get_range(
        &self,
        key: &BlobKey,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key);
        let asked = range.end.saturating_sub(range.start);
        if asked > 0 {
            let mut attempts = self.attempts("get", asked);
            let found = attempts
                .repeat(|| async {
                    match self.begin_read(&path, Some(range.clone())).await {
                        Ok(Some(found)) => {
                            let size = found.range.end.saturating_sub(found.range.start);
                            Ok(Some(self.read_body(found, size.min(asked)).await?))
                        }
                        Ok(None) => Ok(None),
                        // It ends before the range begins, or is not there at all.
                        Err(error) if error::status(&error) == Some(416) => Ok(Some(Bytes::new())),
                        Err(error) => Err(error),
                    }
                })
                .await?;
            if found.as_ref().is_none_or(|bytes| !bytes.is_empty()) {
                return Ok(found);
            }
        }
        let found = self.look_until("head", &path).await?;
        Ok(found.map(|_| Bytes::new()))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        let prefix = self.place(prefix);
        let offset = after.map(|key| self.place(key.as_str()));
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        while found.len() < limit {
            let options = || PaginatedListOptions {
                offset: offset.clone(),
                max_keys: Some((limit - found.len()).min(PAGE_MAX)),
                page_token: token.clone(),
                ..PaginatedListOptions::default()
            };
            let mut attempts = self.attempts("list", 0);
            let page = attempts
                .repeat(|| {
                    let prefix = (!prefix.is_empty()).then_some(prefix.as_str());
                    self.client.list_paginated(prefix, options())
                })
                .await?;
            let metas = page.result.objects.into_iter();
            found.extend(metas.filter_map(|meta| self.listed(meta)));
            token = page.page_token;
            if token.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// An object of ours: checksums that are kept apart, and what others put here, are none.
    fn listed(&self, meta: ObjectMeta) -> Option<BlobMeta> {
        let place = meta.location.as_ref();
        let text = match &self.config.prefix {
            Some(prefix) => place.strip_prefix(prefix.as_str())?.strip_prefix('/')?,
            None => place,
        };
        let key = BlobKey::stored(text)?;
        Some(meta::meta(key, meta.size, &meta.e_tag.unwrap_or_default()))
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        let path = self.path(key);
        let found = self.look_until("delete", &path).await?;
        self.delete_path(&path).await?;
        match found {
            Some((Kept::Apart { tag }, ..)) => self.delete_path(&self.apart(key, tag)).await,
            _ => Ok(()),
        }
    }

    async fn delete_path(&self, path: &Path) -> Result<(), StoreError> {
        let mut attempts = self.attempts("delete", 0);
        attempts
            .repeat(|| async {
                match self.client.delete(path).await {
                    Err(error) if error::is_absent(&error) => Ok(()),
                    other => other,
                }
            })
            .await
    }

    async fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        let method = || match what {
            Presigned::Get => Method::GET,
            Presigned::Put => Method::PUT,
        };
        let path = self.path(key);
        let mut attempts = self.attempts("presign", 0);
        let url = attempts
            .repeat(|| self.client.signed_url(method(), &path, valid))
            .await?;
        Ok(url.into())
    }
}

/// What a server that stopped in the middle is taken for.
fn silent() -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source: "the server went silent".into(),
    }
}

impl BlobStore for S3Store {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        let size = body.len() as u64;
        if size > BLOB_PUT_MAX {
            let limit = BLOB_PUT_MAX;
            return Err(StoreError::TooLarge { size, limit });
        }
        let sum = Sum::of(&body);
        let inner = &self.inner;
        inner
            .runtime
            .block_on(inner.put(key, body.into(), sum, &when))
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(parts::Writer::new(
            self.inner.clone(),
            key.clone(),
        )))
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let inner = &self.inner;
        inner.runtime.block_on(inner.get(key, bytes_max))
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let size = range.end.saturating_sub(range.start);
        if size > BLOB_PUT_MAX {
            let limit = BLOB_PUT_MAX;
            return Err(StoreError::TooLarge { size, limit });
        }
        let inner = &self.inner;
        inner.runtime.block_on(inner.get_range(key, range))
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        let inner = &self.inner;
        let path = inner.path(key);
        let found = inner.runtime.block_on(inner.look_until("head", &path))?;
        Ok(found.map(|(_, size, e_tag)| meta::meta(key.clone(), size, &e_tag)))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        let inner = &self.inner;
        inner.runtime.block_on(inner.list(prefix, after, limit))
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.runtime.block_on(inner.delete(key))
    }

    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        if valid < Duration::from_secs(1) || valid > PRESIGN_MAX {
            return Err(StoreError::Conflict {
                what: format!("a URL is valid for a second to 7 days, not for {valid:?}"),
            });
        }
        let inner = &self.inner;
        inner.runtime.block_on(inner.presign(key, what, valid))
    }
}
