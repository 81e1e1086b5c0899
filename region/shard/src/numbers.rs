//! Publish numbers: how an edge's own resends are recognised.
//!
//! An edge numbers each session's publishes per room; the numbers are in the records. For each
//! (edge incarnation, session, room) the shard keeps the highest number and where the recent ones
//! were written. A resend whose number has a record is answered with its offset; one at or below
//! the highest without a record is never written.

use std::collections::{BTreeMap, VecDeque};

use gb6_core_model::limits;

use crate::dedupe::Written;
use crate::room::RoomIx;

/// The most results kept for one session and room. A session can not have more unanswered than
/// the credit of its instance.
const RESULTS_MAX: usize = limits::PUBLISH_CREDIT as usize;

/// What the table knows about a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// Above the highest: never seen.
    New,
    /// Written.
    Written(Written),
    /// At or below the highest, without a record: its outcome can not be told.
    Unknown,
}

/// Numbers of one session in one room.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) highest: u64,
    /// (number, where), ascending.
    pub(crate) results: VecDeque<(u64, Written)>,
    /// Served time of the newest publish.
    pub(crate) served_ms: u64,
}

/// Numbers of every edge incarnation that published here recently.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    edges: BTreeMap<u64, BTreeMap<u64, BTreeMap<RoomIx, Entry>>>,
}

impl Numbers {
    /// What is known about `number`.
    pub(crate) fn look_up(&self, edge: u64, session: u64, room: RoomIx, number: u64) -> Known {
        let entry = self
            .edges
            .get(&edge)
            .and_then(|e| e.get(&session))
            .and_then(|s| s.get(&room));
        let Some(entry) = entry else {
            return Known::New;
        };
        if number > entry.highest {
            return Known::New;
        }
        let found = entry.results.binary_search_by_key(&number, |(n, _)| *n);
        match found {
            Ok(at) => Known::Written(entry.results[at].1),
            Err(_) => Known::Unknown,
        }
    }

    /// A record with this number is durable.
    pub(crate) fn record(
        &mut self,
        edge: u64,
        session: u64,
        room: RoomIx,
        number: u64,
        written: Written,
        served_ms: u64,
    ) {
        let entry = self.entry(edge, session, room);
        entry.served_ms = entry.served_ms.max(served_ms);
        if number <= entry.highest {
            return;
        }
        entry.highest = number;
        entry.results.push_back((number, written));
        if entry.results.len() > RESULTS_MAX {
            entry.results.pop_front();
        }
    }

    /// The edge has the answers to every number below `number`: their results may go.
    pub(crate) fn settle(&mut self, edge: u64, session: u64, room: RoomIx, number: u64) {
        let entry = self
            .edges
            .get_mut(&edge)
            .and_then(|e| e.get_mut(&session))
            .and_then(|s| s.get_mut(&room));
        if let Some(entry) = entry {
            while entry.results.front().is_some_and(|(n, _)| *n < number) {
                entry.results.pop_front();
            }
        }
    }

    /// The numbers of a session, for restoring.
    pub(crate) fn entry(&mut self, edge: u64, session: u64, room: RoomIx) -> &mut Entry {
        self.edges
            .entry(edge)
            .or_default()
            .entry(session)
            .or_default()
            .entry(room)
            .or_default()
    }

    /// The session has ended and nothing of it is unanswered.
    pub(crate) fn end_session(&mut self, edge: u64, session: u64) {
        if let Some(sessions) = self.edges.get_mut(&edge) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.edges.remove(&edge);
            }
        }
    }

    /// The edge's lease has ended: it will come back as another incarnation.
    pub(crate) fn end_edge(&mut self, edge: u64) {
        self.edges.remove(&edge);
    }

    /// Forgets numbers of edges that are not attached and have been silent for the resend window:
    /// what an earlier owner of this shard left behind.
    pub(crate) fn expire(&mut self, served_ms: u64, is_known: impl Fn(u64) -> bool) {
        let keep_from = served_ms.saturating_sub(limits::RESEND_WINDOW_MS);
        self.edges.retain(|edge, sessions| {
            if is_known(*edge) {
                return true;
            }
            sessions.retain(|_, rooms| {
                rooms.retain(|_, entry| entry.served_ms >= keep_from);
                !rooms.is_empty()
            });
            !sessions.is_empty()
        });
    }

    /// Every entry, in a fixed order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, RoomIx, &Entry)> {
        self.edges.iter().flat_map(|(edge, sessions)| {
            sessions.iter().flat_map(move |(session, rooms)| {
                rooms
                    .iter()
                    .map(move |(room, entry)| (*edge, *session, *room, entry))
            })
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.edges
            .values()
            .flat_map(BTreeMap::values)
            .map(BTreeMap::len)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Written {
        Written {
            offset,
            generation: 0,
            time: 0,
        }
    }

    #[test]
    fn resends_find_their_result_and_holes_stay_unknown() {
        let mut n = Numbers::default();
        n.record(7, 1, 0, 1, at(10), 0);
        n.record(7, 1, 0, 3, at(11), 0);
        assert_eq!(n.look_up(7, 1, 0, 1), Known::Written(at(10)));
        assert_eq!(n.look_up(7, 1, 0, 2), Known::Unknown);
        assert_eq!(n.look_up(7, 1, 0, 3), Known::Written(at(11)));
        assert_eq!(n.look_up(7, 1, 0, 4), Known::New);
        assert_eq!(n.look_up(7, 1, 1, 1), Known::New);
        assert_eq!(n.look_up(8, 1, 0, 1), Known::New);
        n.settle(7, 1, 0, 3);
        assert_eq!(n.look_up(7, 1, 0, 1), Known::Unknown);
        assert_eq!(n.look_up(7, 1, 0, 3), Known::Written(at(11)));
    }

    #[test]
    fn what_nobody_can_resend_is_forgotten() {
        let mut n = Numbers::default();
        n.record(7, 1, 0, 1, at(1), 1_000);
        n.record(8, 1, 0, 1, at(2), 1_000);
        n.expire(1_001 + limits::RESEND_WINDOW_MS, |edge| edge == 8);
        assert_eq!(n.look_up(7, 1, 0, 1), Known::New);
        assert_eq!(n.look_up(8, 1, 0, 1), Known::Written(at(2)));
        n.end_session(8, 1);
        assert_eq!(n.len(), 0);
    }
}
