//! Retention: trim records that move a room's first kept offset, by number or by age.

use crate::batch::Admin;
use crate::machine::{Output, Shard};
use crate::room::RoomIx;

/// Samples of a room's (offset, time) over one TTL: publications go at most a sixteenth of the
/// TTL late.
const MARKS_PER_TTL: u64 = 16;
/// Token of trims that nobody outside waits for.
const OWN_TRIM: u64 = 0;

impl Shard {
    /// Plans a trim when a room holds more than its history size by an eighth: one record for
    /// many publications.
    pub(crate) fn plan_trim(&mut self, ix: RoomIx) {
        let room = self.rooms.get(ix);
        let size = self.rules(&room.key).map_or(0, |r| r.history_size);
        let kept = (room.head + 1).saturating_sub(room.first);
        if size > 0 && kept > size + (size / 8).max(16) {
            let first = room.head + 1 - size;
            self.queue_trim(ix, first);
        }
    }

    /// Plans trims by age; called about once a second.
    pub(crate) fn plan_aging(&mut self, unix_ms: i64) {
        let aged: Vec<(RoomIx, u64)> = self
            .aging
            .iter()
            .filter_map(|ix| {
                let room = self.rooms.get(*ix);
                let ttl = self.rules(&room.key).map(|r| r.history_ttl_ms)?;
                let horizon = unix_ms.saturating_sub(i64::try_from(ttl).ok()?);
                // A mark's publication and all before it are as old as the mark, or older.
                let old = room.marks.iter().rev().find(|(_, time)| *time < horizon)?;
                (ttl > 0 && old.0 >= room.first).then_some((*ix, old.0 + 1))
            })
            .collect();
        for (ix, first) in aged {
            self.queue_trim(ix, first);
        }
        let rooms = &self.rooms;
        self.aging.retain(|ix| !rooms.get(*ix).marks.is_empty());
    }

    pub(crate) fn mark_age(&mut self, ix: RoomIx, offset: u64, time: i64) {
        let ttl = self
            .rules(&self.rooms.get(ix).key)
            .map_or(0, |r| r.history_ttl_ms);
        let step = (ttl / MARKS_PER_TTL).max(1) as i64;
        let marks = &mut self.rooms.get_mut(ix).marks;
        // The newest mark moves along until a step lies between it and the one before.
        let n = marks.len();
        if n >= 2 && time - marks[n - 2].1 < step {
            marks[n - 1] = (offset, time);
        } else {
            marks.push_back((offset, time));
        }
        self.aging.insert(ix);
    }

    fn queue_trim(&mut self, ix: RoomIx, first: u64) {
        let room = self.rooms.get_mut(ix);
        if room.trimming {
            return;
        }
        room.trimming = true;
        let room = room.key.clone();
        self.admins
            .push_back((OWN_TRIM, Admin::Trim { room, first }));
        self.out.push_back(Output::Wake);
    }
}
