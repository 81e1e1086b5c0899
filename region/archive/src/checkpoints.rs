//! Checkpoints in the archive: the manifest names the newest and the newest whole one before it.

use std::collections::BTreeMap;

use gb6_core_model::Position;
use gb6_core_ports::{BlobKey, Fence, PutIf, StoreError};

use crate::archive::Archive;
use crate::checkpoint::{CHECKPOINT_BYTES_MAX, damage, encode, is_whole, state_of};
use crate::manifest::{CheckpointEntry, Manifest};
use crate::names::Names;
use crate::object::Object;
use crate::reading::SegmentError;

/// Bytes above which a checkpoint is written in parts.
const WHOLE_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Archive {
    /// As [`gb6_core_ports::ShardLog::save_checkpoint`].
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `StorageFull`; `OutcomeUnknown`: save it again.
    pub fn save_checkpoint(
        &self,
        fence: &Fence,
        position: Position,
        state: &[u8],
    ) -> Result<(), StoreError> {
        self.check(fence)?;
        let new = self.put_checkpoint(fence, position, state)?;
        // Looked at before the manifest is changed: reading one may take long.
        let mut judged = BTreeMap::new();
        self.newest_whole(&self.current(), position, &mut judged);
        let mut gone = Vec::new();
        self.change("checkpoint", fence, |manifest| {
            if manifest.checkpoints.contains(&new) {
                return Ok(false);
            }
            let older = self.newest_whole(manifest, position, &mut judged);
            gone.clear();
            // Later ones are a newer owner's, or of a log that this one was restored in place of.
            let stays = |c: &CheckpointEntry| {
                c.position > position || older.as_ref().is_some_and(|older| older == c)
            };
            let kept = manifest.checkpoints.iter().filter(|c| stays(c));
            let mut kept: Vec<CheckpointEntry> = kept.cloned().collect();
            gone.extend(manifest.checkpoints.drain(..).filter(|c| !kept.contains(c)));
            kept.push(new.clone());
            kept.sort_unstable_by_key(|c| c.position);
            manifest.checkpoints = kept;
            Ok(true)
        })?;
        let keys: Result<Vec<BlobKey>, StoreError> = gone
            .iter()
            .map(|c| self.names.checkpoint(&c.name))
            .collect();
        // The checkpoint is saved: what can not be deleted now is tried again later.
        if let Err(error) = self.delete(keys?) {
            tracing::warn!(shard = %self.shard, %error, "old checkpoints are left for later");
        }
        Ok(())
    }

    /// Writes the object of a checkpoint under a name of its own.
    pub(crate) fn put_checkpoint(
        &self,
        fence: &Fence,
        position: Position,
        state: &[u8],
    ) -> Result<CheckpointEntry, StoreError> {
        let name = Names::new_checkpoint(position, fence);
        let key = self.names.checkpoint(&name)?;
        let data = encode(position, state);
        let bytes = data.len() as u64;
        if data.len() <= WHOLE_BYTES_MAX {
            self.blobs().put(&key, data.into(), PutIf::Always)?;
        } else {
            let mut writer = self.blobs().writer(&key)?;
            let mut rest = bytes::Bytes::from(data);
            while !rest.is_empty() {
                writer.write(rest.split_to(rest.len().min(WHOLE_BYTES_MAX)))?;
            }
            writer.finish()?;
        }
        self.common.metrics.written_bytes.inc_by(bytes);
        Ok(CheckpointEntry {
            name,
            position,
            bytes,
        })
    }

    /// The newest checkpoint before `position` that is whole; `judged` says by name what is known already.
    /// One of which it can not be known counts for nothing.
    fn newest_whole(
        &self,
        manifest: &Manifest,
        position: Position,
        judged: &mut BTreeMap<String, bool>,
    ) -> Option<CheckpointEntry> {
        let older = manifest.checkpoints.iter().rev();
        let mut older = older.filter(|c| c.position < position);
        older
            .find(|c| {
                *judged.entry(c.name.clone()).or_insert_with(|| {
                    let object = self.checkpoint_object(c);
                    object.is_ok_and(|object| is_whole(&object, c.position).unwrap_or(false))
                })
            })
            .cloned()
    }

    fn checkpoint_object(&self, checkpoint: &CheckpointEntry) -> Result<Object, StoreError> {
        Ok(Object {
            blobs: self.common.blobs.clone(),
            key: self.names.checkpoint(&checkpoint.name)?,
            len: checkpoint.bytes,
            blocks: None,
        })
    }

    /// As [`gb6_core_ports::ShardLog::load_checkpoint_before`]: the newest that is whole, at or before
    /// `end`, where the log ends, and below `before`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn load_checkpoint_before(
        &self,
        end: Position,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.reading(|manifest| {
            let wanted = |c: &&CheckpointEntry| c.position <= end && c.position < before;
            for checkpoint in manifest.checkpoints.iter().rev().filter(wanted) {
                let key = self.names.checkpoint(&checkpoint.name)?;
                let data = match self.blobs().get(&key, CHECKPOINT_BYTES_MAX) {
                    Ok(Some(data)) => data,
                    Ok(None) => {
                        // Replaced since the manifest was read, or lost: then the one before counts.
                        if self.refresh()? {
                            return Err(SegmentError::Gone(gone(&key, checkpoint.position)));
                        }
                        continue;
                    }
                    Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) => continue,
                    Err(e) => return Err(e.into()),
                };
                if damage(&data, checkpoint.position).is_none() {
                    return Ok(Some((checkpoint.position, state_of(data.into()))));
                }
            }
            Ok(None)
        })
    }
}

fn gone(key: &BlobKey, position: Position) -> StoreError {
    StoreError::Corrupt {
        segment: key.to_string(),
        byte: 0,
        position,
        detail: "the manifest names this checkpoint, and it is not there".into(),
    }
}
