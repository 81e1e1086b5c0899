//! A bounded cache: what was used longest ago goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key with their weights in bytes. Overflow: the least recently used go until the rest fits;
/// a value that is heavier than the bound is not kept.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    bound: usize,
    weight: usize,
    clock: u64,
    values: HashMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            weight: 0,
            clock: 0,
            values: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// Bytes of what is kept.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let entry = self.values.get_mut(key)?;
        self.by_use.remove(&entry.used);
        entry.used = self.clock;
        self.by_use.insert(self.clock, key.clone());
        Some(entry.value.clone())
    }

    pub(crate) fn put(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if weight > self.bound {
            return;
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key.clone());
        let entry = Entry {
            value,
            weight,
            used: self.clock,
        };
        self.values.insert(key, entry);
        self.weight += weight;
        while self.weight > self.bound
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some(entry) = self.values.remove(&oldest) {
                self.weight -= entry.weight;
            }
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.values.remove(key) {
            self.by_use.remove(&entry.used);
            self.weight -= entry.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Lru::new(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        cache.put("c", 3, 4);
        assert_eq!((cache.get(&"b"), cache.weight()), (None, 8));
        cache.put("a", 4, 2);
        assert_eq!((cache.get(&"a"), cache.weight()), (Some(4), 6));
        cache.put("d", 5, 11);
        assert_eq!((cache.get(&"d"), cache.weight()), (None, 6));
    }
}
