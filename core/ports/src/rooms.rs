//! The port `RoomStore`: an index from (instance, room, offset) to the log's positions. It never
//! holds the only copy of anything and may be deleted at any time; the log rebuilds it.

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};

use crate::error::StoreError;

/// Where a room's record lies.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RoomEntry {
    /// The room.
    pub room: ChannelKey,
    /// The record's offset in it.
    pub offset: Offset,
    /// Its position in the shard's log.
    pub position: Position,
}

/// The index of all rooms of a node's shards. Calls block the calling thread.
///
/// An engine may lose its newest writes in a crash, but never a write while it keeps a later one
/// of the same shard: [`RoomStore::applied`] always tells the truth about what is there.
pub trait RoomStore: Send + Sync {
    /// Adds `entries` of `shard` and notes that every record before `applied` is in: both or
    /// neither. An entry that exists is overwritten. `from` is what [`RoomStore::applied`] answered
    /// when the caller began: an index that says something else now was lost or filled by somebody
    /// else meanwhile, and a note would hide what is missing: `Conflict`. So is an `applied` below.
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError>;

    /// The first position that is not in the index; 0 for a shard that it does not know. Where nodes share
    /// an index it may be lower for those that did not write last.
    fn applied(&self, shard: ShardId) -> Result<Position, StoreError>;

    /// Entries of a room with offset `from` or more, ascending, at most `limit`.
    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError>;

    /// Entries of a room with offset `from` or less, descending, at most `limit`.
    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError>;

    /// Removes a room's entries with an offset below `below`.
    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError>;

    /// Removes everything of a shard, its applied position too.
    fn clear(&self, shard: ShardId) -> Result<(), StoreError>;
}
