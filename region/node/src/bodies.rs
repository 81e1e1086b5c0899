//! Record bodies on their way to the log and back: compressed, and encrypted with the instance's
//! key where it has one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use gb6_core_ports::StoreError;
use gb6_core_wire::record::{
    BodyError, KeyRing, NONCE_BYTES, Record, SealKey, body_with_keys, compress_body, seal_body,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::missing_keys::MissingKeys;

/// Instance → key id → key; the highest id seals.
type Keys = BTreeMap<String, BTreeMap<u32, Key>>;

#[derive(Clone)]
struct Key {
    bytes: [u8; 32],
    seal: SealKey,
}

/// Where the record keys of a region lie, for keys that this node does not know yet.
pub trait KeySource: Send + Sync {
    /// The key of `instance` with this id. `None`: there is none, so that one which sealed a record was
    /// destroyed, since a key lies here before anything is sealed with it. Blocks.
    ///
    /// # Errors
    /// It can not be told now.
    fn key(&self, instance: &str, key_id: u32) -> Result<Option<[u8; 32]>, StoreError>;
}

/// What came of looking for a key where keys lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyLook {
    /// It was found, and is known here now.
    Found,
    /// There is no such key any more.
    Destroyed,
    /// It can not be told now.
    Untold,
}

/// The record keys of the instances that this node serves. Without any key bodies are clear; where
/// there are some, nothing of an instance without one is written, as it would be in the clear, or read:
/// its key was destroyed, or another node made it and it is not known here yet. Cloning shares them: a
/// key that is added is used by all.
#[derive(Clone, Default)]
pub struct RecordKeys {
    keys: Arc<ArcSwap<Keys>>,
    source: Option<Arc<dyn KeySource>>,
    missing: Arc<MissingKeys>,
}

impl std::fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordKeys")
            .field("instances", &self.keys.load().keys())
            .finish_non_exhaustive()
    }
}

impl KeyRing for RecordKeys {
    fn key(&self, instance: &str, key_id: u32) -> Option<[u8; 32]> {
        Some(self.keys.load().get(instance)?.get(&key_id)?.bytes)
    }
}

impl RecordKeys {
    /// No keys yet; those that lie in `source` can be looked for there.
    pub fn of(source: Arc<dyn KeySource>) -> Self {
        Self {
            source: Some(source),
            ..Self::default()
        }
    }

    /// Looks for a key that is not known here where keys lie. Blocks.
    pub fn look_for(&self, instance: &str, key_id: u32) -> KeyLook {
        let Some(source) = &self.source else {
            return KeyLook::Untold;
        };
        match source.key(instance, key_id) {
            Ok(Some(key)) => {
                self.add(instance, key_id, key);
                KeyLook::Found
            }
            Ok(None) => KeyLook::Destroyed,
            Err(error) => {
                tracing::debug!(instance, key_id, %error, "a record key can not be looked for");
                KeyLook::Untold
            }
        }
    }

    /// As [`RecordKeys::look_for`], of a key that many may ask for: it is looked for every five seconds at
    /// most, and counts as destroyed only once that was said twice. Blocks.
    pub(crate) fn find(&self, instance: &str, key_id: u32) -> KeyLook {
        let look = || self.look_for(instance, key_id);
        self.missing.find(instance, key_id, Instant::now(), look)
    }

    /// Adds a key of `instance`; ids begin at 1, and the highest one seals what is written from
    /// now on.
    pub fn add(&self, instance: &str, key_id: u32, key: [u8; 32]) {
        let key = Key {
            bytes: key,
            seal: SealKey::new(&key),
        };
        self.keys.rcu(|keys| {
            let mut keys = Keys::clone(keys);
            let of_instance = keys.entry(instance.to_owned()).or_default();
            of_instance.insert(key_id, key.clone());
            keys
        });
    }

    /// Whether there is a key of `instance`.
    pub fn has(&self, instance: &str) -> bool {
        self.keys.load().contains_key(instance)
    }

    /// Whether what `instance` publishes can go to the log.
    pub(crate) fn can_seal(&self, instance: &str) -> bool {
        let keys = self.keys.load();
        keys.is_empty() || keys.contains_key(instance)
    }

    /// The records as they go to the log.
    pub(crate) fn for_log(&self, records: &[Record]) -> Result<Vec<Record>, BodyError> {
        let keys = self.keys.load();
        // One call of the system for a whole batch.
        let mut nonces = vec![0; records.len() * NONCE_BYTES];
        if !keys.is_empty() {
            SystemRandom::new()
                .fill(&mut nonces)
                .map_err(|_| BodyError::NotSealable {
                    problem: "the system gives no randomness",
                })?;
        }
        let (nonces, _) = nonces.as_chunks::<NONCE_BYTES>();
        let both = records.iter().zip(nonces);
        both.map(|(record, nonce)| sealed(&keys, record.clone(), *nonce))
            .collect()
    }

    /// Makes the body of a record from the log clear, in place.
    pub(crate) fn open(&self, record: &mut Record) -> Result<(), BodyError> {
        record.body = body_with_keys(record, self)?;
        record.compression = 0;
        record.key_id = 0;
        Ok(())
    }
}

fn sealed(keys: &Keys, mut record: Record, nonce: [u8; NONCE_BYTES]) -> Result<Record, BodyError> {
    compress_body(&mut record);
    if keys.is_empty() || !record.takes_offset() {
        return Ok(record);
    }
    let of_instance = keys.get(&record.instance);
    let newest = of_instance.and_then(|k| k.last_key_value());
    let Some((key_id, key)) = newest else {
        return Err(BodyError::NotSealable {
            problem: "this node has no key of its instance",
        });
    };
    seal_body(&mut record, *key_id, &key.seal, nonce)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::record::Kind;

    #[test]
    fn nothing_is_written_in_the_clear_where_there_are_keys() {
        let of = |instance: &str, kind: Kind| Record {
            kind: kind.into(),
            instance: instance.into(),
            channel: "room:1".into(),
            body: "secret".into(),
            ..Record::default()
        };
        let keys = RecordKeys::default();
        let clear = keys.for_log(&[of("other", Kind::Message)]).unwrap();
        assert_eq!(clear[0].body, "secret", "there are no keys at all");
        assert!(keys.can_seal("other"));
        keys.add("demo", 1, [1; 32]);
        assert!(keys.can_seal("demo") && !keys.can_seal("other"));
        let refused = keys.for_log(&[of("demo", Kind::Message), of("other", Kind::Message)]);
        assert!(matches!(refused, Err(BodyError::NotSealable { .. })));
        assert!(
            keys.for_log(&[of("other", Kind::Seal)]).is_ok(),
            "no message"
        );
    }

    #[test]
    fn bodies_come_back_and_a_destroyed_key_keeps_its_secret() {
        let text = "all work and no play ".repeat(100);
        let record = Record {
            kind: Kind::Message.into(),
            instance: "demo".into(),
            channel: "room:1".into(),
            offset: 7,
            body: text.clone().into(),
            ..Record::default()
        };
        let keys = RecordKeys::default();
        keys.add("demo", 1, [1; 32]);
        keys.add("demo", 2, [2; 32]);
        let mut stored = keys.for_log(std::slice::from_ref(&record)).unwrap();
        assert_eq!(stored[0].key_id, 2, "the newest key seals");
        assert!(stored[0].body.len() < text.len() / 2, "compressed first");
        let mut lost = stored[0].clone();
        assert!(RecordKeys::default().open(&mut lost).is_err());
        keys.open(&mut stored[0]).unwrap();
        assert_eq!(stored[0], record);
    }
}
