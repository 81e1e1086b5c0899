//! Record keys that records are sealed with and this node does not have: whether they are gone for good.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bodies::KeyLook;

/// How often a key is looked for where keys lie.
pub(crate) const KEY_ASK: Duration = Duration::from_secs(5);
/// How often a key must have been said to be destroyed. Once does not say it: where the place of keys went
/// back to what it was earlier, who knows them writes them again.
const SAID: u32 = 2;
/// Keys that are remembered.
const KEYS_MAX: usize = 1_024;

/// What is known of them. Reads that meet many records of one look for it seldom.
#[derive(Default)]
pub(crate) struct MissingKeys {
    // overflow: forgotten, all of them, and looked for again.
    keys: Mutex<HashMap<(String, u32), Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    looked: Instant,
    /// How often it was said to be destroyed.
    said: u32,
}

impl Known {
    fn is(self) -> KeyLook {
        match self.said >= SAID {
            true => KeyLook::Destroyed,
            false => KeyLook::Untold,
        }
    }
}

impl MissingKeys {
    /// What is known at `now` of a key that is not here, by `look` where nobody has looked of late. Only
    /// what was said twice is destroyed.
    pub(crate) fn find(
        &self,
        instance: &str,
        key_id: u32,
        now: Instant,
        look: impl FnOnce() -> KeyLook,
    ) -> KeyLook {
        let key = (instance.to_owned(), key_id);
        let mut keys = self.keys.lock();
        let known = keys.get(&key).copied();
        if let Some(known) = known
            && now.saturating_duration_since(known.looked) < KEY_ASK
        {
            return known.is();
        }
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        let said = known.map_or(0, |known| known.said);
        let looked = now;
        // Others are told what was known, until it is answered.
        keys.insert(key.clone(), Known { looked, said });
        drop(keys);
        let found = look();
        let mut keys = self.keys.lock();
        match found {
            KeyLook::Found => {
                keys.remove(&key);
                KeyLook::Found
            }
            KeyLook::Destroyed => {
                let said = said.saturating_add(1);
                let known = Known { looked, said };
                keys.insert(key, known);
                known.is()
            }
            KeyLook::Untold => Known { looked, said }.is(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered at a time in seconds, and whether it was looked for, where `is` is said of it.
    fn find(keys: &MissingKeys, began: Instant, seconds: u64, is: KeyLook) -> (KeyLook, bool) {
        let mut looked = false;
        let now = began + Duration::from_secs(seconds);
        let found = keys.find("demo", 1, now, || {
            looked = true;
            is
        });
        (found, looked)
    }

    #[test]
    fn a_key_is_destroyed_when_that_was_said_twice_and_is_looked_for_seldom() {
        use KeyLook::{Destroyed, Found, Untold};
        let (keys, began) = (MissingKeys::default(), Instant::now());
        let find = |seconds, is| find(&keys, began, seconds, is);
        assert_eq!(find(0, Untold), (Untold, true));
        assert_eq!(find(4, Destroyed), (Untold, false));
        assert_eq!(find(5, Destroyed), (Untold, true));
        assert_eq!(find(9, Destroyed), (Untold, false));
        assert_eq!(find(10, Destroyed), (Destroyed, true));
        assert_eq!(find(11, Found), (Destroyed, false));
        // It can not be told now, which changes nothing.
        assert_eq!(find(15, Untold), (Destroyed, true));
        assert_eq!(find(16, Found), (Destroyed, false));
        // Somebody who knew it has put it back.
        assert_eq!(find(20, Found), (Found, true));
        assert_eq!(find(20, Destroyed), (Untold, true));
    }

    #[test]
    fn keys_are_told_apart_and_bounded() {
        let (keys, now) = (MissingKeys::default(), Instant::now());
        let gone = |instance: &str, key_id, after: u64| {
            let at = now + Duration::from_secs(after);
            keys.find(instance, key_id, at, || KeyLook::Destroyed)
        };
        assert_eq!(gone("demo", 1, 0), KeyLook::Untold);
        assert_eq!(gone("demo", 2, 5), KeyLook::Untold);
        assert_eq!(gone("other", 1, 5), KeyLook::Untold);
        assert_eq!(gone("demo", 1, 5), KeyLook::Destroyed);
        for key_id in 0..3 * KEYS_MAX as u32 {
            gone("many", key_id, 5);
        }
        assert!(keys.keys.lock().len() <= KEYS_MAX);
    }
}
