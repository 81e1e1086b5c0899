//! Puts whose outcome is known: each has a tag of its own, by which what is there is told from what
//! somebody else has put.

use bytes::Bytes;
use gb6_core_ports::{BlobKey, BlobMeta, PutIf, StoreError};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::error::Failure;
use super::meta::{self, Kept};
use super::{Inner, attempts};
use crate::sum::{Sum, Tag};

impl Inner {
    /// Puts `body`, again and again until the outcome is known.
    pub(super) async fn put(
        &self,
        key: &BlobKey,
        body: PutPayload,
        sum: Sum,
        when: &PutIf,
    ) -> Result<BlobMeta, StoreError> {
        let tag = Tag::new()?;
        match self
            .put_tagged(key, body, Kept::Whole { tag, sum }, when)
            .await
        {
            Err(unknown @ StoreError::OutcomeUnknown { .. }) => {
                self.read_back(key, tag, when, unknown).await
            }
            other => other,
        }
    }

    async fn put_tagged(
        &self,
        key: &BlobKey,
        body: PutPayload,
        kept: Kept,
        when: &PutIf,
    ) -> Result<BlobMeta, StoreError> {
        let path = self.path(key);
        let size = body.content_length() as u64;
        let mode = match when {
            PutIf::Always => PutMode::Overwrite,
            PutIf::Absent => PutMode::Create,
        };
        let mut attempts = self.attempts("put", size);
        loop {
            let options = PutOptions {
                mode: mode.clone(),
                attributes: kept.to_attributes(),
                ..PutOptions::default()
            };
            let put = self.client.put_opts(&path, body.clone(), options);
            let mut failure = match attempts.make(put).await? {
                Ok(done) => {
                    let e_tag = done.e_tag.unwrap_or_default();
                    return Ok(meta::meta(key.clone(), size, &e_tag));
                }
                Err(failure) => failure,
            };
            if let Failure::Taken(_) = failure {
                // By an earlier attempt of ours, whose answer was lost, or by somebody else.
                match attempts.make(self.look(&path)).await? {
                    Ok(Some((found, size, e_tag))) if found.tag() == kept.tag() => {
                        return Ok(meta::meta(key.clone(), size, &e_tag));
                    }
                    Ok(Some(_)) if *when == PutIf::Absent => return Err(is_there(key)),
                    // Whoever was in the way has gone, or is ready.
                    Ok(_) => {}
                    Err(later) => failure = later,
                }
            }
            attempts.pause(failure).await?;
        }
    }

    /// Looks whether what is there is what was put with `tag`, when nobody answered that.
    pub(super) async fn read_back(
        &self,
        key: &BlobKey,
        tag: Tag,
        when: &PutIf,
        unknown: StoreError,
    ) -> Result<BlobMeta, StoreError> {
        let path = self.path(key);
        let limit = attempts::attempt_limit(self.config.deadline);
        let mut attempts = self.attempts("read back", 0).within(limit);
        match attempts.repeat(|| self.look(&path)).await {
            Ok(Some((found, size, e_tag))) if found.tag() == Some(tag) => {
                Ok(meta::meta(key.clone(), size, &e_tag))
            }
            // It was there before, or it keeps what is still on its way from coming in.
            Ok(Some(_)) if *when == PutIf::Absent => Err(is_there(key)),
            _ => Err(unknown),
        }
    }

    /// Puts the sum of an object that is not there yet.
    pub(super) async fn put_sum(&self, path: &Path, text: Bytes) -> Result<(), StoreError> {
        let mut attempts = self.attempts("put a checksum", 0);
        attempts
            .repeat(|| self.client.put(path, text.clone().into()))
            .await?;
        Ok(())
    }
}

fn is_there(key: &BlobKey) -> StoreError {
    StoreError::Conflict {
        what: format!("the object {key} is there already"),
    }
}
