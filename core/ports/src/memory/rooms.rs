//! `RoomStore` in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};

use crate::error::StoreError;
use crate::rooms::{RoomEntry, RoomStore};

#[derive(Default)]
struct Shard {
    rooms: BTreeMap<ChannelKey, BTreeMap<Offset, Position>>,
    applied: Position,
}

/// The reference `RoomStore`: ordered maps behind one lock.
#[derive(Default)]
pub struct MemoryRooms(Mutex<BTreeMap<ShardId, Shard>>);

impl MemoryRooms {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<ShardId, Shard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoomStore for MemoryRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        let mut shards = self.shards();
        let shard = shards.entry(shard).or_default();
        if from != shard.applied || applied < from {
            return Err(StoreError::Conflict {
                what: format!(
                    "entries from position {from} to {applied} do not follow the stored {}",
                    shard.applied
                ),
            });
        }
        for entry in entries {
            shard
                .rooms
                .entry(entry.room.clone())
                .or_default()
                .insert(entry.offset, entry.position);
        }
        shard.applied = applied;
        Ok(())
    }

    fn applied(&self, shard: ShardId) -> Result<Position, StoreError> {
        Ok(self.shards().get(&shard).map_or(0, |s| s.applied))
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let shards = self.shards();
        let Some(room) = shards.get(&shard).and_then(|s| s.rooms.get(room)) else {
            return Ok(Vec::new());
        };
        Ok(room
            .range(from..)
            .take(limit)
            .map(|(o, p)| (*o, *p))
            .collect())
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let shards = self.shards();
        let Some(room) = shards.get(&shard).and_then(|s| s.rooms.get(room)) else {
            return Ok(Vec::new());
        };
        Ok(room
            .range(..=from)
            .rev()
            .take(limit)
            .map(|(o, p)| (*o, *p))
            .collect())
    }

    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        if let Some(room) = self
            .shards()
            .get_mut(&shard)
            .and_then(|s| s.rooms.get_mut(room))
        {
            *room = room.split_off(&below);
        }
        Ok(())
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        self.shards().remove(&shard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        crate::contract::rooms::all(&MemoryRooms::new());
    }
}
