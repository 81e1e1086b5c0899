//! The port `Signals`: at this node handed over at once, to others through a channel of Redis for each
//! room.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gb6_core_obs::metrics::{Counter, Metrics};
use gb6_core_ports::{SignalSink, Signals, StoreError};
use gb6_core_wire::mesh::{Publication, RoomRef};
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::keys::Keys;
use crate::topics::{Follower, Topics};

/// Rooms that are followed: at most those that edges want of this node's shards.
type Rooms = Mutex<HashMap<RoomRef, Arc<Room>>>;

/// Signals through one Redis.
pub struct RedisSignals {
    keys: Keys,
    topics: Topics,
    rooms: Arc<Rooms>,
    malformed: Counter,
}

impl std::fmt::Debug for RedisSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSignals")
            .field("rooms", &self.rooms.lock().len())
            .finish_non_exhaustive()
    }
}

/// Who follows a room here.
struct Room {
    room: RoomRef,
    sinks: Mutex<Vec<Weak<dyn SignalSink>>>,
    rooms: Weak<Rooms>,
    malformed: Counter,
}

impl Room {
    /// Those that are still there.
    fn sinks(&self) -> Vec<Arc<dyn SignalSink>> {
        let mut sinks = self.sinks.lock();
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is followed no more: then it is forgotten.
    fn is_over(&self) -> bool {
        let Some(rooms) = self.rooms.upgrade() else {
            return true;
        };
        let mut rooms = rooms.lock();
        // Under the lock of all rooms, which whoever follows holds.
        let over = self.sinks().is_empty();
        let known = rooms.get(&self.room);
        if over && known.is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), self)) {
            rooms.remove(&self.room);
        }
        over
    }
}

impl Follower for Room {
    fn message(&self, payload: &[u8]) -> bool {
        let Ok(publication) = Publication::decode(payload) else {
            self.malformed.inc();
            return true;
        };
        let sinks = self.sinks();
        for sink in &sinks {
            sink.signal(&self.room, publication.clone());
        }
        !sinks.is_empty() || !self.is_over()
    }

    fn live(&self) {
        for sink in self.sinks() {
            sink.live(&self.room);
        }
    }
}

impl RedisSignals {
    /// Begins to connect; it answers at once, and what is followed is live when Redis is there.
    /// `region` keeps apart those that share a Redis.
    pub fn open(config: &Config, region: &str, runtime: &Handle, metrics: &Metrics) -> Self {
        let topics = Topics::open(config, "signals", runtime, metrics);
        Self {
            keys: Keys::new(&config.prefix, region),
            malformed: topics.malformed(),
            topics,
            rooms: Arc::default(),
        }
    }

    /// Whether signals reach other nodes now.
    pub fn is_connected(&self) -> bool {
        self.topics.is_connected()
    }

    fn channel(&self, room: &RoomRef) -> Vec<u8> {
        self.keys.room(&room.instance, &room.channel)
    }
}

/// Whether it is this sink, or one that is gone.
fn is_or_gone(weak: &Weak<dyn SignalSink>, sink: &Arc<dyn SignalSink>) -> bool {
    weak.upgrade().is_none_or(|other| Arc::ptr_eq(&other, sink))
}

impl Signals for RedisSignals {
    fn follow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        let mut rooms = self.rooms.lock();
        let entry = rooms.entry(room.clone());
        let followed = entry.or_insert_with(|| {
            Arc::new(Room {
                room: room.clone(),
                sinks: Mutex::default(),
                rooms: Arc::downgrade(&self.rooms),
                malformed: self.malformed.clone(),
            })
        });
        let mut sinks = followed.sinks.lock();
        sinks.retain(|weak| !is_or_gone(weak, sink));
        sinks.push(Arc::downgrade(sink));
        drop(sinks);
        let live = self.topics.follow(&self.channel(room), followed.clone());
        drop(rooms);
        if live {
            sink.live(room);
        }
        Ok(())
    }

    fn unfollow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        let mut rooms = self.rooms.lock();
        if let Some(followed) = rooms.get(room) {
            let mut sinks = followed.sinks.lock();
            sinks.retain(|weak| !is_or_gone(weak, sink));
            let over = sinks.is_empty();
            drop(sinks);
            if over {
                rooms.remove(room);
                self.topics.unfollow(&self.channel(room));
            }
        }
        Ok(())
    }

    fn send(&self, room: &RoomRef, publication: Publication) -> Result<(), StoreError> {
        let here = self.rooms.lock().get(room).cloned();
        let sent = self
            .topics
            .publish(self.channel(room), &publication.encode_to_vec());
        for sink in here.iter().flat_map(|room| room.sinks()) {
            sink.signal(room, publication.clone());
        }
        sent
    }
}
