//! Values that end by themselves, in the memory of this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gb6_core_model::InstanceId;

use crate::error::StoreError;
use crate::temporary::{TEMPORARY_TTL_MAX, Temporary, TemporaryKey, admit};

/// Bytes of all values with their names.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a value takes beside itself and its name, about.
const OVERHEAD: usize = 256;

/// Values of all instances.
#[derive(Debug)]
pub struct MemoryTemporary {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    // overflow: of the instance that has most, what ends first goes.
    instances: HashMap<InstanceId, Kept>,
    bytes: usize,
    /// Numbers the values, so that no two end at once.
    count: u64,
}

/// What is kept of one instance.
#[derive(Debug, Default)]
struct Kept {
    values: HashMap<String, (Vec<u8>, (Instant, u64))>,
    ends: BTreeMap<(Instant, u64), String>,
    bytes: usize,
}

impl Default for MemoryTemporary {
    fn default() -> Self {
        Self::with_bytes(BYTES_MAX)
    }
}

impl MemoryTemporary {
    /// One that keeps at most `bytes_max` bytes.
    pub fn with_bytes(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            bytes_max,
        }
    }

    /// The state, without what has ended.
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves is whole: nothing in between can panic.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let State {
            instances, bytes, ..
        } = &mut *state;
        instances.retain(|_, kept| {
            while let Some(first) = kept.ends.first_entry().filter(|first| first.key().0 <= now) {
                let name = first.get().clone();
                *bytes -= kept.remove(&name).unwrap_or(0);
            }
            !kept.values.is_empty()
        });
        state
    }

    /// Bytes that are kept, with what they take beside themselves.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }
}

impl Kept {
    /// Removes a value; answers what it took.
    fn remove(&mut self, name: &str) -> Option<usize> {
        let (value, end) = self.values.remove(name)?;
        self.ends.remove(&end);
        let size = value.len() + name.len() + OVERHEAD;
        self.bytes -= size;
        Some(size)
    }
}

impl State {
    fn remove(&mut self, key: &TemporaryKey) {
        let kept = self.instances.get_mut(&key.instance);
        self.bytes -= kept.and_then(|kept| kept.remove(&key.name)).unwrap_or(0);
    }

    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let largest = self.instances.values_mut().max_by_key(|kept| kept.bytes);
            let Some(kept) = largest else { return };
            let Some((_, name)) = kept.ends.first_key_value() else {
                return;
            };
            let name = name.clone();
            self.bytes -= kept.remove(&name).unwrap_or(0);
        }
    }
}

impl Temporary for MemoryTemporary {
    fn put(&self, values: &[(TemporaryKey, Vec<u8>)], ttl: Duration) -> Result<(), StoreError> {
        admit(values.iter().map(|(key, value)| (key, &value[..])))?;
        let mut state = self.state();
        let end = Instant::now() + ttl.min(TEMPORARY_TTL_MAX);
        for (key, value) in values {
            state.remove(key);
            if ttl.is_zero() {
                continue;
            }
            state.count += 1;
            let end = (end, state.count);
            let size = value.len() + key.name.len() + OVERHEAD;
            state.bytes += size;
            let kept = state.instances.entry(key.instance.clone()).or_default();
            kept.bytes += size;
            kept.ends.insert(end, key.name.clone());
            kept.values.insert(key.name.clone(), (value.clone(), end));
        }
        state.make_room(self.bytes_max);
        Ok(())
    }

    fn get(&self, keys: &[TemporaryKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        admit(keys.iter().map(|key| (key, &[][..])))?;
        let state = self.state();
        let value = |key: &TemporaryKey| {
            let kept = state.instances.get(&key.instance)?;
            kept.values.get(&key.name).map(|(value, _)| value.clone())
        };
        Ok(keys.iter().map(value).collect())
    }

    fn delete(&self, keys: &[TemporaryKey]) -> Result<(), StoreError> {
        admit(keys.iter().map(|key| (key, &[][..])))?;
        let mut state = self.state();
        for key in keys {
            state.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let engine = MemoryTemporary::default();
        crate::contract::temporary::all(&engine, "t:");
        assert_eq!(engine.bytes(), 0);
    }

    #[test]
    fn who_has_most_makes_room_and_others_lose_nothing() {
        let engine = MemoryTemporary::with_bytes(20 * (OVERHEAD + 100));
        let key = |instance: &str, n: u64| TemporaryKey {
            instance: instance.into(),
            name: format!("{n:03}"),
        };
        let put = |instance, n: u64| {
            let ttl = Duration::from_secs(100 + n);
            engine.put(&[(key(instance, n), vec![1; 97])], ttl).unwrap();
        };
        (0..5).for_each(|n| put("small", n));
        (0..100).for_each(|n| put("large", n));
        let has = |instance, n| engine.get(&[key(instance, n)]).unwrap()[0].is_some();
        assert_eq!((0..5).filter(|n| has("small", *n)).count(), 5);
        assert_eq!((0..100).filter(|n| has("large", *n)).count(), 15);
        assert!(
            has("large", 99) && !has("large", 84),
            "what ends first goes"
        );
    }
}
