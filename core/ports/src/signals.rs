//! The port `Signals`: what is published in channels that keep nothing, from the owner of one shard
//! to every owner that follows the channel. Nothing is kept: who does not follow in that moment
//! does not get it.

use std::sync::Arc;

use gb6_core_wire::mesh::{Publication, RoomRef};

use crate::error::StoreError;

/// Who is handed the signals of the rooms that it follows. It is called by whoever sends, so it
/// must not block; what it has no room for it drops.
pub trait SignalSink: Send + Sync {
    /// A signal of a followed room.
    fn signal(&self, room: &RoomRef, publication: Publication);

    /// From now on the sink gets what other nodes send in a followed room, too. Told after each
    /// [`Signals::follow`], and again when the engine is back after it was lost: what other nodes
    /// sent in between is gone.
    fn live(&self, room: &RoomRef) {
        let _ = room;
    }
}

/// An engine of signals. Each signal reaches each sink that follows its room at most once, and those
/// of one sender in one room in their order. Calls do not block and await nobody's answer: they are
/// made from async threads. A sink that its owner has dropped is forgotten.
pub trait Signals: Send + Sync {
    /// From when this returns, signals that are sent at this node in the room go to `sink`, and those
    /// of other nodes from when it is told [`SignalSink::live`], until [`Signals::unfollow`]. Once,
    /// however often it is called.
    fn follow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError>;

    /// From when this returns, no signal that is sent goes to `sink`. Not to follow is no error.
    fn unfollow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError>;

    /// Sends a signal to everybody who follows the room: at this node before this returns.
    ///
    /// # Errors
    /// `Unavailable` or `Backpressure`: other nodes do not get it.
    fn send(&self, room: &RoomRef, publication: Publication) -> Result<(), StoreError>;
}
