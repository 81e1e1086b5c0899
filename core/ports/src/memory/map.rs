//! Agreed records in memory: the reference of [`MapStore`], and what simulations and tests of several
//! nodes share.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::map::{
    Expect, MAP_TOMBSTONES, MapEntry, MapPage, MapStore, check_key, check_prefix, check_value,
};

/// Records that everybody who has a clone of it shares.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    shared: Arc<Shared>,
    tombstones: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, MapEntry>,
    revision: u64,
    /// The revision of the newest deletion that is forgotten.
    forgotten: u64,
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::with_tombstones(MAP_TOMBSTONES)
    }
}

impl MemoryMap {
    /// One that remembers the newest `tombstones` deletions.
    pub fn with_tombstones(tombstones: usize) -> Self {
        Self {
            shared: Arc::default(),
            tombstones,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves is whole: every change is checked before anything is written.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &str, value: Option<&[u8]>, expect: Expect) -> Result<u64, StoreError> {
        check_key(key)?;
        check_value(value.unwrap_or_default())?;
        let mut state = self.state();
        let found = state.entries.get(key).filter(|e| e.value.is_some());
        expect.check(key, found.map(|e| e.revision))?;
        if value.is_none() && found.is_none() {
            return Ok(state.revision);
        }
        state.revision += 1;
        let entry = MapEntry {
            key: key.to_owned(),
            value: value.map(<[u8]>::to_vec),
            revision: state.revision,
        };
        state.entries.insert(key.to_owned(), entry);
        if value.is_none() {
            state.forget(self.tombstones);
        }
        self.shared.changed.notify_all();
        Ok(state.revision)
    }
}

impl State {
    /// Keeps the newest `keep` deletions.
    fn forget(&mut self, keep: usize) {
        let deleted = self.entries.values().filter(|e| e.value.is_none());
        let mut revisions: Vec<u64> = deleted.map(|e| e.revision).collect();
        revisions.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(newest) = revisions.get(keep).copied() {
            self.forgotten = newest;
            self.entries
                .retain(|_, e| e.value.is_some() || e.revision > newest);
        }
    }

    fn page(&self, prefix: &str, after: u64, limit: usize) -> MapPage {
        let begins = self.entries.range(prefix.to_owned()..);
        let mut entries: Vec<MapEntry> = begins
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, e)| e.revision > after)
            .map(|(_, e)| e.clone())
            .collect();
        entries.sort_unstable_by_key(|e| e.revision);
        let whole = entries.len() <= limit;
        entries.truncate(limit);
        let last = entries.last().map_or(after, |e| e.revision);
        MapPage {
            entries,
            revision: if whole { self.revision } else { last },
        }
    }
}

impl MapStore for MemoryMap {
    fn get(&self, key: &str) -> Result<Option<MapEntry>, StoreError> {
        check_key(key)?;
        let state = self.state();
        let found = state.entries.get(key).filter(|e| e.value.is_some());
        Ok(found.cloned())
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        self.write(key, Some(value), expect)
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        self.write(key, None, expect).map(drop)
    }

    fn list(&self, prefix: &str, limit: usize) -> Result<MapPage, StoreError> {
        check_prefix(prefix)?;
        let state = self.state();
        let mut page = state.page(prefix, 0, usize::MAX);
        page.entries.retain(|e| e.value.is_some());
        page.entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        page.within(limit)
    }

    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError> {
        check_prefix(prefix)?;
        let until = Instant::now() + wait;
        let mut state = self.state();
        loop {
            if after > 0 && after < state.forgotten {
                let first = state.forgotten;
                return Err(StoreError::Trimmed { first });
            }
            let page = state.page(prefix, after, limit.max(1));
            let left = until.saturating_duration_since(Instant::now());
            if !page.entries.is_empty() || left.is_zero() {
                return Ok(page);
            }
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let map = MemoryMap::default();
        crate::contract::map::all(&|| Box::new(map.clone()));
        let few = MemoryMap::with_tombstones(3);
        crate::contract::map::forgets_old_deletions(&few, 3);
    }
}
