//! What a segment says about its rooms, so that retention can judge it without reading it.

use std::collections::HashMap;

use gb6_core_model::Offset;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::retention::{RetentionOffset, retention_offset};
use gb6_core_wire::record::Record;

/// Rooms above which a segment keeps no summary: retention reads the segment instead. Bounds the
/// memory that a tenant with a room for each message can take.
const ROOMS_MAX: usize = 65_536;

/// One room's part of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomSpan {
    /// Lowest offset that retention looks at.
    pub min: Offset,
    /// Highest one: the room's part is dead when its first kept offset is above it.
    pub max: Offset,
    /// Encoded bytes of its records.
    pub bytes: u64,
}

/// All rooms of a segment, and what belongs to none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// By instance, then channel.
    pub rooms: HashMap<String, HashMap<String, RoomSpan>>,
    /// Number of rooms.
    pub room_count: usize,
    /// Bytes of records that go once a checkpoint covers them.
    pub settled_bytes: u64,
    /// Bytes of records that never go with a whole segment.
    pub pinned_bytes: u64,
    /// There were more rooms than are kept: the summary says nothing.
    pub overflow: bool,
}

impl Summary {
    /// Adds a record of `bytes` encoded bytes.
    pub fn add(&mut self, record: &Record, bytes: u64) {
        if self.overflow {
            return;
        }
        let offset = match retention_offset(record) {
            RetentionOffset::Room(offset) => offset,
            RetentionOffset::Settled => {
                self.settled_bytes += bytes;
                return;
            }
            RetentionOffset::Pinned => {
                self.pinned_bytes += bytes;
                return;
            }
        };
        let span = RoomSpan {
            min: offset,
            max: offset,
            bytes,
        };
        if let Some(known) = self
            .rooms
            .get_mut(&record.instance)
            .and_then(|rooms| rooms.get_mut(&record.channel))
        {
            known.min = known.min.min(offset);
            known.max = known.max.max(offset);
            known.bytes += bytes;
            return;
        }
        self.insert(record.instance.clone(), record.channel.clone(), span);
    }

    /// Adds a room that is not there yet.
    pub fn insert(&mut self, instance: String, channel: String, span: RoomSpan) {
        if self.room_count == ROOMS_MAX {
            self.rooms = HashMap::new();
            self.overflow = true;
            return;
        }
        self.room_count += 1;
        self.rooms
            .entry(instance)
            .or_default()
            .insert(channel, span);
    }

    /// The rooms in order of their names.
    pub fn sorted(&self) -> Vec<(&str, &str, RoomSpan)> {
        let mut all: Vec<_> = self
            .rooms
            .iter()
            .flat_map(|(i, rooms)| rooms.iter().map(|(c, s)| (i.as_str(), c.as_str(), *s)))
            .collect();
        all.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        all
    }

    /// All bytes, and about how many are dead when each room begins at its first kept offset: a
    /// room that is partly dead counts in proportion of its offsets.
    pub fn dead_bytes(&self, first_kept: &FirstKept<'_>) -> (u64, u64) {
        let mut all = self.settled_bytes.saturating_add(self.pinned_bytes);
        let mut dead = self.settled_bytes;
        for (instance, channel, span) in self.sorted() {
            all = all.saturating_add(span.bytes);
            let kept = first_kept(instance, channel);
            if kept > span.max {
                dead = dead.saturating_add(span.bytes);
            } else if kept > span.min {
                let part = (kept - span.min) as f64 / ((span.max - span.min) as f64 + 1.0);
                dead = dead.saturating_add((span.bytes as f64 * part) as u64);
            }
        }
        (all, dead)
    }

    /// Whether nothing in it is alive.
    pub fn is_dead(&self, first_kept: &FirstKept<'_>) -> bool {
        self.pinned_bytes == 0
            && self
                .sorted()
                .iter()
                .all(|(i, c, span)| first_kept(i, c) > span.max)
    }
}
