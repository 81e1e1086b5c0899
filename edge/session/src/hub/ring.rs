//! The recent publications of one room: contiguous, ending at the room's position.

use std::collections::VecDeque;
use std::sync::Arc;

use gb6_core_model::Offset;

use crate::request::Recent;

/// Memory that a publication takes besides what is counted of it: structs, allocations, its place
/// here. Budgets of what is sent do not count it; bounds of what is remembered do, or a room of
/// tiny messages would take many times its bound.
pub(super) const OVERHEAD: usize = 384;

/// Publications without a hole, the newest last, with running sums of their costs.
#[derive(Default)]
pub(super) struct Ring {
    /// Each with the sum of all costs up to and including it, counted from some fixed start.
    entries: VecDeque<(Arc<Recent>, u64)>,
    /// The sum before the first entry.
    base: u64,
}

impl Ring {
    /// Bytes of memory held, about.
    pub(super) fn bytes(&self) -> usize {
        let costs = self.entries.back().map_or(0, |(_, sum)| sum - self.base);
        costs as usize + self.entries.len() * OVERHEAD
    }

    /// The offset of the first entry.
    pub(super) fn first(&self) -> Option<Offset> {
        self.entries.front().map(|(r, _)| r.publication.offset)
    }

    /// The offset of the last entry.
    pub(super) fn last(&self) -> Option<Offset> {
        self.entries.back().map(|(r, _)| r.publication.offset)
    }

    /// Appends the next publication; what is there is forgotten if it does not follow it.
    pub(super) fn push(&mut self, recent: Arc<Recent>) {
        if self
            .last()
            .is_some_and(|l| l + 1 != recent.publication.offset)
        {
            self.clear();
        }
        let before = self.entries.back().map_or(self.base, |(_, sum)| *sum);
        let sum = before + recent.cost as u64;
        self.entries.push_back((recent, sum));
    }

    /// Puts older publications before the first one; only those that join it without a hole.
    pub(super) fn prepend(&mut self, older: Ring, position: Offset) {
        let start = self.first().unwrap_or(position + 1);
        let mut joined = older;
        while joined.last().is_some_and(|l| l >= start) {
            joined.entries.pop_back();
        }
        if joined.last().map(|l| l + 1) != Some(start) {
            return;
        }
        for (recent, _) in std::mem::take(&mut self.entries) {
            joined.push(recent);
        }
        *self = joined;
    }

    /// Forgets the oldest publications until at most `bytes` are held.
    pub(super) fn trim_to(&mut self, bytes: usize) {
        while self.bytes() > bytes {
            self.pop_front();
        }
        if self.entries.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything up to and including `offset`.
    pub(super) fn drop_through(&mut self, offset: Offset) {
        while self.first().is_some_and(|f| f <= offset) {
            self.pop_front();
        }
    }

    /// The publication at `offset`, to be replaced by one of the same cost.
    pub(super) fn find_mut(&mut self, offset: Offset) -> Option<&mut Arc<Recent>> {
        let index = offset.checked_sub(self.first()?)?;
        let entry = self.entries.get_mut(usize::try_from(index).ok()?)?;
        Some(&mut entry.0)
    }

    fn pop_front(&mut self) {
        if let Some((_, sum)) = self.entries.pop_front() {
            self.base = sum;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The cost of everything behind `offset`.
    pub(super) fn cost_after(&self, offset: Offset) -> u64 {
        let Some(first) = self.first() else { return 0 };
        let before = match offset.checked_sub(first) {
            None => self.base,
            Some(index) => match self.entries.get(index as usize) {
                Some((_, sum)) => *sum,
                None => return 0,
            },
        };
        self.entries.back().map_or(0, |(_, sum)| sum - before)
    }

    /// Everything behind `offset`, ascending.
    pub(super) fn after(&self, offset: Offset) -> Vec<Arc<Recent>> {
        let Some(first) = self.first() else {
            return Vec::new();
        };
        let skip = (offset + 1).saturating_sub(first) as usize;
        self.entries
            .iter()
            .skip(skip)
            .map(|(r, _)| Arc::clone(r))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::mesh::Publication;

    fn recent(offset: Offset, cost: usize) -> Arc<Recent> {
        Arc::new(Recent {
            publication: Publication {
                offset,
                ..Publication::default()
            },
            cost,
        })
    }

    fn ring(offsets: std::ops::RangeInclusive<u64>) -> Ring {
        let mut ring = Ring::default();
        offsets.for_each(|o| ring.push(recent(o, o as usize)));
        ring
    }

    fn offsets(ring: &Ring, after: Offset) -> Vec<Offset> {
        ring.after(after)
            .iter()
            .map(|r| r.publication.offset)
            .collect()
    }

    #[test]
    fn sums_and_ranges() {
        let mut r = ring(3..=6);
        assert_eq!((r.first(), r.last()), (Some(3), Some(6)));
        assert_eq!(r.bytes(), 18 + 4 * OVERHEAD);
        assert_eq!(r.cost_after(2), 18);
        assert_eq!(r.cost_after(4), 11);
        assert_eq!(r.cost_after(6), 0);
        assert_eq!(offsets(&r, 4), [5, 6]);
        r.trim_to(12 + 2 * OVERHEAD);
        assert_eq!((r.bytes(), r.first()), (11 + 2 * OVERHEAD, Some(5)));
        assert_eq!(r.cost_after(0), 11);
        r.drop_through(5);
        assert_eq!(offsets(&r, 0), [6]);
    }

    #[test]
    fn a_hole_forgets_what_was_before() {
        let mut r = ring(1..=3);
        r.push(recent(5, 1));
        assert_eq!(offsets(&r, 0), [5]);
    }

    #[test]
    fn older_ones_join_without_a_hole_or_not_at_all() {
        let mut r = ring(5..=6);
        r.prepend(ring(2..=5), 6);
        assert_eq!(offsets(&r, 0), [2, 3, 4, 5, 6]);
        assert_eq!(r.bytes(), 20 + 5 * OVERHEAD);
        assert_eq!(r.cost_after(4), 11);
        let mut r = ring(5..=6);
        r.prepend(ring(2..=3), 6);
        assert_eq!(offsets(&r, 0), [5, 6]);
        let mut r = Ring::default();
        r.prepend(ring(2..=4), 3);
        assert_eq!(offsets(&r, 0), [2, 3]);
    }
}
