//! Objects that are written in parts, so that they need not be held in memory.
//!
//! Up to one part is put as any object. Beyond, parts of equal size are sent while more is written; the
//! sum of all is known when the last was sent, and metadata goes before the first: so the sum is put as
//! an object of its own, below `.sums/` (no key begins with a `.`), before the upload is completed. It
//! is named by the key and the tag of the upload, so that it never belongs to another content.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_ports::{BlobKey, BlobMeta, BlobWriter, PutIf, StoreError};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::meta::{Kept, meta, sum_from_text, sum_to_text};
use super::{Inner, error};
use crate::sum::{Sum, Tag, corrupt};

/// Most parts of an object: what S3 allows.
const PARTS_MAX: usize = 10_000;

/// Bytes that the text of a sum has at most.
const SUM_BYTES_MAX: u64 = 64;

/// How long it may take to give up an upload: what is left then, a rule of the bucket removes.
const GIVE_UP: Duration = Duration::from_secs(30);

impl Inner {
    /// Where the sum of an object that was written in parts is.
    pub(super) fn apart(&self, key: &BlobKey, tag: Tag) -> Path {
        Path::from(self.place(&format!(".sums/{key}/{tag}")))
    }

    /// The sum of an object that was written in parts; `None` where it is gone.
    pub(super) async fn sum_apart(
        &self,
        key: &BlobKey,
        tag: Tag,
    ) -> Result<Option<Sum>, StoreError> {
        let path = self.apart(key, tag);
        let Some((text, _)) = self.fetch(&path, SUM_BYTES_MAX).await? else {
            return Ok(None);
        };
        match sum_from_text(&text) {
            Some(sum) => Ok(Some(sum)),
            None => Err(corrupt(key, "its checksum can not be read".to_owned())),
        }
    }
}

/// An upload that was begun.
struct Upload {
    id: String,
    path: Path,
    tag: Tag,
    begun: usize,
    // overflow: `write` waits for one of them to be done.
    running: JoinSet<(usize, Result<PartId, StoreError>)>,
    done: BTreeMap<usize, PartId>,
}

/// Writes one object.
pub(super) struct Writer {
    inner: Arc<Inner>,
    key: BlobKey,
    /// What is not in a part yet, less than a part of it.
    waiting: Vec<Bytes>,
    waiting_bytes: u64,
    sum: Sum,
    upload: Option<Upload>,
}

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, key: BlobKey) -> Self {
        Self {
            inner,
            key,
            waiting: Vec::new(),
            waiting_bytes: 0,
            sum: Sum::default(),
            upload: None,
        }
    }

    fn take_waiting(&mut self) -> PutPayload {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    /// Sends what waits as a part.
    async fn send(&mut self) -> Result<(), StoreError> {
        let payload = self.take_waiting();
        let inner = &self.inner;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(begin(inner, &self.key).await?),
        };
        if upload.begun >= PARTS_MAX {
            return Err(StoreError::TooLarge {
                size: self.sum.size,
                limit: PARTS_MAX as u64 * inner.config.part_bytes,
            });
        }
        while upload.running.len() >= inner.config.parts_in_flight {
            upload.join_one().await?;
        }
        let (number, id, path) = (upload.begun, upload.id.clone(), upload.path.clone());
        let inner = inner.clone();
        let sending = async move {
            let mut attempts = inner.attempts("put a part", payload.content_length() as u64);
            let part = attempts
                .repeat(|| inner.client.put_part(&path, &id, number, payload.clone()))
                .await;
            (number, part)
        };
        upload.begun += 1;
        upload.running.spawn(sending);
        Ok(())
    }

    async fn write_parts(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        let part = self.inner.config.part_bytes;
        self.sum.add(&bytes);
        while !bytes.is_empty() {
            // A full part waits until more comes: it may be the whole object.
            if self.waiting_bytes == part {
                self.send().await?;
            }
            let room = part - self.waiting_bytes;
            let taken = bytes.split_to(room.min(bytes.len() as u64) as usize);
            self.waiting_bytes += taken.len() as u64;
            self.waiting.push(taken);
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<BlobMeta, StoreError> {
        if self.upload.is_none() {
            let body = self.take_waiting();
            let put = self.inner.put(&self.key, body, self.sum, &PutIf::Always);
            return put.await;
        }
        self.send().await?;
        let inner = self.inner.clone();
        let Some(upload) = &mut self.upload else {
            return Err(lost("the upload"));
        };
        while !upload.running.is_empty() {
            upload.join_one().await?;
        }
        let (path, tag) = (upload.path.clone(), upload.tag);
        let before = inner.look_until("head", &path).await?;
        let apart = inner.apart(&self.key, tag);
        let text = Bytes::from(sum_to_text(self.sum));
        inner.put_sum(&apart, text).await?;
        let parts: Vec<PartId> = upload.done.values().cloned().collect();
        let mut attempts = inner.attempts("put", 0);
        let e_tag = loop {
            let completing = inner
                .client
                .complete_multipart(&path, &upload.id, parts.clone());
            let over = match attempts.make(completing).await {
                Ok(Ok(done)) => break done.e_tag.unwrap_or_default(),
                Ok(Err(failure)) => match attempts.pause(failure).await {
                    Ok(()) => continue,
                    Err(over) => over,
                },
                Err(refused) => refused,
            };
            // An attempt before may have done it: then the upload is no more, or nobody answered.
            let unknown = matches!(over, StoreError::OutcomeUnknown { .. });
            match inner.read_back(&self.key, tag, &PutIf::Always, over).await {
                Ok(done) => break done.tag,
                Err(over) if unknown => return Err(over),
                Err(refused) => {
                    // It will not happen any more, so that nobody needs the sum.
                    let _ = inner.delete_path(&apart).await;
                    return Err(refused);
                }
            }
        };
        self.upload = None;
        if let Some((Kept::Apart { tag: old }, ..)) = before
            && old != tag
        {
            // Of what was replaced; where this fails, some bytes are left.
            let _ = inner.delete_path(&inner.apart(&self.key, old)).await;
        }
        Ok(meta(self.key.clone(), self.sum.size, &e_tag))
    }
}

async fn begin(inner: &Inner, key: &BlobKey) -> Result<Upload, StoreError> {
    let path = inner.path(key);
    let tag = Tag::new()?;
    let mut attempts = inner.attempts("begin an upload", 0);
    let id = attempts
        .repeat(|| {
            let options = PutMultipartOptions {
                attributes: Kept::Apart { tag }.to_attributes(),
                ..PutMultipartOptions::default()
            };
            inner.client.create_multipart_opts(&path, options)
        })
        .await?;
    Ok(Upload {
        id,
        path,
        tag,
        begun: 0,
        running: JoinSet::new(),
        done: BTreeMap::new(),
    })
}

impl Upload {
    /// Waits for one part to be done.
    async fn join_one(&mut self) -> Result<(), StoreError> {
        match self.running.join_next().await {
            Some(Ok((number, part))) => {
                self.done.insert(number, part?);
                Ok(())
            }
            Some(Err(_)) => Err(lost("a part")),
            None => Ok(()),
        }
    }
}

fn lost(what: &str) -> StoreError {
    StoreError::Unavailable {
        cause: format!("{what} was given up when the program ended"),
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let runtime = self.inner.runtime.clone();
        runtime.block_on(self.write_parts(bytes))
    }

    fn finish(mut self: Box<Self>) -> Result<BlobMeta, StoreError> {
        let runtime = self.inner.runtime.clone();
        runtime.block_on(self.complete())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let inner = self.inner.clone();
        self.inner.runtime.spawn(async move {
            // A part that comes in after the end would be kept, and paid for.
            upload.running.shutdown().await;
            let ended = inner.client.abort_multipart(&upload.path, &upload.id);
            match timeout(GIVE_UP, ended).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error::is_absent(&error) => {}
                _ => tracing::warn!(
                    store = %inner.config,
                    "the parts of an upload that was given up could not be removed: a lifecycle rule of \
                     the bucket (AbortIncompleteMultipartUpload) removes such parts"
                ),
            }
        });
    }
}
