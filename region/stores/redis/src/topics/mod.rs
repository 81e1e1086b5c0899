//! Channels between nodes: published through a bounded queue, followed over a connection of its own.
//! What is followed is a set that this node wants; a task makes Redis agree with it, again after each
//! break. Nobody who follows or publishes waits for Redis.

mod publisher;
mod subscriber;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gb6_core_obs::metrics::{Counter, Metrics};
use gb6_core_ports::StoreError;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::link::Link;
use crate::metrics::TopicMetrics;
use publisher::Queue;

/// Bytes of a node's name in front of each message, by which it knows its own.
const ORIGIN_BYTES: usize = 16;

/// Who sent a message, and what it carries; `None`: malformed.
pub(crate) fn payload_of(message: &[u8]) -> Option<(&[u8; ORIGIN_BYTES], &[u8])> {
    message.split_first_chunk()
}

/// Who is handed what comes in a channel. Called by the connection's task, so it must not block.
pub(crate) trait Follower: Send + Sync {
    /// A message of another node. `false`: nobody wants the channel any more.
    fn message(&self, payload: &[u8]) -> bool;
    /// From now on messages of other nodes come.
    fn live(&self);
}

/// The channels that this node follows.
pub(crate) struct Topics {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// They end with this.
    tasks: [JoinHandle<()>; 2],
}

struct Shared {
    config: Config,
    purpose: &'static str,
    origin: [u8; ORIGIN_BYTES],
    followed: Mutex<Followed>,
    /// Something in `changed`.
    wake: Notify,
    queue: Queue,
    metrics: TopicMetrics,
}

#[derive(Default)]
struct Followed {
    /// At most what the shards of this node follow.
    channels: HashMap<Arc<[u8]>, Channel>,
    /// Those of which Redis has to be told.
    changed: HashSet<Arc<[u8]>>,
}

struct Channel {
    follower: Arc<dyn Follower>,
    live: bool,
}

impl Drop for Topics {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Topics {
    /// Begins to connect; it answers at once.
    pub(crate) fn open(
        config: &Config,
        purpose: &'static str,
        runtime: &Handle,
        metrics: &Metrics,
    ) -> Self {
        // A message that was lost on the way is not sent again: it might be there twice.
        let link = Arc::new(Link::open(config, purpose, 0, runtime, metrics));
        let metrics = TopicMetrics::new(metrics, purpose);
        let shared = Arc::new(Shared {
            config: config.clone(),
            purpose,
            origin: rand::random(),
            followed: Mutex::default(),
            wake: Notify::new(),
            queue: Queue::new(metrics.clone()),
            metrics,
        });
        let tasks = [
            runtime.spawn(subscriber::run(shared.clone())),
            runtime.spawn(publisher::run(shared.clone(), link.clone())),
        ];
        Self {
            shared,
            link,
            tasks,
        }
    }

    /// Follows a channel from some time on; answers whether it is live already.
    pub(crate) fn follow(&self, channel: &[u8], follower: Arc<dyn Follower>) -> bool {
        let mut followed = self.shared.followed.lock();
        if let Some(channel) = followed.channels.get_mut(channel) {
            channel.follower = follower;
            return channel.live;
        }
        let name: Arc<[u8]> = channel.into();
        let channel = Channel {
            follower,
            live: false,
        };
        followed.channels.insert(name.clone(), channel);
        followed.changed.insert(name);
        self.shared.wake.notify_one();
        false
    }

    /// Follows a channel no more.
    pub(crate) fn unfollow(&self, channel: &[u8]) {
        self.shared.unfollow(channel, |_| true);
    }

    /// Sends a message to everybody else who follows a channel, when its turn has come.
    ///
    /// # Errors
    /// `Unavailable`: Redis is lost. `Backpressure`: too much waits.
    pub(crate) fn publish(&self, channel: Vec<u8>, payload: &[u8]) -> Result<(), StoreError> {
        if !self.link.is_connected() {
            self.shared.metrics.lost.inc();
            let cause = format!("Redis at {} is not connected", self.shared.config);
            return Err(StoreError::Unavailable { cause });
        }
        let message = [&self.shared.origin[..], payload].concat();
        self.shared.queue.push(channel, message)
    }

    /// What counts messages that are not understood.
    pub(crate) fn malformed(&self) -> Counter {
        self.shared.metrics.malformed.clone()
    }

    /// Whether messages go out and come in.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_connected() && self.shared.metrics.up.get() == 1
    }
}

impl Shared {
    /// Follows a channel no more if its follower is the one that is meant.
    fn unfollow(&self, channel: &[u8], meant: impl Fn(&Arc<dyn Follower>) -> bool) {
        let mut followed = self.followed.lock();
        let found = followed.channels.get_key_value(channel);
        let Some((name, _)) = found.filter(|(_, channel)| meant(&channel.follower)) else {
            return;
        };
        let name = name.clone();
        followed.channels.remove(&name);
        followed.changed.insert(name);
        self.wake.notify_one();
    }

    /// A message came from Redis.
    fn received(&self, channel: &[u8], message: &[u8]) {
        let Some((origin, payload)) = payload_of(message) else {
            self.metrics.malformed.inc();
            return;
        };
        if *origin == self.origin {
            return;
        }
        let followed = self.followed.lock();
        let Some(found) = followed.channels.get(channel) else {
            return;
        };
        let follower = found.follower.clone();
        drop(followed);
        self.metrics.received.inc();
        if !follower.message(payload) {
            self.unfollow(channel, |other| Arc::ptr_eq(other, &follower));
        }
    }
}
