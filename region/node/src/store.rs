//! The threads that talk to the store of agreed records: one looks at what changes, one writes this
//! node's own record, some write those of shards. Each call may block; none waits for another's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use gb6_core_obs::metrics::{Counter, Metrics};
use gb6_core_ports::{Expect, MapEntry, MapPage, MapStore, StoreError};
use gb6_region_assign::{Expected, Written};
use parking_lot::Mutex;

use crate::keeper::NodeLease;
use crate::news::{News, NewsBox};

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
struct Shared {
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
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
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
        spawn("assign-look", move || looks.look(&prefix))?;
        // overflow: none. A record has one change under way.
        let (own, changes) = sync_channel(1);
        let writes = shared.clone();
        let changes = Arc::new(Mutex::new(changes));
        spawn("assign-beat", move || writes.write(&changes))?;
        // overflow: the change counts as failed, and is made later.
        let (others, changes) = sync_channel(WAITING_MAX);
        let changes = Arc::new(Mutex::new(changes));
        for n in 0..WRITERS {
            let (writes, changes) = (shared.clone(), changes.clone());
            spawn(&format!("assign-write-{n}"), move || writes.write(&changes))?;
        }
        Ok(Self { own, others })
    }

    /// Begins a change; `false`: there is no room for it.
    pub(crate) fn change(&self, own: bool, change: Change) -> bool {
        let to = if own { &self.own } else { &self.others };
        to.try_send(change).is_ok()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
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
    fn look(&self, prefix: &str) {
        let mut after = None;
        let mut known = Known::default();
        let mut reached = true;
        while !self.is_over() {
            if self.distrusted.swap(false, Ordering::SeqCst) {
                after = None;
            }
            let begun_ms = self.lease.now_ms();
            let page = match after {
                None => self.map.list(prefix, LIST_MAX),
                Some(after) => self.map.changes(prefix, after, LOOK_MAX, LOOK),
            };
            match page {
                Ok(page) if after.is_some_and(|after| page.revision < after) => after = None,
                Ok(mut page) => {
                    if after.is_none() {
                        if known.is_ahead_of(&page) {
                            tracing::error!(
                                revision = page.revision,
                                known = known.revision,
                                "the store of assignments went back to what it was earlier (a backup was restored, or what was not yet copied was lost): who owns which shard is written again"
                            );
                            self.news.push(News::Restored);
                        }
                        page = known.all(page);
                    }
                    if !std::mem::replace(&mut reached, true) {
                        tracing::info!("the store of assignments is reached again");
                    }
                    after = Some(page.revision);
                    known.told(&page);
                    let looked = News::Looked {
                        begun_ms,
                        revision: page.revision,
                        changes: page.entries,
                    };
                    self.news.push_look(looked, || self.is_over());
                }
                // What was removed since is no longer known: everything is looked at.
                Err(StoreError::Trimmed { .. }) => after = None,
                Err(error) => {
                    self.errors.inc();
                    // Another one may answer then, which has not everything that this one had.
                    after = None;
                    if std::mem::replace(&mut reached, false) {
                        tracing::warn!(%error, "the store of assignments can not be reached: nothing moves, and shards are served as long as their logs say that they are this node's");
                    }
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Makes changes, and tells what has come of them.
    fn write(&self, changes: &Mutex<Receiver<Change>>) {
        loop {
            let next = changes.lock().recv();
            let Ok(change) = next else { return };
            let outcome = self.make(&change);
            let key = change.key;
            let reread = matches!(outcome, Written::NotAsExpected | Written::Unknown);
            let written = News::Written {
                key: key.clone(),
                outcome,
            };
            self.news.push(written);
            while reread && !self.is_over() {
                match self.map.get(&key) {
                    Ok(entry) => {
                        let record = entry.and_then(|e| Some((e.value?, e.revision)));
                        let found = record.as_ref().map(|(_, revision)| *revision);
                        if let (Expected::Revision(known), Some(found)) = (change.expected, found)
                            && found < known
                        {
                            self.distrusted.store(true, Ordering::SeqCst);
                        }
                        self.news.push(News::Read { key, record });
                        break;
                    }
                    Err(_) => {
                        self.errors.inc();
                        std::thread::sleep(RETRY);
                    }
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
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_was_removed_meanwhile() {
        let entry = |key: &str, value: Option<&[u8]>, revision| MapEntry {
            key: key.to_owned(),
            value: value.map(<[u8]>::to_vec),
            revision,
        };
        let page = |entries, revision| MapPage { entries, revision };
        let mut known = Known::default();
        let list = page(
            vec![entry("a", Some(b"1"), 3), entry("b", Some(b"2"), 5)],
            7,
        );
        assert!(!known.is_ahead_of(&list));
        known.told(&list);
        let later = page(vec![entry("a", Some(b"1"), 3)], 9);
        assert!(!known.is_ahead_of(&later));
        assert_eq!(
            known.all(later).entries,
            [entry("a", Some(b"1"), 3), entry("b", None, 9)]
        );
        assert!(known.is_ahead_of(&page(Vec::new(), 6)), "it went back");
        let past = page(vec![entry("b", Some(b"0"), 4)], 20);
        assert!(
            known.is_ahead_of(&past),
            "it went back and has gone on since"
        );
    }
}
