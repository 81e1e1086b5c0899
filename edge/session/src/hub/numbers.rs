//! The numbers of publishes: per session and room from 1, so that the owner knows a resend.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::SessionId;
use gb6_core_wire::mesh::RoomRef;

/// The numbers of all sessions that have published here.
pub(super) struct Numbers {
    sessions: BTreeMap<SessionId, Session>,
    /// Ended sessions that the owner may not know of, with the renewal whose answer proves it does.
    untold: VecDeque<(SessionId, u64)>,
    rooms_max: usize,
}

#[derive(Default)]
struct Session {
    rooms: BTreeMap<Arc<RoomRef>, Room>,
    /// Every number given in a room that was forgotten lies below this one.
    floor: u64,
    /// Publishes that were sent and given up, and that the owner may still write.
    late: usize,
    closed: bool,
}

#[derive(Default)]
struct Room {
    next: u64,
    /// Numbers without an answer, ascending.
    unanswered: VecDeque<u64>,
    /// Publishes at the door, without a number yet.
    at_door: usize,
}

impl Session {
    fn is_settled(&self) -> bool {
        self.late == 0 && self.rooms.values().all(Room::is_settled)
    }
}

impl Room {
    fn is_settled(&self) -> bool {
        self.unanswered.is_empty() && self.at_door == 0
    }
}

impl Numbers {
    pub(super) fn new(rooms_max: usize) -> Self {
        Self {
            sessions: BTreeMap::new(),
            untold: VecDeque::new(),
            rooms_max,
        }
    }

    /// A publish of this session waits at the door.
    pub(super) fn arrive(&mut self, session: SessionId, room: &Arc<RoomRef>) {
        let state = self.sessions.entry(session).or_default();
        if !state.rooms.contains_key(room) && state.rooms.len() >= self.rooms_max {
            state.forget_settled();
        }
        let floor = state.floor;
        let entry = state.rooms.entry(Arc::clone(room)).or_insert_with(|| Room {
            next: floor.max(1),
            ..Room::default()
        });
        entry.at_door += 1;
    }

    /// It is sent for the first time: its number.
    pub(super) fn number(&mut self, session: SessionId, room: &RoomRef) -> u64 {
        let Some(entry) = self.room(session, room) else {
            return 0;
        };
        let number = entry.next;
        entry.next += 1;
        entry.at_door -= 1;
        entry.unanswered.push_back(number);
        number
    }

    /// Every number below this one has been answered or given up.
    pub(super) fn settled_below(&mut self, session: SessionId, room: &RoomRef) -> u64 {
        self.room(session, room)
            .map_or(0, |r| r.unanswered.front().copied().unwrap_or(r.next))
    }

    /// A publish is answered or given up: under its number, or 0 when it never got one. Returns
    /// whether its session has ended and nothing of it is unanswered any more.
    pub(super) fn settle(&mut self, session: SessionId, room: &RoomRef, number: u64) -> bool {
        let Some(entry) = self.room(session, room) else {
            return false;
        };
        if number == 0 {
            entry.at_door = entry.at_door.saturating_sub(1);
        } else if let Ok(at) = entry.unanswered.binary_search(&number) {
            entry.unanswered.remove(at);
        }
        self.has_ended(session)
    }

    /// A publish that was sent is given up: its session has not ended before its answer comes, or
    /// can not come any more. Call it before `settle`.
    pub(super) fn expect_late_answer(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.late += 1;
        }
    }

    /// The answer to one that was given up has come. Returns as `settle`.
    pub(super) fn late_answer(&mut self, session: SessionId) -> bool {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.late = state.late.saturating_sub(1);
        }
        self.has_ended(session)
    }

    /// Whether a session has ended and nothing of it is unanswered: then it is forgotten here.
    fn has_ended(&mut self, session: SessionId) -> bool {
        let ended = self
            .sessions
            .get(&session)
            .is_some_and(|s| s.closed && s.is_settled());
        if ended {
            self.sessions.remove(&session);
        }
        ended
    }

    /// A session has ended. Returns whether it had published and nothing of it is unanswered.
    pub(super) fn close(&mut self, session: SessionId) -> bool {
        let Some(state) = self.sessions.get_mut(&session) else {
            return false;
        };
        state.closed = true;
        if !state.is_settled() {
            return false;
        }
        self.sessions.remove(&session);
        true
    }

    /// The owner must hear of an ended session; `sequence`: of the latest renewal sent.
    pub(super) fn tell(&mut self, session: SessionId, sequence: u64) {
        self.untold.push_back((session, sequence + 1));
    }

    /// All sessions that the owner may not have heard of; they are told again now.
    pub(super) fn untold(&mut self, sequence: u64) -> Vec<SessionId> {
        for (_, proof) in &mut self.untold {
            *proof = sequence + 1;
        }
        self.untold.iter().map(|(session, _)| *session).collect()
    }

    /// This renewal was answered: what was said before it has been heard.
    pub(super) fn told(&mut self, sequence: u64) {
        while self.untold.front().is_some_and(|(_, p)| *p <= sequence) {
            self.untold.pop_front();
        }
    }

    /// A new incarnation begins: nobody knows the old one's sessions.
    pub(super) fn forget_told(&mut self) {
        self.untold.clear();
    }

    fn room(&mut self, session: SessionId, room: &RoomRef) -> Option<&mut Room> {
        self.sessions.get_mut(&session)?.rooms.get_mut(room)
    }
}

impl Session {
    /// Rooms without anything unanswered are forgotten; their numbers are never given again.
    fn forget_settled(&mut self) {
        let floor = &mut self.floor;
        self.rooms.retain(|_, room| {
            if room.is_settled() {
                *floor = room.next.max(*floor);
            }
            !room.is_settled()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(n: u32) -> Arc<RoomRef> {
        Arc::new(RoomRef {
            instance: "demo".into(),
            channel: format!("room:{n}"),
        })
    }

    const S: SessionId = SessionId(1);

    #[test]
    fn numbers_count_per_room_and_settle_in_any_order() {
        let mut n = Numbers::new(10);
        for _ in 0..3 {
            n.arrive(S, &room(1));
        }
        n.arrive(S, &room(2));
        assert_eq!([1, 2].map(|_| n.number(S, &room(1))), [1, 2]);
        assert_eq!(n.number(S, &room(2)), 1);
        assert_eq!(n.settled_below(S, &room(1)), 1);
        n.settle(S, &room(1), 2);
        assert_eq!(n.settled_below(S, &room(1)), 1);
        n.settle(S, &room(1), 1);
        assert_eq!(n.settled_below(S, &room(1)), 3);
        assert!(!n.close(S), "one is at the door and one unanswered");
        assert!(!n.settle(S, &room(2), 1));
        assert!(n.settle(S, &room(1), 0), "the last one ends the session");
        assert!(!n.close(S), "it is forgotten");
    }

    #[test]
    fn forgotten_rooms_never_give_a_number_twice() {
        let mut n = Numbers::new(2);
        for r in 0..2 {
            n.arrive(S, &room(r));
            n.number(S, &room(r));
            n.settle(S, &room(r), 1);
        }
        n.arrive(S, &room(2));
        assert_eq!(n.number(S, &room(2)), 2);
        n.arrive(S, &room(0));
        assert_eq!(n.number(S, &room(0)), 2);
    }

    #[test]
    fn ended_sessions_are_told_until_a_renewal_proves_it() {
        let mut n = Numbers::new(2);
        n.tell(SessionId(5), 3);
        n.told(3);
        assert_eq!(n.untold(7), [SessionId(5)]);
        n.told(7);
        n.told(8);
        assert_eq!(n.untold(8), []);
    }
}
