//! The map of agreed records, and the way of each process to it.

use std::collections::BTreeSet;
use std::time::Duration;

use gb6_core_ports::{Expect, MapEntry, MapPage, MapStore, StoreError};
use gb6_region_assign::{Expected, Input, Written, prefix};

use super::faults::Peer;
use super::world::{Event, NodesWorld};

/// How long a look waits for something to change, in ms.
const LOOK_MS: u64 = 100;
/// Records told at once.
const LIST_MAX: usize = 1_000;
/// How long a process waits before it tries the map again, in ms.
const RETRY_MS: u64 = 100;

/// A look that waits at the map.
pub(crate) struct Waiting {
    number: u64,
    node: usize,
    begun_ms: u64,
    after: u64,
}

/// A change on its way to the map.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) node: usize,
    pub(crate) key: String,
    /// `None`: it is removed.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) expected: Expected,
    /// Whoever sent it was told that nobody knows what became of it.
    pub(crate) late: bool,
}

impl NodesWorld {
    /// One way to the map or back, in ms.
    fn way(&mut self) -> u64 {
        self.rng.range(1, self.own.map_ms)
    }

    pub(crate) fn begin_look(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = self.process(node) else {
            return;
        };
        let (begun_ms, after) = (process.clock(now), process.read_up_to);
        let at = now + self.way();
        let look = Event::Look {
            node,
            begun_ms,
            after,
        };
        self.at(at, look);
    }

    pub(crate) fn look(&mut self, node: usize, begun_ms: u64, after: Option<u64>) {
        if self.is_cut(node, Peer::Map) {
            let failed = Event::Looked {
                node,
                begun_ms,
                whole: false,
                page: None,
            };
            return self.soon(RETRY_MS, 3 * RETRY_MS, failed);
        }
        let prefix = prefix("eu");
        let page = match after {
            None => self.own.map.list(&prefix, LIST_MAX),
            Some(after) => self
                .own
                .map
                .changes(&prefix, after, LIST_MAX, Duration::ZERO),
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => panic!("the map can not be read: {error}"),
        };
        if let (Some(after), true) = (after, page.entries.is_empty()) {
            let number = self.own.next_look;
            self.own.next_look += 1;
            self.own.waiting.push(Waiting {
                number,
                node,
                begun_ms,
                after,
            });
            return self.at(self.now + LOOK_MS, Event::LookEnds(number));
        }
        self.answer_look(node, begun_ms, after.is_none(), page);
    }

    pub(crate) fn look_ends(&mut self, number: u64) {
        let found = self.own.waiting.iter().position(|w| w.number == number);
        if let Some(waiting) = found.map(|at| self.own.waiting.remove(at)) {
            self.answer_waiting(&waiting);
        }
    }

    fn answer_waiting(&mut self, waiting: &Waiting) {
        let found = self
            .own
            .map
            .changes(&prefix("eu"), waiting.after, LIST_MAX, Duration::ZERO);
        let page = found.unwrap_or_else(|error| panic!("the map can not be read: {error}"));
        self.answer_look(waiting.node, waiting.begun_ms, false, page);
    }

    fn answer_look(&mut self, node: usize, begun_ms: u64, whole: bool, page: MapPage) {
        let lost = self.is_cut(node, Peer::Map);
        let at = self.now + self.way() + if lost { RETRY_MS } else { 0 };
        let looked = Event::Looked {
            node,
            begun_ms,
            whole,
            page: (!lost).then_some(page),
        };
        self.at(at, looked);
    }

    /// Something has changed: looks that waited for it are answered.
    pub(crate) fn map_changed(&mut self) {
        for waiting in std::mem::take(&mut self.own.waiting) {
            self.answer_waiting(&waiting);
        }
    }

    pub(crate) fn looked(
        &mut self,
        node: usize,
        begun_ms: u64,
        whole: bool,
        page: Option<MapPage>,
    ) {
        let Some(process) = self.process(node) else {
            return;
        };
        match page {
            // Another one may answer then: it is asked for everything.
            None => process.read_up_to = None,
            Some(page) => {
                let MapPage {
                    mut entries,
                    revision,
                } = page;
                if whole {
                    let there: BTreeSet<&String> = entries.iter().map(|e| &e.key).collect();
                    let gone = process.known.iter().filter(|key| !there.contains(key));
                    let gone = gone.map(|key| MapEntry {
                        key: key.clone(),
                        value: None,
                        revision,
                    });
                    let gone: Vec<MapEntry> = gone.collect();
                    entries.extend(gone);
                }
                for entry in &entries {
                    match entry.value {
                        Some(_) => process.known.insert(entry.key.clone()),
                        None => process.known.remove(&entry.key),
                    };
                }
                process.read_up_to = Some(revision);
                let changes = entries.into_iter().map(|e| (e.key, e.value, e.revision));
                let looked = Input::Looked {
                    begun_ms,
                    revision,
                    changes: changes.collect(),
                };
                self.tell(node, looked);
            }
        }
        self.begin_look(node);
    }

    /// A process sends a change.
    pub(crate) fn send_change(&mut self, change: Change) {
        if let Some(until) = self.cut(change.node, Peer::Map) {
            let (node, key) = (change.node, change.key.clone());
            let fate = self.rng.range(0, 3);
            if fate == 0 {
                let outcome = Written::Failed;
                return self.soon(20, 200, Event::Changed { node, key, outcome });
            }
            let outcome = Written::Unknown;
            self.soon(500, 1_500, Event::Changed { node, key, outcome });
            if fate == 1 {
                let late = Change {
                    late: true,
                    ..change
                };
                let at = until + self.rng.range(0, 60);
                self.at(at, Event::Change(late));
            }
            return;
        }
        let at = self.now + self.way();
        self.at(at, Event::Change(change));
    }

    /// A change has arrived.
    pub(crate) fn make(&mut self, change: Change) {
        let expect = match change.expected {
            Expected::Absent => Expect::Absent,
            Expected::Revision(revision) => Expect::Revision(revision),
        };
        let made = match (&change.value, change.expected) {
            (Some(value), _) => self.own.map.put(&change.key, value, expect),
            // As the driver answers for a removal: its revision is above that of what it removes.
            (None, Expected::Revision(revision)) => {
                let deleted = self.own.map.delete(&change.key, expect);
                deleted.map(|()| revision + 1)
            }
            (None, Expected::Absent) => Ok(0),
        };
        let outcome = match made {
            Ok(revision) => Written::Done(revision),
            Err(StoreError::Conflict { .. }) => Written::NotAsExpected,
            Err(error) => panic!("{} can not be written: {error}", change.key),
        };
        let (node, key) = (change.node, change.key);
        if matches!(outcome, Written::Done(_)) {
            self.map_changed();
        }
        if change.late {
            self.own.counts.late += 1;
        } else if self.is_cut(node, Peer::Map) {
            let outcome = Written::Unknown;
            self.soon(500, 1_500, Event::Changed { node, key, outcome });
        } else {
            let at = self.now + self.way();
            self.at(at, Event::Changed { node, key, outcome });
        }
    }

    pub(crate) fn changed(&mut self, node: usize, key: String, outcome: Written) {
        let written = Input::Written {
            key: key.clone(),
            outcome,
        };
        self.tell(node, written);
        if matches!(outcome, Written::NotAsExpected | Written::Unknown) {
            let at = self.now + self.way();
            self.at(at, Event::Reread { node, key });
        }
    }

    pub(crate) fn reread(&mut self, node: usize, key: String) {
        if self.process(node).is_none() {
            return;
        }
        if self.is_cut(node, Peer::Map) {
            return self.at(self.now + RETRY_MS, Event::Reread { node, key });
        }
        let entry = match self.own.map.get(&key) {
            Ok(entry) => entry,
            Err(error) => panic!("{key} can not be read: {error}"),
        };
        let record = entry.and_then(|e| Some((e.value?, e.revision)));
        let at = self.now + self.way();
        self.at(at, Event::Read { node, key, record });
    }
}
