//! `Signals` in the memory of this process: for a shard that one node owns, where everybody who
//! follows is attached to that owner.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gb6_core_ports::{SignalSink, Signals, StoreError};
use gb6_core_wire::mesh::{Publication, RoomRef};
use parking_lot::Mutex;

/// Signals between the shards of one process.
#[derive(Default)]
pub struct LocalSignals {
    /// Who follows each room: at most the rooms that edges want, and the shards of this process.
    rooms: Mutex<HashMap<RoomRef, Vec<Weak<dyn SignalSink>>>>,
}

impl std::fmt::Debug for LocalSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSignals")
            .field("rooms", &self.rooms.lock().len())
            .finish()
    }
}

impl LocalSignals {
    /// An engine that nobody follows.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Whether it is this sink, or one that is gone.
fn is_or_gone(weak: &Weak<dyn SignalSink>, sink: &Arc<dyn SignalSink>) -> bool {
    weak.upgrade().is_none_or(|other| Arc::ptr_eq(&other, sink))
}

impl Signals for LocalSignals {
    fn follow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        let mut rooms = self.rooms.lock();
        let followers = rooms.entry(room.clone()).or_default();
        followers.retain(|weak| !is_or_gone(weak, sink));
        followers.push(Arc::downgrade(sink));
        drop(rooms);
        // There are no other nodes to wait for.
        sink.live(room);
        Ok(())
    }

    fn unfollow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        let mut rooms = self.rooms.lock();
        if let Some(followers) = rooms.get_mut(room) {
            followers.retain(|weak| !is_or_gone(weak, sink));
            if followers.is_empty() {
                rooms.remove(room);
            }
        }
        Ok(())
    }

    fn send(&self, room: &RoomRef, publication: Publication) -> Result<(), StoreError> {
        let mut rooms = self.rooms.lock();
        let Some(weak) = rooms.get_mut(room) else {
            return Ok(());
        };
        let followers: Vec<_> = weak.iter().filter_map(Weak::upgrade).collect();
        if followers.is_empty() {
            rooms.remove(room);
        }
        drop(rooms);
        for sink in followers {
            sink.signal(room, publication.clone());
        }
        Ok(())
    }
}
