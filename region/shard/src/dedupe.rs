//! The dedupe window: which client message ids were written, for ten minutes of served time.
//!
//! An id belongs to (instance, room, user), or to (instance, room, server API); it is kept as a 128-bit digest of all four. The window
//! is measured on the shard's served clock, which stands still while nobody serves the shard, so
//! an outage never shortens it. Above the bound on ids the oldest id of the instance that holds
//! the most goes first: who floods forgets its own ids.

use std::collections::{BTreeMap, HashMap, VecDeque};

use gb6_core_model::hash::digest128;
use gb6_core_model::limits;
use gb6_core_wire::mesh::RoomRef;

/// The digest under which an id is remembered.
pub(crate) type IdKey = [u8; 16];

/// Whose an id is: nobody can use up another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Publisher<'a> {
    /// A user's, through any of its connections; empty: anonymous people's.
    User(&'a str),
    /// The instance's own backend's, through the server API.
    Api,
}

impl<'a> Publisher<'a> {
    /// Who a publish with this user and client id is from: only the server API has no client.
    pub(crate) fn of(user: &'a str, client: &str) -> Self {
        match client.is_empty() && user.is_empty() {
            true => Publisher::Api,
            false => Publisher::User(user),
        }
    }
}

/// Where a message with an id was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    pub(crate) offset: u64,
    pub(crate) generation: u32,
    pub(crate) time: i64,
}

/// Ids of one shard.
#[derive(Debug)]
pub(crate) struct DedupeWindow {
    ids: HashMap<IdKey, (Written, u64)>,
    /// Per instance, oldest first: (id, served time of its record).
    order: BTreeMap<String, VecDeque<(IdKey, u64)>>,
    ids_max: usize,
    window_ms: u64,
    /// Served time of the newest id that the bound pushed out: the window is shorter than
    /// promised back to there.
    pushed_out_ms: Option<u64>,
}

impl DedupeWindow {
    pub(crate) fn new(ids_max: usize) -> Self {
        Self {
            ids: HashMap::new(),
            order: BTreeMap::new(),
            ids_max,
            window_ms: limits::DEDUPE_WINDOW_MS,
            pushed_out_ms: None,
        }
    }

    /// The key of `id`, sent by `publisher` to `room`.
    pub(crate) fn key(room: &RoomRef, publisher: Publisher<'_>, id: &[u8]) -> IdKey {
        let (instance, channel) = (room.instance.as_bytes(), room.channel.as_bytes());
        match publisher {
            Publisher::User(user) => digest128(&[instance, channel, user.as_bytes(), id]),
            // Another number of parts: no user's name makes the same.
            Publisher::Api => digest128(&[instance, channel, b"", id, b"api"]),
        }
    }

    /// Where the message with this id was written, if the window still knows it.
    pub(crate) fn find(&self, key: &IdKey) -> Option<Written> {
        self.ids.get(key).map(|(written, _)| *written)
    }

    /// Makes room for `more` ids of `instance` at once: growing step by step touches twice the
    /// memory, which a start waits for.
    pub(crate) fn reserve(&mut self, instance: &str, more: usize) {
        let free = self.ids_max.saturating_sub(self.ids.len());
        // One beyond the bound, which goes at once.
        self.ids.reserve(more.min(free) + 1);
        let queue = self.order.entry(instance.to_owned()).or_default();
        queue.reserve(more.min(free) + 1);
    }

    /// Remembers an id at served time `served_ms`.
    pub(crate) fn insert(&mut self, instance: &str, key: IdKey, written: Written, served_ms: u64) {
        self.ids.insert(key, (written, served_ms));
        match self.order.get_mut(instance) {
            Some(queue) => queue.push_back((key, served_ms)),
            None => {
                let queue = VecDeque::from([(key, served_ms)]);
                self.order.insert(instance.to_owned(), queue);
            }
        }
        while self.ids.len() > self.ids_max {
            self.push_out_oldest_of_largest();
        }
    }

    /// Forgets what is older than the window.
    pub(crate) fn expire(&mut self, served_ms: u64) {
        let keep_from = served_ms.saturating_sub(self.window_ms);
        for queue in self.order.values_mut() {
            while let Some((key, at)) = queue.front() {
                if *at >= keep_from {
                    break;
                }
                forget(&mut self.ids, key, *at);
                queue.pop_front();
            }
        }
        self.order.retain(|_, queue| !queue.is_empty());
        self.pushed_out_ms = self.pushed_out_ms.filter(|at| *at >= keep_from);
    }

    fn push_out_oldest_of_largest(&mut self) {
        let largest = self.order.values_mut().max_by_key(|queue| queue.len());
        if let Some((key, at)) = largest.and_then(VecDeque::pop_front) {
            forget(&mut self.ids, &key, at);
            self.pushed_out_ms = self.pushed_out_ms.max(Some(at));
        }
    }

    /// How far back every id is still known, in ms of served time: the promised window, unless
    /// the bound has pushed ids out.
    pub(crate) fn window_ms(&self, served_ms: u64) -> u64 {
        match self.pushed_out_ms {
            Some(at) => served_ms.saturating_sub(at).min(self.window_ms),
            None => self.window_ms,
        }
    }

    /// Served time of the newest id that the bound pushed out of the window, for a checkpoint.
    pub(crate) fn pushed_out_ms(&self) -> Option<u64> {
        self.pushed_out_ms
    }

    /// What the bound had pushed out before a restart.
    pub(crate) fn restore_pushed_out(&mut self, at: Option<u64>) {
        self.pushed_out_ms = self.pushed_out_ms.max(at);
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Every instance with its ids, oldest first: (id, where written, served time).
    pub(crate) fn iter(
        &self,
    ) -> impl Iterator<Item = (&str, impl Iterator<Item = (IdKey, Written, u64)>)> {
        self.order.iter().map(|(instance, queue)| {
            let ids = queue.iter().filter_map(|(key, at)| {
                let (written, newest) = self.ids.get(key)?;
                (newest == at).then_some((*key, *written, *at))
            });
            (instance.as_str(), ids)
        })
    }
}

/// Forgets an id, unless it was written again after the entry of `at`.
fn forget(ids: &mut HashMap<IdKey, (Written, u64)>, key: &IdKey, at: u64) {
    if ids.get(key).is_some_and(|(_, newest)| *newest == at) {
        ids.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(instance: &str, n: u32) -> IdKey {
        let room = RoomRef {
            instance: instance.into(),
            channel: "room:1".into(),
        };
        DedupeWindow::key(&room, Publisher::User("u"), &n.to_be_bytes())
    }

    fn at(offset: u64) -> Written {
        Written {
            offset,
            generation: 0,
            time: 0,
        }
    }

    #[test]
    fn an_id_is_known_for_the_window_of_served_time() {
        let mut w = DedupeWindow::new(10);
        w.insert("a", key("a", 1), at(1), 5_000);
        w.expire(5_000 + limits::DEDUPE_WINDOW_MS);
        assert_eq!(w.find(&key("a", 1)), Some(at(1)));
        w.expire(5_001 + limits::DEDUPE_WINDOW_MS);
        assert_eq!(w.find(&key("a", 1)), None);
        assert_eq!(w.len(), 0);
    }

    #[test]
    fn the_largest_instance_forgets_first() {
        let mut w = DedupeWindow::new(10);
        w.insert("quiet", key("quiet", 1), at(1), 1);
        for n in 0..30 {
            w.insert(
                "flood",
                key("flood", n),
                at(u64::from(n) + 1),
                10 + u64::from(n),
            );
        }
        assert_eq!(w.len(), 10);
        assert_eq!(w.find(&key("quiet", 1)), Some(at(1)));
        assert_eq!(w.find(&key("flood", 20)), None);
        assert_eq!(w.find(&key("flood", 21)), Some(at(22)));
        assert_eq!(w.window_ms(100), 100 - 30);
    }

    #[test]
    fn an_id_that_is_used_again_is_known_from_its_newest_use() {
        let mut w = DedupeWindow::new(10);
        w.insert("a", key("a", 1), at(1), 0);
        w.insert("a", key("a", 1), at(9), limits::DEDUPE_WINDOW_MS + 1);
        w.expire(limits::DEDUPE_WINDOW_MS + 2);
        assert_eq!(w.find(&key("a", 1)), Some(at(9)));
        let ids: Vec<u64> = w
            .iter()
            .flat_map(|(_, i)| i.map(|(_, w, _)| w.offset))
            .collect();
        assert_eq!(ids, [9]);
        w.expire(2 * limits::DEDUPE_WINDOW_MS + 2);
        assert_eq!(w.len(), 0);
    }

    #[test]
    fn users_and_rooms_have_ids_of_their_own() {
        let room = |channel: &str| RoomRef {
            instance: "a".into(),
            channel: channel.into(),
        };
        let a = DedupeWindow::key(&room("room:1"), Publisher::User("u"), b"1");
        assert_ne!(
            a,
            DedupeWindow::key(&room("room:2"), Publisher::User("u"), b"1")
        );
        assert_ne!(
            a,
            DedupeWindow::key(&room("room:1"), Publisher::User("v"), b"1")
        );
        assert_ne!(
            a,
            DedupeWindow::key(&room("room:1"), Publisher::User("u"), b"2")
        );
        let api = DedupeWindow::key(&room("room:1"), Publisher::of("", ""), b"1");
        assert_ne!(api, a);
        assert_ne!(
            api,
            DedupeWindow::key(&room("room:1"), Publisher::of("", "c"), b"1")
        );
        assert_ne!(
            api,
            DedupeWindow::key(&room("room:1"), Publisher::User("api"), b"1")
        );
    }
}
