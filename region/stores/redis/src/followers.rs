//! Who follows what at this node: sinks that are held weakly, one channel of Redis for each thing that is
//! followed, in step with each other.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use gb6_core_obs::metrics::Counter;
use gb6_core_ports::StoreError;
use parking_lot::Mutex;

use crate::topics::{Follower, Topics};

/// What is followed, and how its followers are told.
pub(crate) trait Subject: Send + Sync + 'static {
    /// What tells one from another.
    type Key: Clone + Eq + Hash + Send + Sync;
    /// Who is told.
    type Sink: ?Sized + Send + Sync;
    /// What a channel carries.
    type News;

    /// The subject of a key that nobody follows yet.
    fn new() -> Self;
    /// News as a channel carries it; `None`: malformed.
    fn decode(payload: &[u8]) -> Option<Self::News>;
    /// Tells the sinks.
    fn tell(&self, key: &Self::Key, news: &Self::News, sinks: &[Arc<Self::Sink>]);
    /// Tells one that news come from everywhere from now on.
    fn live(key: &Self::Key, sink: &Self::Sink);
}

/// Everything of one kind that is followed: at most what this node's shards and edges want.
type All<S> = Mutex<HashMap<<S as Subject>::Key, Arc<Followed<S>>>>;

/// Followers of one kind of subject.
pub(crate) struct Followers<S: Subject> {
    topics: Topics,
    all: Arc<All<S>>,
    malformed: Counter,
}

/// One subject and who follows it here.
struct Followed<S: Subject> {
    key: S::Key,
    subject: S,
    sinks: Mutex<Vec<Weak<S::Sink>>>,
    all: Weak<All<S>>,
    malformed: Counter,
}

impl<S: Subject> Followed<S> {
    /// Those that are still there.
    fn sinks(&self) -> Vec<Arc<S::Sink>> {
        let mut sinks = self.sinks.lock();
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is followed no more: then it is forgotten.
    fn is_over(&self) -> bool {
        let Some(all) = self.all.upgrade() else {
            return true;
        };
        // Whoever follows holds this lock.
        let mut all = all.lock();
        let over = self.sinks().is_empty();
        let known = all.get(&self.key);
        if over && known.is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), self)) {
            all.remove(&self.key);
        }
        over
    }
}

impl<S: Subject> Follower for Followed<S> {
    fn message(&self, payload: &[u8]) -> bool {
        let Some(news) = S::decode(payload) else {
            self.malformed.inc();
            return true;
        };
        let sinks = self.sinks();
        self.subject.tell(&self.key, &news, &sinks);
        !sinks.is_empty() || !self.is_over()
    }

    fn live(&self) {
        for sink in self.sinks() {
            S::live(&self.key, &sink);
        }
    }
}

/// Whether it is this sink, or one that is gone.
fn is_or_gone<T: ?Sized>(weak: &Weak<T>, sink: &Arc<T>) -> bool {
    weak.upgrade().is_none_or(|other| Arc::ptr_eq(&other, sink))
}

impl<S: Subject> Followers<S> {
    pub(crate) fn new(topics: Topics) -> Self {
        Self {
            malformed: topics.malformed(),
            topics,
            all: Arc::default(),
        }
    }

    /// Subjects that are followed.
    pub(crate) fn len(&self) -> usize {
        self.all.lock().len()
    }

    /// Whether news go out and come in.
    pub(crate) fn is_connected(&self) -> bool {
        self.topics.is_connected()
    }

    /// Follows `key`, whose channel is `channel`.
    pub(crate) fn follow(&self, key: &S::Key, channel: &[u8], sink: &Arc<S::Sink>) {
        let mut all = self.all.lock();
        let followed = all.entry(key.clone()).or_insert_with(|| {
            Arc::new(Followed {
                key: key.clone(),
                subject: S::new(),
                sinks: Mutex::default(),
                all: Arc::downgrade(&self.all),
                malformed: self.malformed.clone(),
            })
        });
        let mut sinks = followed.sinks.lock();
        sinks.retain(|weak| !is_or_gone(weak, sink));
        sinks.push(Arc::downgrade(sink));
        drop(sinks);
        // It is among the sinks: what becomes live from now on tells it.
        let live = self.topics.follow(channel, followed.clone());
        drop(all);
        if live {
            S::live(key, sink);
        }
    }

    /// Follows it no more.
    pub(crate) fn unfollow(&self, key: &S::Key, channel: &[u8], sink: &Arc<S::Sink>) {
        let mut all = self.all.lock();
        if let Some(followed) = all.get(key) {
            let mut sinks = followed.sinks.lock();
            sinks.retain(|weak| !is_or_gone(weak, sink));
            let over = sinks.is_empty();
            drop(sinks);
            if over {
                all.remove(key);
                self.topics.unfollow(channel);
            }
        }
    }

    /// Tells everybody here at once, and everybody elsewhere who follows the channel when its turn has
    /// come.
    ///
    /// # Errors
    /// `Unavailable`, `Backpressure`: it does not go elsewhere.
    pub(crate) fn tell(
        &self,
        key: &S::Key,
        channel: Vec<u8>,
        news: &S::News,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        let here = self.all.lock().get(key).cloned();
        let sent = self.topics.publish(channel, payload);
        if let Some(followed) = here {
            followed.subject.tell(key, news, &followed.sinks());
        }
        sent
    }
}
