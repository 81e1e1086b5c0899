//! Signals on their way through a shard's actor: to the engine, and from it to the edges; and statuses of
//! users, which are signals in the channels that tell of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gb6_core_model::InstanceId;
use gb6_core_ports::{PeopleStatus, PersonKey, SignalSink, Signals, Status, StatusSink};
use gb6_core_wire::mesh::{Publication, RoomRef};
use gb6_core_wire::record::ContentType;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::metrics::RegionMetrics;
use crate::recovery::unix_ms;

/// Signals that may wait for a shard's actor.
const WAITING_MAX: usize = 16 * 1024;
/// Bytes of them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the engine hands to one shard.
struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    metrics: RegionMetrics,
}

#[derive(Default)]
struct Waiting {
    // overflow: the newest signal is dropped and counted.
    signals: VecDeque<(RoomRef, Publication)>,
    bytes: usize,
}

impl SignalSink for Inbox {
    fn signal(&self, room: &RoomRef, publication: Publication) {
        let bytes = publication.size();
        {
            let mut waiting = self.waiting.lock();
            let full =
                waiting.signals.len() >= WAITING_MAX || waiting.bytes + bytes > WAITING_BYTES_MAX;
            if full && !waiting.signals.is_empty() {
                self.metrics.signals_dropped.inc();
                return;
            }
            waiting.bytes += bytes;
            waiting.signals.push_back((room.clone(), publication));
        }
        self.filled.notify_one();
    }
}

/// What a channel that tells of a user's status says when it changes.
#[derive(Serialize)]
struct Told<'a> {
    user: &'a str,
    /// Whether the user is connected.
    online: bool,
    /// What it says of itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'a str,
}

/// The channel that tells of one user.
struct Telling {
    room: RoomRef,
    inbox: Arc<Inbox>,
}

impl StatusSink for Telling {
    fn changed(&self, person: &PersonKey, status: &Status) {
        let said = status.said.as_deref();
        let told = Told {
            user: &person.user,
            online: said.is_some(),
            state: std::str::from_utf8(said.unwrap_or_default()).unwrap_or_default(),
        };
        // It always has a JSON form.
        let data = serde_json::to_vec(&told).unwrap_or_default();
        let publication = Publication {
            data: data.into(),
            content_type: ContentType::Json.into(),
            time: unix_ms(),
            ..Publication::default()
        };
        self.inbox.signal(&self.room, publication);
    }
}

/// The signals of one shard: what its actor follows and sends.
pub(crate) struct ShardSignals {
    engine: Arc<dyn Signals>,
    people: Arc<dyn PeopleStatus>,
    /// By channel, who is told of whose status there. Bounded by the channels that edges want.
    telling: HashMap<RoomRef, (PersonKey, Arc<dyn StatusSink>)>,
    inbox: Arc<Inbox>,
    sink: Arc<dyn SignalSink>,
}

impl ShardSignals {
    /// For a shard that follows nothing yet.
    pub(crate) fn new(
        engine: Arc<dyn Signals>,
        people: Arc<dyn PeopleStatus>,
        metrics: RegionMetrics,
    ) -> Self {
        let inbox = Arc::new(Inbox {
            waiting: Mutex::default(),
            filled: Notify::new(),
            metrics,
        });
        let sink: Arc<dyn SignalSink> = inbox.clone();
        Self {
            engine,
            people,
            telling: HashMap::new(),
            inbox,
            sink,
        }
    }

    /// Edges want a room's signals, or none does any more.
    pub(crate) fn follow(&self, room: &RoomRef, wanted: bool) {
        let done = match wanted {
            true => self.engine.follow(room, &self.sink),
            false => self.engine.unfollow(room, &self.sink),
        };
        if let Err(error) = done {
            tracing::warn!(instance = room.instance, channel = room.channel, %error, "the signals of a channel can not be followed: they do not reach this shard's edges");
        }
    }

    /// Edges want a channel that tells of a user's status.
    pub(crate) fn tell_of(&mut self, room: &RoomRef, user: String) {
        let instance = InstanceId::from(room.instance.as_str());
        let person = PersonKey { instance, user };
        let sink: Arc<dyn StatusSink> = Arc::new(Telling {
            room: room.clone(),
            inbox: self.inbox.clone(),
        });
        self.people.follow(&person, &sink);
        self.telling.insert(room.clone(), (person, sink));
    }

    /// None does any more.
    pub(crate) fn tell_no_more(&mut self, room: &RoomRef) {
        if let Some((person, sink)) = self.telling.remove(room) {
            self.people.unfollow(&person, &sink);
        }
    }

    /// Sends a signal; one that can not be sent is lost and counted.
    pub(crate) fn send(&self, room: &RoomRef, publication: Publication) {
        if let Err(error) = self.engine.send(room, publication) {
            self.inbox.metrics.signals_dropped.inc();
            tracing::debug!(%error, "a signal was not sent");
        }
    }

    /// What has come.
    pub(crate) fn take(&self) -> VecDeque<(RoomRef, Publication)> {
        let mut waiting = self.inbox.waiting.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.signals)
    }

    /// Waits until something came. Safe to cancel.
    pub(crate) async fn filled(&self) {
        self.inbox.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_obs::metrics::Metrics;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let metrics = RegionMetrics::new(&Metrics::new());
        struct Nobody;
        impl Signals for Nobody {
            fn follow(
                &self,
                _: &RoomRef,
                _: &Arc<dyn SignalSink>,
            ) -> Result<(), gb6_core_ports::StoreError> {
                Ok(())
            }
            fn unfollow(
                &self,
                _: &RoomRef,
                _: &Arc<dyn SignalSink>,
            ) -> Result<(), gb6_core_ports::StoreError> {
                Ok(())
            }
            fn send(&self, _: &RoomRef, _: Publication) -> Result<(), gb6_core_ports::StoreError> {
                Ok(())
            }
        }
        let signals = ShardSignals::new(
            Arc::new(Nobody),
            Arc::new(gb6_core_ports::memory::MemoryPeople::default()),
            metrics.clone(),
        );
        let room = RoomRef::default();
        let publication = |bytes: usize| Publication {
            data: vec![b'1'; bytes].into(),
            ..Publication::default()
        };
        for _ in 0..WAITING_MAX + 5 {
            signals.sink.signal(&room, publication(1));
        }
        assert_eq!(metrics.signals_dropped.get(), 5);
        assert_eq!(signals.take().len(), WAITING_MAX);
        for _ in 0..20 {
            signals.sink.signal(&room, publication(1 << 20));
        }
        assert_eq!(signals.take().len(), 15);
        assert!(signals.take().is_empty());
    }
}
