//! Removing objects that no manifest names: what a change replaced, and what owners that died left.

use std::collections::HashSet;

use gb6_core_ports::{BlobKey, Fence, StoreError};

use crate::archive::{Archive, LIST_PAGE, MANIFESTS_KEPT, check_fence};
use crate::manifest::{Owner, SegmentEntry};
use crate::names::epoch_of;

/// Objects that could not be deleted and are tried again; beyond, the next owner finds them.
const GARBAGE_MAX: usize = 1024;

impl Archive {
    /// Deletes objects that no manifest names any more. What can not be deleted is tried again with the
    /// next ones.
    ///
    /// # Errors
    /// The first that was met; all others were tried.
    pub(crate) fn delete(&self, keys: Vec<BlobKey>) -> Result<(), StoreError> {
        let mut all = std::mem::take(&mut *self.garbage.lock());
        all.extend(keys);
        let mut failed = Ok(());
        let mut left = Vec::new();
        for key in all {
            if let Err(e) = self.blobs().delete(&key) {
                self.common.metrics.failed("delete");
                failed = failed.and(Err(e));
                left.push(key);
            }
        }
        let mut garbage = self.garbage.lock();
        garbage.append(&mut left);
        garbage.truncate(GARBAGE_MAX);
        failed
    }

    /// The keys of a segment's objects.
    pub(crate) fn keys_of(&self, segment: &SegmentEntry) -> Result<[BlobKey; 2], StoreError> {
        let index = self.names.index(&segment.name)?;
        Ok([self.names.segment(&segment.name)?, index])
    }

    /// Once in an ownership: removes what older owners left behind, such as segments that were written
    /// and never named.
    pub(crate) fn tidy(&self, fence: &Fence) -> Result<(), StoreError> {
        let owner = Owner::of(fence);
        let mut tidied = self.tidied.lock();
        if *tidied == Some(owner) {
            return Ok(());
        }
        let manifest = self.current();
        check_fence(&manifest, fence)?;
        let mut named = HashSet::new();
        for segment in &manifest.segments {
            named.extend(self.keys_of(segment)?);
        }
        for checkpoint in &manifest.checkpoints {
            named.insert(self.names.checkpoint(&checkpoint.name)?);
        }
        // What bears this ownership's epoch may be about to be named.
        let older = |key: &BlobKey| epoch_of(key).is_some_and(|e| e < fence.shard_epoch);
        for kind in ["seg", "ckpt"] {
            self.delete_where(kind, |key| older(key) && !named.contains(key))?;
        }
        let kept = manifest.number.saturating_sub(MANIFESTS_KEPT - 1);
        self.delete_where("manifest", |key| {
            let number = self.names.manifest_number(key);
            number.is_some_and(|number| number < kept)
        })?;
        *tidied = Some(owner);
        Ok(())
    }

    /// Deletes the objects of a kind for which `gone` answers true.
    pub(crate) fn delete_where(
        &self,
        kind: &str,
        gone: impl Fn(&BlobKey) -> bool,
    ) -> Result<(), StoreError> {
        let folder = self.names.folder(kind);
        let mut after: Option<BlobKey> = None;
        loop {
            let page = self.blobs().list(&folder, after.as_ref(), LIST_PAGE)?;
            let keys = page.iter().map(|meta| meta.key.clone());
            self.delete(keys.filter(|key| gone(key)).collect())?;
            let full = page.len() == LIST_PAGE;
            after = page.into_iter().next_back().map(|meta| meta.key);
            if !full {
                return Ok(());
            }
        }
    }
}
