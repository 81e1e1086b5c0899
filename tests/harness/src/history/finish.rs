//! What only the whole history shows: messages that nobody has, holes, and orders.

use super::checker::{Checker, Key, LogRead, Room, View};
use super::{Rule, Summary, Violation};

impl Checker {
    /// Looks at what only the whole history shows.
    ///
    /// # Errors
    /// The broken promises, each once, in an order that does not depend on the run.
    pub fn finish(mut self) -> Result<Summary, Vec<Violation>> {
        let rooms = std::mem::take(&mut self.rooms);
        let clients = std::mem::take(&mut self.clients);
        self.summary.rooms = rooms.len() as u64;
        self.summary.clients = clients.len() as u64;
        for (place, room) in &rooms {
            self.finish_messages(place, room);
            self.finish_slots(place, room);
            self.finish_logs(place, room);
        }
        for (name, client) in &clients {
            for (room, view) in &client.rooms {
                let place = client.place(room);
                if let Some(room) = rooms.get(&place) {
                    self.finish_view(&place, room, name, view);
                }
            }
        }
        if self.unshown > 0 {
            let evidence = format!("and {} more broken promises", self.unshown);
            self.violations.push(Violation {
                rule: Rule::WellFormed,
                room: String::new(),
                evidence,
            });
        }
        self.violations.sort();
        self.violations.dedup();
        if self.violations.is_empty() {
            Ok(self.summary)
        } else {
            Err(self.violations)
        }
    }

    fn finish_messages(&mut self, place: &str, room: &Room) {
        for (key, sent) in &room.messages {
            let offsets = room.offsets.get(key).map_or(&[][..], Vec::as_slice);
            let read = |o: &&u64| room.slots.get(o).is_some_and(|s| s.read);
            if sent.acknowledged > 0 && !offsets.iter().any(|o| read(&o)) {
                let at = sent.first.map_or(String::new(), |o| format!(" at {o}"));
                let evidence = format!(
                    "{key} was acknowledged to {}{at}, and no reader has it",
                    sent.sender
                );
                self.broken(Rule::AcknowledgedIsKept, place, evidence);
            }
            let plain = key.id.is_none();
            if plain && offsets.len() as u64 > u64::from(sent.attempts) {
                let evidence = format!(
                    "{key} was sent {} times and stands at {offsets:?}",
                    sent.attempts
                );
                self.broken(Rule::OneOffset, place, evidence);
            }
            if sent.refused == sent.attempts && !offsets.is_empty() {
                let evidence = format!("{key} was refused, and stands at {offsets:?}");
                self.broken(Rule::RefusedIsAbsent, place, evidence);
            }
            let early = offsets.iter().find(|o| **o <= sent.floor);
            if let Some(offset) = early.filter(|_| sent.attempts == 1 || key.id.is_some()) {
                let evidence = format!(
                    "{} sent {key} after it had the acknowledgement of {}, and it stands at {offset}",
                    sent.sender, sent.floor
                );
                self.broken(Rule::SenderOrder, place, evidence);
            }
        }
    }

    fn finish_slots(&mut self, place: &str, room: &Room) {
        for (offset, slot) in &room.slots {
            let key = Key::new(&slot.user, &slot.id, &slot.data);
            let sent = room.messages.get(&key);
            if sent.is_some_and(|s| s.data == slot.data) {
                continue;
            }
            let told = &slot.told;
            let instance = place.split('/').next().unwrap_or_default();
            let elsewhere = self.sent_to.get(&slot.data).map_or(&[][..], Vec::as_slice);
            let (rule, evidence) = match elsewhere.iter().find(|p| *p != place) {
                Some(other) if other.split('/').next() != Some(instance) => (
                    Rule::InstanceKept,
                    format!("offset {offset} ({told}) holds what was sent to {other}"),
                ),
                Some(other) => (
                    Rule::SentBefore,
                    format!("offset {offset} ({told}) holds what was sent to {other}"),
                ),
                None => (
                    Rule::SentBefore,
                    format!(
                        "offset {offset} ({told}) holds {key} with data {}, which nobody sent",
                        slot.data
                    ),
                ),
            };
            self.broken(rule, place, evidence);
        }
    }

    fn finish_logs(&mut self, place: &str, room: &Room) {
        for log in &room.logs {
            let LogRead { client, first, .. } = log;
            if *first != 1 && !log.trimmed {
                let evidence = format!("the log that {client} read begins at {first}");
                self.broken(Rule::Consecutive, place, evidence);
            }
            for (low, high) in missing(*first, log.top, &log.covered) {
                let evidence = format!(
                    "the log that {client} read, {first} to {}, has a hole from {low} to {high}",
                    log.top
                );
                self.broken(Rule::Consecutive, place, evidence);
            }
        }
        // Only the last one was read when nothing was sent any more.
        let Some(log) = room.logs.last() else { return };
        for (offset, slot) in room.slots.range(log.top + 1..) {
            let rule = match slot.acknowledged_to {
                Some(_) => Rule::AcknowledgedIsKept,
                None => Rule::Consecutive,
            };
            let evidence = format!(
                "offset {offset} was {}, and the log that {} read ends at {}",
                slot.told, log.client, log.top
            );
            self.broken(rule, place, evidence);
        }
    }

    fn finish_view(&mut self, place: &str, room: &Room, name: &str, view: &View) {
        self.finish_order(place, room, name, view);
        if !view.settled {
            return;
        }
        for (from, to) in &view.gaps {
            for (low, high) in missing(*from, *to, &view.paged) {
                let evidence = format!("{name} never got {low} to {high}, not even in pages");
                self.broken(Rule::NothingSkipped, place, evidence);
            }
        }
        let top = room.slots.last_key_value().map_or(0, |(o, _)| *o);
        let position = view.position.unwrap_or(0);
        if view.subscribed && position < top {
            let evidence = format!("{name} ends at {position}, the room at {top}");
            self.broken(Rule::CaughtUp, place, evidence);
        }
    }

    /// What was sent once, on one connection, stands in the order in which it was sent.
    fn finish_order(&mut self, place: &str, room: &Room, name: &str, view: &View) {
        let mut last: Option<(u32, u64, &Key)> = None;
        for (connection, key) in &view.sent {
            let once = room.messages.get(key).is_some_and(|s| s.attempts == 1);
            let offsets = room.offsets.get(key).map_or(&[][..], Vec::as_slice);
            let (true, [offset]) = (once, offsets) else {
                continue;
            };
            if let Some((c, before, earlier)) = last
                && c == *connection
                && before > *offset
            {
                let evidence = format!(
                    "{name} sent {earlier} before {key}, and they stand at {before} and {offset}"
                );
                self.broken(Rule::SenderOrder, place, evidence);
            }
            last = Some((*connection, *offset, key));
        }
    }
}

/// The parts of `from..=to` that no range covers.
fn missing(from: u64, to: u64, ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut holes = Vec::new();
    let mut next = from;
    for (low, high) in sorted {
        if low > to {
            break;
        }
        if low > next {
            holes.push((next, low - 1));
        }
        next = next.max(high.saturating_add(1));
    }
    if next <= to {
        holes.push((next, to));
    }
    holes
}
