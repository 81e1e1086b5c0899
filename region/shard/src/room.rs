//! Rooms of a shard: where each stands, and which edges want it.

use std::collections::{HashMap, VecDeque};

use gb6_core_wire::mesh::RoomRef;
use slab::Slab;

use crate::presence::RoomPresence;

/// A room's index in [`Rooms`]: stable while the room holds anything.
pub(crate) type RoomIx = usize;

/// The version of a publication, for publishes that are written only if they are newer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) epoch: String,
}

impl Version {
    /// Whether a publish of version `number` in `epoch` is no newer than this one. Without an epoch
    /// it is compared with any; one of another epoch is always new.
    pub(crate) fn supersedes(&self, number: u64, epoch: &str) -> bool {
        number > 0 && (epoch.is_empty() || epoch == self.epoch) && number <= self.number
    }
}

/// One room.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) key: RoomRef,
    /// The newest committed offset; 0: none yet.
    pub(crate) head: u64,
    /// The newest offset given out, in the batch being formed or in flight; `head` without one.
    pub(crate) open_head: u64,
    /// The first kept offset.
    pub(crate) first: u64,
    /// The newest record's time, Unix ms.
    pub(crate) time: i64,
    /// The version of the newest publication that has one.
    pub(crate) version: Option<Box<Version>>,
    /// Raised when a deleted room's name is used again.
    pub(crate) generation: u32,
    /// Messages erased since this life of the owner began to read its log.
    pub(crate) erasures: u64,
    /// Edges that want deliveries, by their slab index, ascending.
    pub(crate) edges: Vec<usize>,
    /// Whether the driver was told to follow its signals, and with them a user's status; `None`: not at
    /// all.
    pub(crate) followed: Option<bool>,
    /// Who is present, if anybody.
    pub(crate) presence: Option<Box<RoomPresence>>,
    /// (offset, time) samples for retention by age, oldest first; only where a TTL applies.
    pub(crate) marks: VecDeque<(u64, i64)>,
    /// A trim record for this room waits or is in flight.
    pub(crate) trimming: bool,
    /// Records of this room in the batch in flight.
    pub(crate) in_flight: u32,
    /// The snapshot revision by which the room was last found to belong to this shard.
    pub(crate) routed_by: Option<u64>,
}

/// The rooms of a shard, by index and by name.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    list: Slab<Room>,
    by_key: HashMap<RoomRef, RoomIx>,
}

impl Rooms {
    pub(crate) fn find(&self, key: &RoomRef) -> Option<RoomIx> {
        self.by_key.get(key).copied()
    }

    /// The room of this name, made empty if it is new.
    pub(crate) fn ensure(&mut self, key: &RoomRef) -> RoomIx {
        if let Some(ix) = self.by_key.get(key) {
            return *ix;
        }
        let ix = self.list.insert(Room {
            key: key.clone(),
            head: 0,
            open_head: 0,
            first: 1,
            time: 0,
            version: None,
            generation: 0,
            erasures: 0,
            edges: Vec::new(),
            followed: None,
            presence: None,
            marks: VecDeque::new(),
            trimming: false,
            in_flight: 0,
            routed_by: None,
        });
        self.by_key.insert(key.clone(), ix);
        ix
    }

    pub(crate) fn get(&self, ix: RoomIx) -> &Room {
        &self.list[ix]
    }

    pub(crate) fn get_mut(&mut self, ix: RoomIx) -> &mut Room {
        &mut self.list[ix]
    }

    /// Forgets a room that holds nothing: names that were only looked at cost no memory. The log
    /// knows nothing of such a room, so no number, trace or id can point at it.
    pub(crate) fn drop_if_unused(&mut self, ix: RoomIx) {
        let Some(room) = self.list.get(ix) else {
            return;
        };
        let empty = room.open_head == 0 && room.head == 0 && room.first == 1 && room.in_flight == 0;
        if empty && room.edges.is_empty() && room.presence.is_none() {
            let room = self.list.remove(ix);
            self.by_key.remove(&room.key);
        }
    }

    /// Every room, by index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RoomIx, &Room)> {
        self.list.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
