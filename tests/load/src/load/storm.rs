//! What the clients of a reconnect storm have got, offset by offset, and who is back.

use std::time::Duration;

use crate::clock::ns;
use crate::codec::{Event, Position};
use crate::histogram::Histogram;
use crate::payload::Random;

/// A client whose attempt failed waits up to this before the next, doubled by each failure up to
/// the second value: what SDKs do.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// Where a client stands in one of its rooms.
#[derive(Clone, Default)]
struct Standing {
    epoch: String,
    /// The last offset that it has.
    last: u64,
}

/// One client.
#[derive(Clone, Default)]
pub(super) struct Client {
    /// Its connection now.
    pub(super) connection: Option<usize>,
    rooms: Vec<Standing>,
    /// Subscriptions that this connection has.
    subscribed: usize,
    first_attempt: u64,
    failures: u32,
    /// When to try again.
    pub(super) again: Option<u64>,
    back: bool,
}

impl Client {
    /// Where it stands in its `nth` room.
    pub(super) fn position(&self, nth: usize) -> Position {
        let standing = &self.rooms[nth];
        Position {
            epoch: standing.epoch.clone(),
            offset: standing.last,
        }
    }
}

/// All clients, and what was seen of them.
pub(super) struct Storm {
    pub(super) clients: Vec<Client>,
    /// The client of each connection.
    pub(super) owner: Vec<usize>,
    /// Rooms in all.
    rooms: usize,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// Subscriptions whose recovery was refused.
    pub(super) unrecovered: usize,
    pub(super) retries: u64,
    /// Clients with all their subscriptions.
    pub(super) back: usize,
    pub(super) latency: Histogram,
    pub(super) first_failure: Option<String>,
    /// Connections whose session has begun: they are to subscribe.
    pub(super) ready: Vec<usize>,
    /// Connections that are of no use any more.
    pub(super) stale: Vec<usize>,
    random: Random,
}

impl Storm {
    /// `clients` clients in `each` of `rooms` rooms, on the connections of their numbers.
    pub(super) fn new(clients: usize, each: usize, rooms: usize, seed: u64) -> Self {
        let client = |n| Client {
            connection: Some(n),
            rooms: vec![Standing::default(); each],
            ..Client::default()
        };
        Storm {
            clients: (0..clients).map(client).collect(),
            owner: (0..clients).collect(),
            rooms,
            lost: 0,
            doubled: 0,
            unrecovered: 0,
            retries: 0,
            back: 0,
            latency: Histogram::default(),
            first_failure: None,
            ready: Vec::new(),
            stale: Vec::new(),
            random: Random::new(seed),
        }
    }

    /// The number of the `nth` room of a client.
    pub(super) fn room(&self, client: usize, nth: usize) -> usize {
        (client * self.clients[client].rooms.len() + nth) % self.rooms
    }

    /// All are to come back from `start` on.
    pub(super) fn begin(&mut self, start: u64) {
        for client in &mut self.clients {
            client.connection = None;
            client.subscribed = 0;
            client.first_attempt = start;
            client.again = Some(start);
        }
    }

    /// A client that was due tries it over `connection`.
    pub(super) fn attempt(&mut self, client: usize, connection: usize) {
        self.owner.resize(connection + 1, 0);
        self.owner[connection] = client;
        let client = &mut self.clients[client];
        client.connection = Some(connection);
        client.subscribed = 0;
        client.again = None;
    }

    /// Takes in what a connection tells.
    pub(super) fn see(&mut self, connection: usize, now: u64, event: Event<'_>) {
        let Some(client) = self
            .owner
            .get(connection)
            .and_then(|n| self.clients.get_mut(*n))
        else {
            return;
        };
        if client.connection != Some(connection) {
            return;
        }
        match event {
            Event::Ready => self.ready.push(connection),
            Event::Delivered { nth, offset, .. } => {
                let last = &mut client.rooms[nth].last;
                if offset <= *last {
                    self.doubled += 1;
                } else {
                    self.lost += offset - *last - 1;
                    *last = offset;
                }
            }
            Event::Subscribed {
                nth,
                position,
                recovered,
            } => {
                let again = client.first_attempt > 0;
                let room = &mut client.rooms[nth];
                if again && !recovered {
                    // It knows that it missed something, and pages it from history.
                    self.unrecovered += 1;
                    room.last = position.offset;
                } else if !again {
                    room.last = room.last.max(position.offset);
                }
                room.epoch = position.epoch;
                client.subscribed += 1;
                if again && client.subscribed == client.rooms.len() {
                    client.back = true;
                    self.back += 1;
                    self.latency.record(now - client.first_attempt);
                }
            }
            Event::SubscriptionLost { code, message } => {
                client.connection = None;
                self.stale.push(connection);
                let why = format!("a subscription ended: {code} {message}");
                self.failed(connection, now, why);
            }
            Event::Closed { why } => {
                client.connection = None;
                self.failed(connection, now, why);
            }
            Event::Acked { .. } | Event::Failed { .. } => (),
        }
    }

    fn failed(&mut self, connection: usize, now: u64, why: String) {
        let client = &mut self.clients[self.owner[connection]];
        self.first_failure.get_or_insert(why);
        self.retries += 1;
        if client.back {
            client.back = false;
            self.back -= 1;
        }
        let most = ns(BACKOFF.0)
            .saturating_mul(1 << client.failures.min(16))
            .min(ns(BACKOFF.1));
        client.failures += 1;
        client.again = Some(now + self.random.next() % most.max(1));
    }

    /// The latest offset that anybody has of each room.
    fn tops(&self) -> Vec<u64> {
        let mut tops = vec![0; self.rooms];
        self.every(|room, last| tops[room] = last.max(tops[room]));
        tops
    }

    /// Each client's last offset of each of its rooms.
    fn every(&self, mut see: impl FnMut(usize, u64)) {
        for (n, client) in self.clients.iter().enumerate() {
            for (nth, standing) in client.rooms.iter().enumerate() {
                see(self.room(n, nth), standing.last);
            }
        }
    }

    /// Deliveries that are missing: what a client has not, though another of its room or the
    /// publisher, who has `acked` acknowledgements, knows it.
    pub(super) fn missing(&self, acked: u64) -> u64 {
        let tops = self.tops();
        let mut missing = acked.saturating_sub(tops.iter().sum());
        self.every(|room, last| missing += tops[room].saturating_sub(last));
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One client in two rooms, coming back; it has four publications of each.
    fn storm() -> Storm {
        let mut storm = Storm::new(1, 2, 2, 1);
        for standing in &mut storm.clients[0].rooms {
            standing.last = 4;
        }
        storm.begin(1);
        storm.attempt(0, 0);
        storm
    }

    fn delivered(nth: usize, offset: u64) -> Event<'static> {
        let data = b"";
        Event::Delivered { nth, offset, data }
    }

    fn subscribed(nth: usize, offset: u64, recovered: bool) -> Event<'static> {
        let position = Position {
            epoch: "E".into(),
            offset,
        };
        Event::Subscribed {
            nth,
            position,
            recovered,
        }
    }

    #[test]
    fn a_clean_recovery_loses_nothing() {
        let mut storm = storm();
        for event in [
            delivered(0, 5),
            delivered(0, 6),
            subscribed(0, 6, true),
            delivered(0, 7),
        ] {
            storm.see(0, 10, event);
        }
        assert_eq!((storm.lost, storm.doubled, storm.unrecovered), (0, 0, 0));
        assert_eq!(storm.back, 0, "the other room is still to come");
        storm.see(0, 11, subscribed(1, 4, true));
        assert_eq!(storm.back, 1);
        assert_eq!(storm.clients[0].position(0).offset, 7);
        assert_eq!((storm.missing(11), storm.missing(12)), (0, 1));
    }

    #[test]
    fn gaps_and_repeats_are_counted() {
        let mut storm = storm();
        for event in [
            subscribed(1, 4, true),
            delivered(1, 6),
            delivered(1, 6),
            delivered(1, 9),
        ] {
            storm.see(0, 10, event);
        }
        assert_eq!((storm.lost, storm.doubled), (3, 1));
    }

    #[test]
    fn a_refused_recovery_is_no_loss_but_is_told() {
        let mut storm = storm();
        storm.see(0, 10, subscribed(0, 40, false));
        storm.see(0, 10, subscribed(1, 4, true));
        storm.see(0, 11, delivered(0, 41));
        assert_eq!((storm.lost, storm.unrecovered, storm.back), (0, 1, 1));
    }

    #[test]
    fn a_failed_attempt_is_repeated_and_its_late_events_do_not_count() {
        let mut storm = storm();
        let why = "the server closed the connection".to_owned();
        storm.see(0, 10, Event::Closed { why });
        assert_eq!(storm.retries, 1);
        assert!(storm.clients[0].again.is_some_and(|at| at >= 10));
        storm.see(0, 11, delivered(0, 9));
        assert_eq!(storm.lost, 0);
    }

    #[test]
    fn who_was_back_and_falls_away_is_not_back() {
        let mut storm = storm();
        storm.see(0, 10, subscribed(0, 4, true));
        storm.see(0, 10, subscribed(1, 4, true));
        let why = String::new();
        storm.see(0, 11, Event::Closed { why });
        assert_eq!(storm.back, 0);
        storm.attempt(0, 1);
        storm.see(1, 12, subscribed(0, 4, true));
        assert_eq!(storm.back, 0);
        storm.see(1, 12, subscribed(1, 4, true));
        assert_eq!(storm.back, 1);
    }

    #[test]
    fn rooms_are_shared_out_evenly() {
        let storm = Storm::new(10, 4, 8, 1);
        let mut members = [0; 8];
        storm.every(|room, _| members[room] += 1);
        assert_eq!(members, [5; 8]);
    }
}
