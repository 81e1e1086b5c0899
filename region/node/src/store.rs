//! The threads that talk to the store of agreed records: one looks at what changes, some write this
//! node's own record ([`crate::beats`]), some write those of shards. Each call may block; none waits for
//! another's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use gb6_core_obs::metrics::{Counter, Metrics};
use gb6_core_ports::{Expect, MapEntry, MapPage, MapStore, StoreError};
use gb6_region_assign::{Expected, Written};
use parking_lot::Mutex;

use crate::beats::Beats;
use crate::lease::NodeLease;
use crate::news::{News, NewsBox};
use crate::panics::{Guard, Panics};

/// How long a look waits for something to change.
const LOOK: Duration = Duration::from_millis(100);
/// Changes told at once.
const LOOK_MAX: usize = 1_000;
/// Records of a region: shards and nodes, and what nobody knows.
const LIST_MAX: usize = 16 * 1024;
/// Pause after the store could not be reached.
const RETRY: Duration = Duration::from_millis(100);
/// Changes that may wait for the store, beside the one of this node's record: one of each shard's.
const WAITING_MAX: usize = 4 * 1024;
/// Threads that write records of shards.
const WRITERS: usize = 4;

/// A change of a record.
pub(crate) struct Change {
    pub(crate) key: String,
    /// `None`: it is removed.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) expected: Expected,
}

/// The store, as the node uses it.
pub(crate) struct Store {
    /// This node's record.
    own: SyncSender<Change>,
    /// Shards'.
    others: SyncSender<Change>,
}

/// What the threads share.
#[derive(Clone)]
pub(crate) struct Shared {
    map: Arc<dyn MapStore>,
    news: Arc<NewsBox>,
    lease: Arc<NodeLease>,
    stop: Arc<AtomicBool>,
    /// A record was found older than it was known: everything is to be looked at.
    distrusted: Arc<AtomicBool>,
    errors: Counter,
}

impl Store {
    /// Starts the threads; they end when `stop` is set and the store is dropped.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(
        map: Arc<dyn MapStore>,
        prefix: String,
        (news, lease): (Arc<NewsBox>, Arc<NodeLease>),
        stop: Arc<AtomicBool>,
        (metrics, panics): (&Metrics, &Panics),
    ) -> Result<Self, StoreError> {
        // Two of them are over before the lease is.
        let patience = lease.length() / 3;
        let shared = Shared {
            map,
            news,
            lease,
            stop,
            distrusted: Arc::default(),
            errors: metrics.counter(
                "gb6_assignment_store_errors_total",
                "Calls of the store of assignments that failed.",
            ),
        };
        let looks = shared.clone();
        let guard = panics.guard("assignments_look", "store of assignments: looks".into());
        spawn("assign-look", move || looks.look(prefix, &guard))?;
        // overflow: none. A record has one change under way.
        let (own, changes) = sync_channel(1);
        let writes = shared.clone();
        let write = "assignments_write";
        let again = metrics.counter(
            "gb6_assignment_beats_again_total",
            "Changes of this node's record that were made a second time beside the first, which had no answer for a third of a lease.",
        );
        let guard = Arc::new(panics.guard(write, "store of assignments: beats".into()));
        let mut beats = Beats::start(&shared, patience, again, &guard)?;
        spawn("assign-beats", move || {
            for change in changes {
                let change = Arc::new(change);
                let outcome = beats.make(&change);
                writes.made(&change, outcome, &guard);
            }
        })?;
        // overflow: the change counts as failed, and is made later.
        let (others, changes) = sync_channel(WAITING_MAX);
        let changes = Arc::new(Mutex::new(changes));
        for n in 0..WRITERS {
            let (writes, changes) = (shared.clone(), changes.clone());
            let guard = panics.guard(write, format!("store of assignments: writes {n}"));
            spawn(&format!("assign-write-{n}"), move || {
                writes.write(&changes, &guard);
            })?;
        }
        Ok(Self { own, others })
    }

    /// Begins a change; `false`: there is no room for it.
    pub(crate) fn change(&self, own: bool, change: Change) -> bool {
        let to = if own { &self.own } else { &self.others };
        to.try_send(change).is_ok()
    }
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).map_err(|error| StoreError::Io {
        operation: "start the thread",
        path: name.to_owned(),
        detail: error.to_string(),
    })
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Looks at what changes, one look after the other.
    fn look(self, prefix: String, guard: &Guard) {
        let mut looks = Looks {
            shared: self,
            prefix,
            after: None,
            known: Known::default(),
            reached: true,
        };
        while !looks.shared.is_over() {
            if let Err(error) = guard.run(|| looks.once()) {
                looks.failed(&error);
                std::thread::sleep(RETRY.max(guard.pause()));
            }
        }
    }

    /// Makes changes, and tells what has come of them.
    fn write(&self, changes: &Mutex<Receiver<Change>>, guard: &Guard) {
        loop {
            let next = changes.lock().recv();
            let Ok(change) = next else { return };
            let outcome = self.attempt(&change, guard);
            self.made(&change, outcome, guard);
        }
    }

    /// Makes a change, under a guard.
    pub(crate) fn attempt(&self, change: &Change, guard: &Guard) -> Written {
        let made = guard.run(|| Ok::<_, StoreError>(self.make(change)));
        // Whatever panicked may have written it.
        made.unwrap_or(Written::Unknown)
    }

    /// Tells what has come of a change, and where that is not known what the record is.
    fn made(&self, change: &Change, outcome: Written, guard: &Guard) {
        let key = change.key.clone();
        let reread = matches!(outcome, Written::NotAsExpected | Written::Unknown);
        let written = News::Written {
            key: key.clone(),
            outcome,
        };
        self.news.push(written);
        while reread && !self.is_over() {
            match guard.run(|| self.map.get(&key)) {
                Ok(entry) => {
                    let record = entry.and_then(|e| Some((e.value?, e.revision)));
                    let found = record.as_ref().map(|(_, revision)| *revision);
                    if let (Expected::Revision(known), Some(found)) = (change.expected, found)
                        && found < known
                    {
                        self.distrusted.store(true, Ordering::SeqCst);
                    }
                    self.news.push(News::Read { key, record });
                    return;
                }
                Err(_) => {
                    self.errors.inc();
                    std::thread::sleep(RETRY.max(guard.pause()));
                }
            }
        }
    }

    fn make(&self, change: &Change) -> Written {
        let expect = match change.expected {
            Expected::Absent => Expect::Absent,
            Expected::Revision(revision) => Expect::Revision(revision),
        };
        let made = match (&change.value, change.expected) {
            (Some(value), _) => self.map.put(&change.key, value, expect),
            // A removal has a revision of its own, which is above that of what it removes.
            (None, Expected::Revision(revision)) => {
                self.map.delete(&change.key, expect).map(|()| revision + 1)
            }
            (None, Expected::Absent) => return Written::NotAsExpected,
        };
        match made {
            Ok(revision) => Written::Done(revision),
            Err(StoreError::Conflict { .. }) => Written::NotAsExpected,
            Err(error) => {
                self.errors.inc();
                tracing::debug!(key = change.key, %error, "an assignment was not written");
                match error {
                    StoreError::OutcomeUnknown { .. } => Written::Unknown,
                    _ => Written::Failed,
                }
            }
        }
    }
}

/// One look after the other.
struct Looks {
    shared: Shared,
    prefix: String,
    /// The revision to go on after; `None`: everything is to be looked at.
    after: Option<u64>,
    known: Known,
    /// The last look was answered.
    reached: bool,
}

impl Looks {
    /// Looks, and tells what was seen.
    fn once(&mut self) -> Result<(), StoreError> {
        let Shared { map, lease, .. } = &self.shared;
        if self.shared.distrusted.swap(false, Ordering::SeqCst) {
            self.after = None;
        }
        let begun_ms = lease.now_ms();
        let page = match self.after {
            None => Some(map.list(&self.prefix, LIST_MAX)?),
            Some(after) => match map.changes(&self.prefix, after, LOOK_MAX, LOOK) {
                // What was removed since is no longer known, or the store went back.
                Err(StoreError::Trimmed { .. }) => None,
                Ok(page) if page.revision < after => None,
                page => Some(page?),
            },
        };
        let Some(mut page) = page else {
            self.after = None;
            return Ok(());
        };
        if self.after.is_none() {
            if self.known.is_ahead_of(&page) {
                tracing::error!(
                    revision = page.revision,
                    known = self.known.revision,
                    "the store of assignments went back to what it was earlier (a backup was restored, or what was not yet copied was lost): who owns which shard is written again"
                );
                self.shared.news.push(News::Restored);
            }
            page = self.known.all(page);
        }
        if !std::mem::replace(&mut self.reached, true) {
            tracing::info!("the store of assignments is reached again");
        }
        self.after = Some(page.revision);
        self.known.told(&page);
        let looked = News::Looked {
            begun_ms,
            revision: page.revision,
            changes: page.entries,
        };
        self.shared.news.push_look(looked, || self.shared.is_over());
        Ok(())
    }

    fn failed(&mut self, error: &StoreError) {
        self.shared.errors.inc();
        // Another one may answer then, which has not everything that this one had.
        self.after = None;
        if std::mem::replace(&mut self.reached, false) {
            tracing::warn!(%error, "the store of assignments can not be reached: nothing moves, and shards are served as long as their logs say that they are this node's");
        }
    }
}

/// What looks have told: the records that there are, with their revisions.
#[derive(Default)]
struct Known {
    // overflow: no more than a list has, and what has come since.
    records: BTreeMap<String, u64>,
    revision: u64,
}

impl Known {
    /// Whether a whole list is older than what was told: as a store's that went back.
    fn is_ahead_of(&self, list: &MapPage) -> bool {
        let older = |entry: &MapEntry| {
            let known = self.records.get(&entry.key);
            known.is_some_and(|known| entry.revision < *known)
        };
        list.revision < self.revision || list.entries.iter().any(older)
    }

    /// A whole list as changes: what was known and is not in it was removed.
    fn all(&self, list: MapPage) -> MapPage {
        let MapPage {
            mut entries,
            revision,
        } = list;
        let there: BTreeSet<&String> = entries.iter().map(|entry| &entry.key).collect();
        let gone: Vec<MapEntry> = self
            .records
            .keys()
            .filter(|key| !there.contains(key))
            .map(|key| MapEntry {
                key: key.clone(),
                value: None,
                revision,
            })
            .collect();
        entries.extend(gone);
        MapPage { entries, revision }
    }

    fn told(&mut self, page: &MapPage) {
        self.revision = page.revision;
        for entry in &page.entries {
            match entry.value {
                Some(_) => self.records.insert(entry.key.clone(), entry.revision),
                None => self.records.remove(&entry.key),
            };
        }
    }
}

#[cfg(test)]
mod tests;
