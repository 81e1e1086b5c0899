//! The port `EventSink`: where a region tells others, who read no log of its own, what was committed.

use bytes::Bytes;
use gb6_core_model::{Position, ShardId};

use crate::error::StoreError;

/// Something that was committed, for others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkEvent {
    /// The shard in whose log it is.
    pub shard: ShardId,
    /// Where it is there: with the shard it names the event, in every repetition. Ascends within a shard.
    pub position: Position,
    /// What has to stay in order: `instance/channel`.
    pub key: String,
    /// The event itself, JSON (`docs/events.md`).
    pub value: Bytes,
}

/// Where events go. Calls block the calling thread; each has a deadline of its own.
///
/// Events are published at least once: who is answered an error, or nothing, gives the whole batch
/// again, and receivers drop by shard and position what they have. Events of one key stay in the order
/// in which they were given.
pub trait EventSink: Send + Sync {
    /// Publishes events; from when this returns they are durable. At most
    /// [`EventSink::events_max`] at once. An event that is too large for where they go is counted and left
    /// out: it would hold up those behind it for ever.
    ///
    /// # Errors
    /// Any of them may have been published all the same: give all of them again.
    fn publish(&self, events: &[SinkEvent]) -> Result<(), StoreError>;

    /// Most events of one call.
    fn events_max(&self) -> usize;
}
