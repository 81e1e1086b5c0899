//! How recent records got to disk: for `room.trace`, kept for the last batches only.

use std::collections::VecDeque;

use crate::room::RoomIx;

/// Batches remembered.
const BATCHES_MAX: usize = 4096;
/// Rooms remembered over all batches.
const SPANS_MAX: usize = 64 * 1024;

/// How a batch was made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncStats {
    /// From the append to the end of the sync, in µs.
    pub sync_us: u64,
    /// Records that shared the sync.
    pub records: u32,
}

#[derive(Debug)]
struct Traced {
    stats: SyncStats,
    /// (room, first offset, last offset).
    spans: Vec<(RoomIx, u64, u64)>,
}

/// The last batches.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    batches: VecDeque<Traced>,
    spans: usize,
}

impl Traces {
    pub(crate) fn push(&mut self, stats: SyncStats, spans: Vec<(RoomIx, u64, u64)>) {
        self.spans += spans.len();
        self.batches.push_back(Traced { stats, spans });
        while self.batches.len() > BATCHES_MAX || self.spans > SPANS_MAX {
            match self.batches.pop_front() {
                Some(old) => self.spans -= old.spans.len(),
                None => break,
            }
        }
    }

    /// How the record at `offset` of `room` was made durable, if that is still known.
    pub(crate) fn find(&self, room: RoomIx, offset: u64) -> Option<SyncStats> {
        self.batches
            .iter()
            .rev()
            .find(|b| {
                b.spans
                    .iter()
                    .any(|(r, first, last)| *r == room && (*first..=*last).contains(&offset))
            })
            .map(|b| b.stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_batches_are_found_and_old_ones_go() {
        let mut traces = Traces::default();
        for n in 0..5000u64 {
            let stats = SyncStats {
                sync_us: n,
                records: 1,
            };
            traces.push(stats, vec![(3, n + 1, n + 1)]);
        }
        assert_eq!(traces.find(3, 5000).map(|s| s.sync_us), Some(4999));
        assert_eq!(traces.find(3, 1), None);
        assert_eq!(traces.find(4, 5000), None);
    }
}
