//! The keys of a shard's objects. `docs/log-format.md` describes them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use gb6_core_model::{Incarnation, Position, ShardEpoch, ShardId};
use gb6_core_ports::{BlobKey, Fence, StoreError};

/// Objects that this process has named: with the owner's epoch and incarnation no name is given twice,
/// so that a put that comes through late changes nothing that somebody relies on.
static NAMED: AtomicU64 = AtomicU64::new(0);

/// The part of a name that nobody else gives: epoch, incarnation and a number, in hexadecimal.
pub(crate) fn unique(fence: &Fence) -> String {
    let number = NAMED.fetch_add(1, Ordering::Relaxed);
    let (epoch, owner) = (fence.shard_epoch.0, fence.owner_incarnation.0);
    format!("{epoch:x}.{owner:016x}.{number:x}")
}

/// The epoch under which an object was named; `None` for a name that is none of ours.
pub(crate) fn epoch_of(key: &BlobKey) -> Option<ShardEpoch> {
    let (_, name) = key.as_str().rsplit_once('/')?;
    let (_, unique) = name.rsplit_once('-')?;
    let (epoch, _) = unique.split_once('.')?;
    u64::from_str_radix(epoch, 16).ok().map(ShardEpoch)
}

/// Whether `text` may be a part of a key.
pub(crate) fn is_part(text: &str) -> bool {
    !text.contains('/') && BlobKey::parse(text).is_ok()
}

/// The keys of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Names(String);

impl Names {
    pub(crate) fn new(region: &str, shard: ShardId) -> Result<Self, StoreError> {
        if !is_part(region) {
            return Err(StoreError::Conflict {
                what: format!("{region:?} can not be a part of the names of archived objects"),
            });
        }
        Ok(Self(format!("{region}/shards/{}", shard.0)))
    }

    fn key(&self, rest: fmt::Arguments<'_>) -> Result<BlobKey, StoreError> {
        BlobKey::parse(&format!("{}/{rest}", self.0))
    }

    /// What the keys of all objects of a kind begin with.
    pub(crate) fn folder(&self, kind: &str) -> String {
        format!("{}/{kind}/", self.0)
    }

    pub(crate) fn manifest(&self, number: u64) -> Result<BlobKey, StoreError> {
        self.key(format_args!("manifest/{number:020}"))
    }

    /// The number of the manifest with this key.
    pub(crate) fn manifest_number(&self, key: &BlobKey) -> Option<u64> {
        let digits = key.as_str().strip_prefix(&self.folder("manifest"))?;
        let well_formed = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        well_formed.then(|| digits.parse().ok()).flatten()
    }

    /// A new name of a segment.
    pub(crate) fn new_segment(first: Position, generation: u32, fence: &Fence) -> String {
        format!("{first:020}-{generation}-{}", unique(fence))
    }

    pub(crate) fn segment(&self, name: &str) -> Result<BlobKey, StoreError> {
        self.key(format_args!("seg/{name}.seg"))
    }

    pub(crate) fn index(&self, name: &str) -> Result<BlobKey, StoreError> {
        self.key(format_args!("seg/{name}.idx"))
    }

    /// A new name of a checkpoint.
    pub(crate) fn new_checkpoint(position: Position, fence: &Fence) -> String {
        format!("{position:020}-{}", unique(fence))
    }

    pub(crate) fn checkpoint(&self, name: &str) -> Result<BlobKey, StoreError> {
        self.key(format_args!("ckpt/{name}.ckpt"))
    }

    /// The question of a node whether the archive's owner lives.
    pub(crate) fn question(&self, node: &str) -> Result<BlobKey, StoreError> {
        if !is_part(node) {
            return Err(StoreError::Conflict {
                what: format!("{node:?} can not be a part of the names of archived objects"),
            });
        }
        self.key(format_args!("asked/{node}"))
    }

    pub(crate) fn consumers(
        &self,
        epoch: ShardEpoch,
        owner: Incarnation,
        number: u64,
    ) -> Result<BlobKey, StoreError> {
        let (epoch, owner) = (epoch.0, owner.0);
        self.key(format_args!(
            "consumers/{epoch:020}-{owner:016x}-{number:020}"
        ))
    }

    /// Whose list of consumers has this key, and its number.
    pub(crate) fn consumers_of(&self, key: &BlobKey) -> Option<(ShardEpoch, Incarnation, u64)> {
        let name = key.as_str().strip_prefix(&self.folder("consumers"))?;
        let mut parts = name.split('-');
        let epoch = parts.next()?.parse().ok()?;
        let owner = u64::from_str_radix(parts.next()?, 16).ok()?;
        let number = parts.next()?.parse().ok()?;
        let whole = parts.next().is_none();
        whole.then_some((ShardEpoch(epoch), Incarnation(owner), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let names = Names::new("eu", ShardId(3)).unwrap();
        let fence = Fence {
            region: "eu".into(),
            shard: ShardId(3),
            shard_epoch: ShardEpoch(0x1f),
            owner_incarnation: Incarnation(u64::MAX),
        };
        let first = Names::new_segment(7, 2, &fence);
        assert_ne!(first, Names::new_segment(7, 2, &fence));
        let key = names.segment(&first).unwrap();
        let begin = "eu/shards/3/seg/00000000000000000007-2-1f.ffffffffffffffff.";
        assert!(key.as_str().starts_with(begin), "{key}");
        assert_eq!(epoch_of(&key), Some(ShardEpoch(0x1f)));
        let ckpt = names.checkpoint(&Names::new_checkpoint(9, &fence)).unwrap();
        assert_eq!(epoch_of(&ckpt), Some(ShardEpoch(0x1f)));
        let manifest = names.manifest(12).unwrap();
        assert_eq!(names.manifest_number(&manifest), Some(12));
        assert_eq!(names.manifest_number(&key), None);
        let (epoch, owner) = (fence.shard_epoch, fence.owner_incarnation);
        let consumers = names.consumers(epoch, owner, 8).unwrap();
        assert_eq!(names.consumers_of(&consumers), Some((epoch, owner, 8)));
        assert!(Names::new("eu/x", ShardId(3)).is_err());
    }
}
