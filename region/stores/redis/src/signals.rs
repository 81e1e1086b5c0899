//! The port `Signals`: at this node handed over at once, to others through a channel of Redis for each
//! room.

use std::sync::Arc;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{SignalSink, Signals, StoreError};
use gb6_core_wire::mesh::{Publication, RoomRef};
use prost::Message;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::followers::{Followers, Subject};
use crate::keys::Keys;
use crate::topics::Topics;

/// Signals through one Redis.
pub struct RedisSignals {
    keys: Keys,
    rooms: Followers<Room>,
}

impl std::fmt::Debug for RedisSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSignals")
            .field("rooms", &self.rooms.len())
            .finish_non_exhaustive()
    }
}

/// A room has no state here.
pub(crate) struct Room;

impl Subject for Room {
    type Key = RoomRef;
    type Sink = dyn SignalSink;
    type News = Publication;

    fn new() -> Self {
        Room
    }

    fn decode(payload: &[u8]) -> Option<Publication> {
        Publication::decode(payload).ok()
    }

    fn tell(&self, room: &RoomRef, publication: &Publication, sinks: &[Arc<dyn SignalSink>]) {
        for sink in sinks {
            sink.signal(room, publication.clone());
        }
    }

    fn live(room: &RoomRef, sink: &dyn SignalSink) {
        sink.live(room);
    }
}

impl RedisSignals {
    /// Begins to connect; it answers at once, and what is followed is live when Redis is there.
    /// `region` keeps apart those that share a Redis.
    pub fn open(config: &Config, region: &str, runtime: &Handle, metrics: &Metrics) -> Self {
        let topics = Topics::open(config, "signals", runtime, metrics);
        Self {
            keys: Keys::new(&config.prefix, region),
            rooms: Followers::new(topics),
        }
    }

    /// Whether signals reach other nodes now.
    pub fn is_connected(&self) -> bool {
        self.rooms.is_connected()
    }

    fn channel(&self, room: &RoomRef) -> Vec<u8> {
        self.keys.room(&room.instance, &room.channel)
    }
}

impl Signals for RedisSignals {
    fn follow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        self.rooms.follow(room, &self.channel(room), sink);
        Ok(())
    }

    fn unfollow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        self.rooms.unfollow(room, &self.channel(room), sink);
        Ok(())
    }

    fn send(&self, room: &RoomRef, publication: Publication) -> Result<(), StoreError> {
        let (channel, payload) = (self.channel(room), publication.encode_to_vec());
        self.rooms.tell(room, channel, &publication, &payload)
    }
}
