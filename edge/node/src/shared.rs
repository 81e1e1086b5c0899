//! What all tasks of one edge share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Disconnect, InstanceId, SessionId};
use gb6_core_obs::{Health, Metrics};
use gb6_core_wire::mesh::RoomRef;
use gb6_edge_session::{SessionConfig, SessionCounters};
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::api::{ApiSessions, Gate};
use crate::auth::jwks::KeySets;
use crate::clock::Clock;
use crate::config::EdgeConfig;
use crate::connection::handle::{Event, SessionHandle};
use crate::connection::outbox::Pushed;
use crate::connection::transport::Transport;
use crate::connects::Connects;
use crate::hosts::Hosts;
use crate::http::assets::AssetSource;
use crate::http::body::BodyBytes;
use crate::limits::Limits;
use crate::metrics::EdgeMetrics;
use crate::pace::Pace;
use crate::people::{People, home_of};
use crate::places::Places;
use crate::proxies::Proxies;
use crate::relay::Relays;
use crate::revocation::Revocations;
use crate::session_ends::SessionEnds;
use crate::shards::{ShardInbox, Shards};
use crate::unmoved::Unmoved;
use crate::wheel::Wheel;

/// Refusals logged at level info a second, and at once.
const LOGGED_PER_SECOND: u64 = 10;
const LOGGED_AT_ONCE: u64 = 100;

/// The state of one edge.
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    /// For sessions whose clients send commands, and for those whose clients do not.
    speaking: Settings,
    listening: Settings,
    pub(crate) clock: Clock,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    hosts: ArcSwap<Hosts>,
    /// The keys of the snapshot's instances, fetched ones too.
    pub(crate) keys: Arc<KeySets>,
    /// The applications' backends.
    pub(crate) proxies: Proxies,
    /// What is revoked.
    pub(crate) revocations: Revocations,
    pub(crate) counters: SessionCounters,
    pub(crate) metrics: EdgeMetrics,
    pub(crate) registry: Metrics,
    pub(crate) health: Health,
    pub(crate) wheel: Wheel<SessionHandle>,
    /// What is said at level info of clients that do what they should not.
    logged: Pace,
    /// Subscriptions that may be ended because the log can not continue them: the clients come back
    /// at once.
    pub(crate) evictions: Pace,
    /// Numbers that stand for channels in pushes.
    pub(crate) channel_numbers: ChannelNumbers,
    pub(crate) admission: Arc<Admission>,
    /// The rate at which sessions begin.
    pub(crate) connects: Connects,
    /// The limits that it keeps with other edges.
    pub(crate) limits: Arc<Limits>,
    /// Connected sessions by instance.
    pub(crate) by_instance: Arc<Places>,
    /// Where TLS is spoken below HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) shards: Shards,
    pub(crate) relays: Relays,
    /// Ends of sessions of which somebody wants to hear.
    pub(crate) session_ends: SessionEnds,
    /// Who is connected here.
    pub(crate) people: People,
    pub(crate) assets: AssetSource,
    /// What bodies of requests hold while they are read.
    pub(crate) body_bytes: BodyBytes,
    /// What the server API asks of shards.
    pub(crate) api: ApiSessions,
    /// Requests of the server API in hand.
    pub(crate) api_gate: Arc<Gate>,
    sessions: Mutex<Sessions>,
    /// Told when the last session has left.
    emptied: Notify,
    numbers: AtomicU64,
    /// WebSockets open, those in their close handshake included.
    websockets: AtomicUsize,
}

/// The settings of sessions.
struct Settings {
    pinged: SessionConfig,
    /// Of those that are pinged by the WebSocket layer: without pings of their own.
    quiet: SessionConfig,
}

impl Settings {
    fn new(pinged: &SessionConfig) -> Self {
        Self {
            pinged: pinged.clone(),
            quiet: SessionConfig {
                ping_interval_ms: 0,
                ..pinged.clone()
            },
        }
    }
}

/// The last number given to a channel of each instance. Instances count apart, so that nobody sees
/// how many channels another one has.
#[derive(Default)]
pub(crate) struct ChannelNumbers(Mutex<HashMap<String, i64>>);

impl ChannelNumbers {
    /// A number that no channel of this instance has had at this edge, from 1.
    pub(crate) fn next(&self, instance: &str) -> i64 {
        let mut last = self.0.lock();
        if let Some(last) = last.get_mut(instance) {
            *last += 1;
            return *last;
        }
        last.insert(instance.to_owned(), 1);
        1
    }
}

#[derive(Default)]
struct Sessions {
    handles: Slab<Arc<SessionHandle>>,
    /// Where those are that take commands from other connections, by the ids that their clients
    /// know. Its hasher has keys of its own, so that nobody learns of others' ids by their timing.
    by_secret: HashMap<u128, usize>,
    /// New ones are told at once to go elsewhere.
    draining: bool,
}

/// The parts that [`Shared`] is made of.
pub(crate) struct SharedParts {
    pub(crate) config: EdgeConfig,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) keys: Arc<KeySets>,
    pub(crate) proxies: Proxies,
    pub(crate) metrics: EdgeMetrics,
    pub(crate) registry: Metrics,
    pub(crate) health: Health,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) shards: Shards,
    pub(crate) relays: Relays,
    pub(crate) assets: AssetSource,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        let config = parts.config;
        let tick_ms = u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX);
        let evictions = config.evictions_per_second;
        let connects = Connects::new(
            config.connects_per_second,
            config.connect_wait,
            parts.metrics.connects_waiting.clone(),
        );
        let limits = Limits::default();
        limits.place(&parts.snapshot);
        Self {
            speaking: Settings::new(&config.session),
            listening: Settings::new(&SessionConfig {
                unidirectional: true,
                ..config.session.clone()
            }),
            clock: Clock::new(),
            hosts: ArcSwap::from_pointee(Hosts::of(&parts.snapshot)),
            keys: parts.keys,
            proxies: parts.proxies,
            snapshot: ArcSwap::new(parts.snapshot),
            revocations: Revocations::default(),
            counters: SessionCounters::default(),
            metrics: parts.metrics,
            registry: parts.registry,
            health: parts.health,
            wheel: Wheel::new(tick_ms),
            logged: Pace::new(LOGGED_PER_SECOND, LOGGED_AT_ONCE),
            evictions: Pace::new(evictions, evictions / 10),
            channel_numbers: ChannelNumbers::default(),
            admission: parts.admission,
            by_instance: Arc::default(),
            connects,
            limits: Arc::new(limits),
            tls: parts.tls,
            shards: parts.shards,
            relays: parts.relays,
            session_ends: SessionEnds::default(),
            people: People::default(),
            assets: parts.assets,
            body_bytes: BodyBytes::default(),
            api: ApiSessions::default(),
            api_gate: Arc::default(),
            sessions: Mutex::default(),
            emptied: Notify::new(),
            numbers: AtomicU64::new(1),
            websockets: AtomicUsize::new(0),
            config,
        }
    }

    /// Works by `snapshot` from now on; the one before.
    pub(crate) fn place(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let known = self.snapshot.load();
        if known.revision == snapshot.revision && known.instances == snapshot.instances {
            // Shards have other owners: nothing else knows of those than who routes.
            drop(known);
            return self.snapshot.swap(snapshot);
        }
        drop(known);
        self.limits.place(&snapshot);
        self.hosts.store(Arc::new(Hosts::of(&snapshot)));
        self.keys.place(snapshot.clone());
        self.proxies.place(&snapshot);
        let revision = snapshot.revision;
        let before = self.snapshot.swap(snapshot.clone());
        let is_placed = |instance: &InstanceId| snapshot.instances.contains_key(instance);
        for instance in before.instances.keys().filter(|i| !is_placed(i)) {
            self.end_instance(instance);
        }
        // Behind their ends: what was held of them may go.
        self.revocations.keep(self, is_placed);
        let unmoved = Unmoved::between(&before, &snapshot);
        self.place_users(|instance| unmoved.has(instance));
        self.place_sessions(|instance| unmoved.has(instance));
        self.shards.users_placed(revision);
        before
    }

    /// Ends the sessions of an instance that there is no more. One that begins meanwhile sees for itself
    /// that its instance is gone: it looks once it is among them.
    fn end_instance(&self, instance: &InstanceId) {
        let sessions = self.people.all(instance);
        tracing::info!(%instance, sessions = sessions.len(), "the instance is gone: its sessions end");
        for session in sessions {
            session.outbox.event(Event::Cut(Disconnect::NotAvailable));
        }
    }

    /// Tells the shards of users' channels of those that they have not been told of. Instances whose
    /// channels are `unmoved` are passed over.
    pub(crate) fn place_users(self: &Arc<Self>, unmoved: impl Fn(&InstanceId) -> bool) {
        let home = |instance: &InstanceId, user: &str| self.home(instance, user);
        self.people.place(unmoved, home);
    }

    /// The shard of the channel of a user, which is told where the user's sessions are; `None`: there
    /// is none.
    pub(crate) fn home(
        self: &Arc<Self>,
        instance: &InstanceId,
        user: &str,
    ) -> Option<Arc<ShardInbox>> {
        let channel = home_of(user)?;
        let room = RoomRef {
            instance: instance.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
        };
        self.shards.inbox_for(self, &self.snapshot.load(), &room)
    }

    /// The instance that a request's `Host` header names, else the listener's own.
    pub(crate) fn instance_of(&self, host: Option<&str>) -> InstanceId {
        self.named_by(host)
            .unwrap_or_else(|| self.config.default_instance.clone())
    }

    /// The instance that a request's `Host` header names; `None`: none.
    pub(crate) fn named_by(&self, host: Option<&str>) -> Option<InstanceId> {
        self.hosts.load().instance_of(host?, &self.snapshot.load())
    }

    /// The settings of a session.
    pub(crate) fn session_config(&self, frame_ping: bool, by: Transport) -> &SessionConfig {
        let settings = match by.is_unidirectional() {
            true => &self.listening,
            false => &self.speaking,
        };
        if frame_ping {
            &settings.quiet
        } else {
            &settings.pinged
        }
    }

    /// Whether a refusal may be logged at level info: anybody can cause them, so that without a
    /// bound a flood of them would fill the disk.
    pub(crate) fn may_log(&self) -> bool {
        let may = self.logged.take(self.clock.now_ms());
        if !may {
            self.metrics.unlogged.inc();
        }
        may
    }

    /// A number that no session of this edge has had.
    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// A WebSocket was opened.
    pub(crate) fn opened(&self) {
        self.websockets.fetch_add(1, Ordering::Relaxed);
    }

    /// A WebSocket is gone.
    pub(crate) fn gone(&self) {
        self.websockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// WebSockets open, those in their close handshake included.
    pub(crate) fn websockets(&self) -> usize {
        self.websockets.load(Ordering::Relaxed)
    }

    /// Enters a session into the list of those that a drain ends; its place there.
    pub(crate) fn enter(&self, handle: Arc<SessionHandle>) -> usize {
        let mut sessions = self.sessions.lock();
        if sessions.draining {
            handle.outbox.event(Event::Shutdown(Disconnect::Shutdown));
        }
        let named = handle.takes.is_some().then_some(handle.secret);
        let place = sessions.handles.insert(handle);
        if let Some(secret) = named {
            sessions.by_secret.insert(secret, place);
        }
        place
    }

    /// Commands for a session, which came by another connection with the session's id. What is for
    /// nobody is passed over without a sign.
    pub(crate) fn emulated(&self, session: &str, commands: Bytes) {
        let secret = match session.len() {
            32 if !session.starts_with('+') => u128::from_str_radix(session, 16).ok(),
            _ => None,
        };
        let handle = secret.and_then(|secret| {
            let sessions = self.sessions.lock();
            let place = *sessions.by_secret.get(&secret)?;
            sessions.handles.get(place).cloned()
        });
        let pushed = handle.map_or(Pushed::Ended, |handle| {
            handle.commands(commands, self.config.frame_bytes_max)
        });
        let outcome = match pushed {
            Pushed::Queued => "taken",
            Pushed::Refused | Pushed::Overflowed => "full",
            Pushed::Ended => "nobody",
        };
        self.metrics.emulated.with(&[outcome]).inc();
    }

    /// Takes a session from the list; `false`: it was not in it any more.
    pub(crate) fn leave(&self, place: usize, session: SessionId) -> bool {
        let mut sessions = self.sessions.lock();
        let there = sessions
            .handles
            .get(place)
            .is_some_and(|h| h.session == session);
        if there {
            let handle = sessions.handles.remove(place);
            if handle.takes.is_some() {
                sessions.by_secret.remove(&handle.secret);
            }
            if sessions.handles.is_empty() {
                sessions.handles.shrink_to_fit();
                sessions.by_secret.shrink_to_fit();
                self.emptied.notify_waiters();
            }
        }
        there
    }

    /// Sessions open now.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.lock().handles.len()
    }

    /// Waits until no session is open. Safe to cancel.
    pub(crate) async fn empty(&self) {
        loop {
            // Listens before it looks, so that a session which leaves in between is not missed.
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.sessions() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// All sessions that are open.
    pub(crate) fn all(&self) -> Vec<Arc<SessionHandle>> {
        let sessions = self.sessions.lock();
        sessions.handles.iter().map(|(_, h)| h.clone()).collect()
    }

    /// Whether sessions are told to go elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.sessions.lock().draining
    }

    /// All sessions that are open, while every further one is told to go elsewhere.
    pub(crate) fn begin_drain(&self) -> Vec<Arc<SessionHandle>> {
        let mut sessions = self.sessions.lock();
        sessions.draining = true;
        sessions.handles.iter().map(|(_, h)| h.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_count_their_channels_apart() {
        let numbers = ChannelNumbers::default();
        let given = ["a", "a", "b", "a", "b"].map(|instance| numbers.next(instance));
        assert_eq!(given, [1, 2, 1, 3, 2]);
    }
}
