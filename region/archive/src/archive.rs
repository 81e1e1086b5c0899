//! The archive of one shard: finding its newest manifest, and changing it under a fence.
//!
//! Manifests are numbered, and a new one is put only where nothing has its name: of two writers that
//! begin from the same manifest one gets the next name, and the other reads what is there now. Each
//! carries the ownership under which it was written; one of a higher epoch fences every lower one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_obs::Metrics as Registry;
use gb6_core_ports::{BlobKey, BlobStore, Fence, LogRange, PutIf, StoreError};
use parking_lot::{Mutex, RwLock};

use crate::consumer_lists::ConsumerLists;
use crate::index::IndexFile;
use crate::lru::Lru;
use crate::manifest::{
    MANIFEST_BYTES_MAX, MANIFEST_VERSION, Manifest, ManifestError, Owner, SegmentEntry,
};
use crate::metrics::{Metrics, ShardMetrics};
use crate::names::{Names, unique};
use crate::object::{Blocks, Object};

/// Manifests that are kept: for people, and for readers that are a moment behind.
pub(crate) const MANIFESTS_KEPT: u64 = 4;
/// How often a change is begun again because somebody else changed the manifest.
const CHANGE_ATTEMPTS: usize = 16;
/// How often a manifest is put whose fate nobody knows.
const PUT_ATTEMPTS: usize = 3;
/// Objects listed at a time.
pub(crate) const LIST_PAGE: usize = 1000;
/// Shares of the cache: the rest of it is for indexes.
const BLOCKS_SHARE: f64 = 0.75;

/// Sizes and bounds of archives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveConfig {
    /// Bytes of the largest segment; a batch of records that is sealed beyond it begins another.
    pub segment_bytes_max: u64,
    /// Bytes between two points of the sparse index.
    pub index_every: u64,
    /// Bytes of segments and indexes that are kept in memory, for all shards of a node together.
    pub cache_bytes_max: usize,
    /// Bytes that a consumer may lag behind before retention stops waiting for it.
    pub consumer_lag_bytes_max: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            segment_bytes_max: 64 * 1024 * 1024,
            index_every: 64 * 1024,
            cache_bytes_max: 64 * 1024 * 1024,
            consumer_lag_bytes_max: 16 * 1024 * 1024 * 1024,
        }
    }
}

/// What the archives of a node's shards share. Cloning shares it.
#[derive(Clone)]
pub struct Archives(Arc<Common>);

pub(crate) struct Common {
    pub(crate) blobs: Arc<dyn BlobStore>,
    region: String,
    pub(crate) node: String,
    pub(crate) config: ArchiveConfig,
    pub(crate) blocks: Arc<Blocks>,
    pub(crate) indexes: Mutex<Lru<BlobKey, Arc<IndexFile>>>,
    pub(crate) metrics: Metrics,
}

impl Archives {
    /// The archives of `region` in `blobs`, as `node` uses them: its name stands in what it writes.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        region: &str,
        node: &str,
        config: ArchiveConfig,
        metrics: &Registry,
    ) -> Self {
        let metrics = Metrics::new(metrics);
        let blocks = (config.cache_bytes_max as f64 * BLOCKS_SHARE) as usize;
        Self(Arc::new(Common {
            blobs,
            region: region.to_owned(),
            node: node.to_owned(),
            config,
            blocks: Arc::new(Blocks::new(blocks, metrics.clone())),
            indexes: Mutex::new(Lru::new(config.cache_bytes_max - blocks)),
            metrics,
        }))
    }

    /// Reads what is archived of a shard. Blocks.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` where the newest manifest is damaged; `Format` for a newer one;
    /// `Conflict` where the region's name can not be part of a key.
    pub fn open(&self, shard: ShardId) -> Result<Archive, StoreError> {
        let archive = self.unread(shard)?;
        archive.refresh()?;
        Ok(archive)
    }

    /// The archive of a shard as if nothing were in it: [`Archive::refresh`] reads what is. For who can
    /// go on while the store does not answer.
    ///
    /// # Errors
    /// `Conflict` where the region's name can not be part of a key.
    pub fn unread(&self, shard: ShardId) -> Result<Archive, StoreError> {
        let names = Names::new(&self.0.region, shard)?;
        let none = Manifest {
            format: MANIFEST_VERSION,
            region: self.0.region.clone(),
            shard: shard.0,
            ..Manifest::default()
        };
        Ok(Archive {
            common: self.0.clone(),
            shard,
            names,
            current: RwLock::new(Arc::new(none)),
            changing: Mutex::new(()),
            garbage: Mutex::new(Vec::new()),
            tidied: Mutex::new(None),
            consumers: Mutex::new(ConsumerLists::default()),
            metrics: self.0.metrics.shard(shard),
        })
    }
}

/// The sealed part of one shard's log. Calls block the calling thread; handles are shared between
/// threads. Reading needs no ownership, and sees what was archived when the manifest was read last:
/// [`Archive::refresh`] looks for a newer one, and a read that finds an object gone does so by itself.
///
/// Everything that changes it takes the fence of the log's owner: `Fenced` once somebody with a higher
/// epoch has changed it, or another owner of the same epoch.
pub struct Archive {
    pub(crate) common: Arc<Common>,
    pub(crate) shard: ShardId,
    pub(crate) names: Names,
    current: RwLock<Arc<Manifest>>,
    /// Held while the manifest is changed: one change at a time.
    changing: Mutex<()>,
    /// Objects that could not be deleted yet.
    pub(crate) garbage: Mutex<Vec<BlobKey>>,
    /// The ownership that has looked for what older ones left.
    pub(crate) tidied: Mutex<Option<Owner>>,
    pub(crate) consumers: Mutex<ConsumerLists>,
    metrics: ShardMetrics,
}

impl Archive {
    /// What the archive holds: its first kept position and its end.
    pub fn range(&self) -> LogRange {
        self.current().range()
    }

    /// What the engine stored with the last seal: how to go on behind the archive's end. Empty before
    /// the first one.
    pub fn resume(&self) -> Bytes {
        self.end().1
    }

    /// What the archive holds, and how to go on behind it: [`Archive::range`] and [`Archive::resume`] of
    /// one moment, whoever changes the archive meanwhile.
    pub fn end(&self) -> (LogRange, Bytes) {
        let manifest = self.current();
        (manifest.range(), manifest.resume.clone())
    }

    /// The ownership under which the newest manifest was written; zeros where there is none.
    pub fn owner(&self) -> (ShardEpoch, Incarnation) {
        let owner = self.current().owner;
        (ShardEpoch(owner.epoch), Incarnation(owner.incarnation))
    }

    /// The node that wrote the newest manifest; empty where there is none.
    pub fn node(&self) -> String {
        self.current().node.clone()
    }

    /// Bytes of the segments in it.
    pub fn bytes(&self) -> u64 {
        self.current().bytes()
    }

    /// Counts something that failed and is tried again.
    pub fn count_failure(&self, operation: &'static str) {
        self.common.metrics.failed(operation);
    }

    /// Shows how much of the log is not archived: records, and for how long they have not been.
    pub fn show_behind(&self, records: u64, since: Duration) {
        self.metrics.set_behind(records, since);
    }

    pub(crate) fn current(&self) -> Arc<Manifest> {
        self.current.read().clone()
    }

    /// Goes on with `manifest` unless a newer one is known.
    fn adopt(&self, manifest: Manifest) {
        let mut current = self.current.write();
        if manifest.number > current.number {
            self.metrics
                .set(manifest.bytes(), manifest.segments.len(), manifest.next);
            *current = Arc::new(manifest);
        }
    }

    /// Looks for a newer manifest and answers whether there was one.
    ///
    /// # Errors
    /// As [`Archives::open`].
    pub fn refresh(&self) -> Result<bool, StoreError> {
        let known = self.current().number;
        let folder = self.names.folder("manifest");
        let mut after = match known {
            0 => None,
            number => Some(self.names.manifest(number)?),
        };
        let mut newest = None;
        loop {
            let page = self.blobs().list(&folder, after.as_ref(), LIST_PAGE)?;
            let full = page.len() == LIST_PAGE;
            let numbers = page
                .iter()
                .filter_map(|meta| self.names.manifest_number(&meta.key));
            newest = newest.max(numbers.max());
            after = page.into_iter().next_back().map(|meta| meta.key);
            if full {
                continue;
            }
            let Some(number) = newest.take() else {
                return Ok(self.current().number > known);
            };
            // Gone: a newer one was written and this one removed meanwhile. It is listed next.
            if let Some(manifest) = self.read_manifest(number)? {
                self.adopt(manifest);
                return Ok(true);
            }
        }
    }

    fn read_manifest(&self, number: u64) -> Result<Option<Manifest>, StoreError> {
        let key = self.names.manifest(number)?;
        let Some(bytes) = self.blobs().get(&key, MANIFEST_BYTES_MAX)? else {
            return Ok(None);
        };
        let corrupt = |detail: &str| StoreError::Corrupt {
            segment: key.to_string(),
            byte: 0,
            position: 0,
            detail: format!(
                "the archive's manifest is damaged ({detail}): restore the object from a copy, or \
                 remove it to go on with the one before"
            ),
        };
        let manifest = Manifest::decode(&bytes).map_err(|e| match e {
            ManifestError::Damaged(detail) => corrupt(detail),
            ManifestError::Newer(found) => StoreError::Format {
                path: key.to_string(),
                found,
                supported: MANIFEST_VERSION,
            },
        })?;
        let ours = manifest.number == number
            && manifest.shard == self.shard.0
            && manifest.region == self.common.region;
        if !ours {
            return Err(corrupt("it is of another shard than its name says"));
        }
        Ok(Some(manifest))
    }

    /// Begins an ownership: from when this returns, whoever holds a lower epoch changes nothing here.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `OutcomeUnknown`: begin again.
    pub fn begin(&self, fence: &Fence) -> Result<(), StoreError> {
        self.change("begin", fence, |_| Ok(false)).map(|_| ())
    }

    /// As [`Archive::begin`], for who goes on from what an ownership left that is `known`, and from nothing
    /// else: whoever else changed the archive keeps it.
    ///
    /// # Errors
    /// `Fenced` too where the newest manifest is of an ownership that is not known.
    pub fn begin_from(
        &self,
        fence: &Fence,
        known: impl Fn((ShardEpoch, Incarnation)) -> bool,
    ) -> Result<(), StoreError> {
        let begun = self.change("begin", fence, |manifest| {
            let owner = manifest.owner;
            if known((ShardEpoch(owner.epoch), Incarnation(owner.incarnation))) {
                return Ok(false);
            }
            Err(StoreError::Fenced {
                held: fence.shard_epoch,
                current: ShardEpoch(manifest.owner.epoch),
            })
        });
        begun.map(|_| ())
    }

    /// Changes the manifest under `fence` and answers the one in force then. `edit` may be called several
    /// times, each time with the newest manifest, which may have its change already; it answers whether
    /// it changed anything.
    pub(crate) fn change(
        &self,
        operation: &'static str,
        fence: &Fence,
        mut edit: impl FnMut(&mut Manifest) -> Result<bool, StoreError>,
    ) -> Result<Arc<Manifest>, StoreError> {
        let _alone = self.changing.lock();
        let mut outcome = Err(StoreError::Unavailable {
            cause: "others keep changing this archive".into(),
        });
        for _ in 0..CHANGE_ATTEMPTS {
            match self.attempt(fence, &mut edit) {
                Ok(Some(manifest)) => {
                    outcome = Ok(manifest);
                    break;
                }
                Ok(None) => {}
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
        }
        if matches!(&outcome, Err(e) if !matches!(e, StoreError::Conflict { .. })) {
            self.common.metrics.failed(operation);
        }
        outcome
    }

    /// One attempt of a change; `None`: the manifest is another one now.
    fn attempt(
        &self,
        fence: &Fence,
        edit: &mut impl FnMut(&mut Manifest) -> Result<bool, StoreError>,
    ) -> Result<Option<Arc<Manifest>>, StoreError> {
        let current = self.current();
        let owner = Owner::of(fence);
        check_fence(&current, fence)?;
        let mut next = (*current).clone();
        if !edit(&mut next)? && current.owner == owner {
            return Ok(Some(current));
        }
        next.format = MANIFEST_VERSION;
        next.number += 1;
        next.owner = owner;
        next.node.clone_from(&self.common.node);
        next.write = unique(fence);
        next.check().map_err(|detail| StoreError::Conflict {
            what: format!("the archive would not be whole: {detail}"),
        })?;
        let key = self.names.manifest(next.number)?;
        if !self.put_manifest(&key, &next)? {
            self.refresh()?;
            return Ok(None);
        }
        // The name may have been free although somebody had it: who slept while others went on finds
        // that older manifests are gone. What is newest counts.
        let folder = self.names.folder("manifest");
        if !self.blobs().list(&folder, Some(&key), 1)?.is_empty() {
            self.refresh()?;
            return Ok(None);
        }
        if let Some(old) = next.number.checked_sub(MANIFESTS_KEPT).filter(|n| *n > 0) {
            // One that stays is found when the next owner tidies.
            let _ = self.blobs().delete(&self.names.manifest(old)?);
        }
        self.adopt(next);
        Ok(Some(self.current()))
    }

    /// Puts a manifest where nothing has its name; answers whether it is there now.
    fn put_manifest(&self, key: &BlobKey, manifest: &Manifest) -> Result<bool, StoreError> {
        let bytes = manifest.encode();
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(StoreError::TooLarge {
                size: bytes.len() as u64,
                limit: MANIFEST_BYTES_MAX,
            });
        }
        let mut unknown = None;
        for _ in 0..PUT_ATTEMPTS {
            match self.blobs().put(key, bytes.clone(), PutIf::Absent) {
                Ok(_) => return Ok(true),
                // It may be ours: an attempt that was thought lost.
                Err(StoreError::Conflict { .. }) => {
                    let stored = self.blobs().get(key, MANIFEST_BYTES_MAX)?;
                    return Ok(stored.is_some_and(|stored| stored == bytes));
                }
                Err(e @ StoreError::OutcomeUnknown { .. }) => unknown = Some(e),
                // This attempt wrote nothing; one before it may have.
                Err(e) => return Err(unknown.unwrap_or(e)),
            }
        }
        Err(unknown.unwrap_or(StoreError::OutcomeUnknown {
            cause: format!("nobody knows whether {key} was written"),
        }))
    }

    pub(crate) fn blobs(&self) -> &dyn BlobStore {
        &*self.common.blobs
    }

    /// The object of a segment, read through the cache or, to read all of it once, beside it.
    pub(crate) fn object(
        &self,
        segment: &SegmentEntry,
        cached: bool,
    ) -> Result<Object, StoreError> {
        Ok(Object {
            blobs: self.common.blobs.clone(),
            key: self.names.segment(&segment.name)?,
            len: segment.bytes,
            blocks: cached.then(|| self.common.blocks.clone()),
        })
    }

    /// `Fenced` where somebody else has the archive, as far as is known here.
    pub(crate) fn check(&self, fence: &Fence) -> Result<(), StoreError> {
        check_fence(&self.current(), fence)
    }
}

/// `Fenced` where `manifest` is of somebody whom `fence` does not come after.
pub(crate) fn check_fence(manifest: &Manifest, fence: &Fence) -> Result<(), StoreError> {
    let (theirs, ours) = (manifest.owner, Owner::of(fence));
    if theirs.epoch < ours.epoch || theirs == ours {
        return Ok(());
    }
    Err(StoreError::Fenced {
        held: fence.shard_epoch,
        current: ShardEpoch(theirs.epoch),
    })
}
