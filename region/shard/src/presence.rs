//! Who is present in a room: kept in memory, reported by edges under their leases.

use std::collections::BTreeMap;

use gb6_core_model::limits;
use gb6_core_wire::mesh::{Person, PresenceAnswer};
use prost::Message;

/// Bytes of people in one answer: well below what a mesh frame may hold.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// The people of one room.
#[derive(Debug, Default)]
pub(crate) struct RoomPresence {
    /// By client id: the person and the slab index of the edge that reports them.
    members: BTreeMap<String, (Person, usize)>,
    /// Connections of each user.
    users: BTreeMap<String, u32>,
}

impl RoomPresence {
    /// Adds a person; `true` if the client was not present before.
    pub(crate) fn insert(&mut self, person: Person, edge: usize) -> bool {
        let user = person.user.clone();
        let before = self.members.insert(person.client.clone(), (person, edge));
        if let Some((old, _)) = &before {
            let old = old.user.clone();
            self.forget_user(&old);
        }
        *self.users.entry(user).or_default() += 1;
        before.is_none()
    }

    /// Removes a client that `edge` reported. Another edge's report of it stays.
    pub(crate) fn remove(&mut self, client: &str, edge: usize) -> Option<Person> {
        if self.members.get(client).is_none_or(|(_, by)| *by != edge) {
            return None;
        }
        let (person, _) = self.members.remove(client)?;
        self.forget_user(&person.user);
        Some(person)
    }

    /// The edge that reports a client; only while it holds a lease.
    pub(crate) fn reported_by(&self, client: &str) -> Option<usize> {
        self.members.get(client).map(|(_, by)| *by)
    }

    fn forget_user(&mut self, user: &str) {
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }

    /// Client ids that `edge` reported.
    pub(crate) fn clients_of(&self, edge: usize) -> Vec<String> {
        self.members
            .iter()
            .filter(|(_, (_, by))| *by == edge)
            .map(|(client, _)| client.clone())
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// People up to the bounds in number and bytes.
    fn entries(&self, wanted: usize) -> Vec<Person> {
        let mut bytes = 0;
        let people = self.members.values().take(wanted).map(|(person, _)| person);
        people
            .take_while(|person| {
                bytes += person.encoded_len() + 8;
                bytes <= ANSWER_BYTES_MAX
            })
            .cloned()
            .collect()
    }

    /// The answer to a query: people up to the bound, numbers exact.
    pub(crate) fn answer(&self, request: u64, entries: bool) -> PresenceAnswer {
        let wanted = if entries {
            limits::PRESENCE_ENTRIES_MAX
        } else {
            0
        };
        PresenceAnswer {
            request,
            entries: self.entries(wanted),
            clients: self.members.len() as u32,
            users: self.users.len() as u32,
            error: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(user: &str, client: &str) -> Person {
        Person {
            user: user.into(),
            client: client.into(),
            ..Person::default()
        }
    }

    #[test]
    fn users_are_counted_once_and_entries_are_cut() {
        let mut room = RoomPresence::default();
        for n in 0..1500 {
            assert!(room.insert(person(&format!("u{}", n % 700), &format!("c{n}")), 0));
        }
        assert!(!room.insert(person("u0", "c0"), 0));
        let answer = room.answer(1, true);
        assert_eq!(
            (answer.entries.len(), answer.clients, answer.users),
            (1000, 1500, 700)
        );
        assert!(room.answer(1, false).entries.is_empty());
    }

    #[test]
    fn an_edge_removes_only_its_own() {
        let mut room = RoomPresence::default();
        room.insert(person("u", "c"), 0);
        room.insert(person("u", "c"), 1);
        assert_eq!(room.remove("c", 0), None);
        assert_eq!(room.remove("c", 1), Some(person("u", "c")));
        assert_eq!(room.answer(1, true).users, 0);
        assert!(room.is_empty());
    }
}
