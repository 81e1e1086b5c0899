//! The rules of retention and erasure that every engine shares: when a record may go, and what is
//! left of an erased one.

use gb6_core_wire::record::{Kind, Record, flags};

/// What retention looks at in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetentionOffset {
    /// It goes when the room's first kept offset has passed this one (and, as everything, when
    /// both kept checkpoints cover it).
    Room(u64),
    /// It goes once a checkpoint covers it.
    Settled,
    /// Only the owner of its meaning can say: never dropped with a whole segment.
    Pinned,
}

/// When a record may go: the rule that every engine's retention plan follows.
pub fn retention_offset(record: &Record) -> RetentionOffset {
    match record.kind() {
        Kind::Message | Kind::Import => RetentionOffset::Room(record.offset),
        Kind::Tombstone => RetentionOffset::Room(record.target_offset),
        // A trim is told again by every later one and by the room's first kept record; of a room
        // without one, both kept checkpoints know it before it goes.
        Kind::Trim => RetentionOffset::Room(record.target_offset.saturating_sub(1)),
        // What follows the log for sessions' ends is a consumer, and no consumer's records go.
        Kind::Acquire | Kind::Checkpoint | Kind::Session => RetentionOffset::Settled,
        _ => RetentionOffset::Pinned,
    }
}

/// Takes a record's content away and leaves its place: what [`crate::Retain::Erase`] does. The
/// message id stays, so that whoever replays the log still knows a repetition; clients are not
/// shown it ([`gb6_core_wire::mesh::Publication::of`]).
pub fn erase(record: &mut Record) {
    record.body.clear();
    record.tags.clear();
    record.compression = 0;
    record.key_id = 0;
    record.flags |= flags::ERASED;
}
