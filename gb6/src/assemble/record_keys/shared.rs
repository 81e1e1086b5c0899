//! The keys of a region of several nodes: agreed on in its `MapStore`, where they lie sealed with a key
//! that every node has in a file.
//!
//! Each instance has a record, `record-keys/<region>/<instance>`: its keys by their ids. Ids are by chance, so
//! that a key which is made after the map was lost is never taken for another one; and a node that still
//! knows a key which the map has lost puts it back.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::{Expect, MapStore, StoreError};
use gb6_region_node::RecordKeys;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{Cover, Keys, decode, decode_bytes, encode_bytes, random_key};

/// Instances of one region at most.
const INSTANCES_MAX: usize = 100_000;
/// The version of records that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
/// How often a change is tried against others who change the same record.
const TRIES: u32 = 8;

/// What seals record keys outside of the nodes' memory.
#[derive(Clone)]
pub(in crate::assemble) struct SealingKey(Arc<LessSafeKey>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// The key in a file of 64 hexadecimal digits.
    ///
    /// # Errors
    /// The file can not be read, or holds something else.
    pub(in crate::assemble) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "{shown} can not be read: it is to hold the key that seals record keys, the same on every \
                 node of the region; make one with `openssl rand -hex 32 > {shown}`"
            )
        })?;
        match decode(text.trim()) {
            Some(key) => Self::new(key),
            None => bail!("{shown} is no key: it must be 64 hexadecimal digits"),
        }
    }

    fn new(key: [u8; 32]) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &key)
            .map_err(|_| anyhow::anyhow!("the sealing key can not be used"))?;
        Ok(Self(Arc::new(LessSafeKey::new(key))))
    }

    /// A nonce, and what `key` becomes under it for the record `name`.
    fn seal(&self, name: &str, key: &[u8; 32]) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        let mut sealed = key.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name),
                &mut sealed,
            )
            .map_err(|_| anyhow::anyhow!("a record key can not be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<[u8; 32]> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let key = self.0.open_in_place(nonce, Aad::from(name), &mut bytes);
        <[u8; 32]>::try_from(&*key.ok()?).ok()
    }
}

/// The keys of an instance as they lie in the map.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Key id → what the key became under the sealing key, in hexadecimal digits.
    keys: BTreeMap<u32, String>,
}

/// The keys of a region, in its `MapStore` and in memory.
pub(in crate::assemble) struct SharedKeys {
    map: Arc<dyn MapStore>,
    region: String,
    sealing: SealingKey,
    known: BTreeMap<String, Keys>,
    keys: RecordKeys,
}

impl SharedKeys {
    /// The keys of `region` that `map` has. `before` are those of a time without a map, which are put
    /// there; `has_logs` says whether anything was ever written, and is asked only where there are no keys.
    /// Blocks.
    ///
    /// # Errors
    /// The map can not be read, a key in it was sealed with another key, or it has none although there
    /// are logs.
    pub(in crate::assemble) fn open(
        map: Arc<dyn MapStore>,
        region: &str,
        sealing: SealingKey,
        before: BTreeMap<String, Keys>,
        has_logs: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Self> {
        let mut shared = Self {
            map,
            region: region.to_owned(),
            sealing,
            known: BTreeMap::new(),
            keys: RecordKeys::default(),
        };
        shared.read()?;
        if shared.known.is_empty() && before.is_empty() && has_logs()? {
            bail!(
                "`stores.map` has no record keys of region {region}, and without them the messages in its \
                 logs can not be read: restore the database, or name the one that was used before"
            );
        }
        for (instance, keys) in before {
            shared.learn(&instance, keys);
            shared.agree(&instance)?;
        }
        Ok(shared)
    }

    fn prefix(&self) -> String {
        format!("record-keys/{}/", self.region)
    }

    /// Reads what the map has; answers the instances that it has keys of.
    fn read(&mut self) -> anyhow::Result<Vec<String>> {
        let prefix = self.prefix();
        let page = self
            .map
            .list(&prefix, INSTANCES_MAX)
            .context("the record keys of the region can not be read")?;
        let mut there = Vec::new();
        for entry in page.entries {
            let (Some(instance), Some(value)) = (entry.key.strip_prefix(&prefix), &entry.value)
            else {
                continue;
            };
            let keys = self.unseal(instance, value)?;
            self.learn(instance, keys);
            there.push(instance.to_owned());
        }
        Ok(there)
    }

    /// Makes keys known to this node.
    fn learn(&mut self, instance: &str, keys: Keys) {
        let known = self.known.entry(instance.to_owned()).or_default();
        for (id, key) in keys {
            if known.insert(id, key).is_none() {
                self.keys.add(instance, id, key);
            }
        }
    }

    fn name(&self, instance: &str, id: u32) -> String {
        format!("{}{instance}/{id}", self.prefix())
    }

    fn seal(&self, instance: &str, keys: &Keys) -> anyhow::Result<Vec<u8>> {
        let mut stored = Stored {
            version: VERSION,
            keys: BTreeMap::new(),
        };
        for (id, key) in keys {
            let sealed = self.sealing.seal(&self.name(instance, *id), key)?;
            stored.keys.insert(*id, encode_bytes(&sealed));
        }
        Ok(serde_json::to_vec(&stored)?)
    }

    fn unseal(&self, instance: &str, value: &[u8]) -> anyhow::Result<Keys> {
        let name = format!("{}{instance}", self.prefix());
        let stored: Stored = serde_json::from_slice(value)
            .ok()
            .filter(|stored: &Stored| stored.version <= VERSION)
            .with_context(|| {
                format!(
                    "the record {name} is damaged, or of a newer gb6: restore it, or use that one"
                )
            })?;
        let mut keys = Keys::new();
        for (id, text) in &stored.keys {
            let sealed = decode_bytes(text);
            let key = sealed.and_then(|bytes| self.sealing.open(&self.name(instance, *id), &bytes));
            let key = key.with_context(|| {
                format!(
                    "the record key {id} in {name} was sealed with another key than this node's: \
                     `stores.record_key_file` must be the same on every node of the region, for ever"
                )
            })?;
            keys.insert(*id, key);
        }
        Ok(keys)
    }

    /// Sees to it that the map has a key of the instance, and every one that this node knows: what
    /// another node was faster with, or else one that is made now.
    fn agree(&mut self, instance: &str) -> anyhow::Result<()> {
        let record = format!("{}{instance}", self.prefix());
        for _ in 0..TRIES {
            let entry = self
                .map
                .get(&record)
                .context("the record keys can not be read")?;
            let mut wanted = self.known.get(instance).cloned().unwrap_or_default();
            let expect = match entry.and_then(|e| Some((e.value?, e.revision))) {
                Some((value, revision)) => {
                    let there = self.unseal(instance, &value)?;
                    let complete = wanted.keys().all(|id| there.contains_key(id));
                    self.learn(instance, there.clone());
                    if complete {
                        return Ok(());
                    }
                    wanted.extend(there);
                    Expect::Revision(revision)
                }
                None => {
                    if wanted.is_empty() {
                        wanted.insert(random_id()?, random_key()?);
                    }
                    Expect::Absent
                }
            };
            let sealed = self.seal(instance, &wanted)?;
            match self.map.put(&record, &sealed, expect) {
                Ok(_) => {
                    self.learn(instance, wanted);
                    return Ok(());
                }
                // Somebody else was faster, or nobody knows: what is there now decides.
                Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
                Err(error) => return Err(error).context("a record key can not be kept"),
            }
        }
        bail!("the record {record} changes without end")
    }
}

/// The id of a new key: by chance, never 0.
fn random_id() -> anyhow::Result<u32> {
    let key = random_key()?;
    let bytes = [key[0], key[1], key[2], key[3]];
    Ok(u32::from_le_bytes(bytes).max(1))
}

impl Cover for SharedKeys {
    fn keys(&self) -> RecordKeys {
        self.keys.clone()
    }

    fn cover(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let served: Vec<String> = snapshot
            .instances
            .iter()
            .filter(|(_, instance)| instance.region == self.region)
            .map(|(id, _)| id.to_string())
            .collect();
        let there = match self.read() {
            Ok(there) => there,
            // What is known is enough for those that are known.
            Err(error) if served.iter().all(|id| self.keys.has(id)) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the record keys could not be compared with the map's"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for id in served {
            if there.binary_search(&id).is_err() {
                self.agree(&id)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::Instance;
    use gb6_core_ports::memory::MemoryMap;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, region) in [("demo", "eu"), ("acme", "eu"), ("far", "us")] {
            let instance = Instance {
                region: region.into(),
                ..Instance::default()
            };
            snapshot.instances.insert(name.into(), instance);
        }
        snapshot
    }

    fn sealing(secret: u8) -> SealingKey {
        SealingKey::new([secret; 32]).unwrap()
    }

    fn open(map: &Arc<MemoryMap>, secret: u8) -> anyhow::Result<SharedKeys> {
        SharedKeys::open(map.clone(), "eu", sealing(secret), BTreeMap::new(), || {
            Ok(false)
        })
    }

    fn of(shared: &SharedKeys, instance: &str) -> Keys {
        shared.known.get(instance).cloned().unwrap_or_default()
    }

    #[test]
    fn nodes_agree_on_keys_and_the_map_does_not_show_them() {
        let map = Arc::new(MemoryMap::default());
        let (mut one, mut other) = (open(&map, 1).unwrap(), open(&map, 1).unwrap());
        one.cover(&snapshot()).unwrap();
        other.cover(&snapshot()).unwrap();
        let keys = of(&one, "demo");
        assert_eq!(keys.len(), 1);
        assert_eq!(of(&other, "demo"), keys);
        assert_ne!(of(&one, "acme"), keys);
        assert_eq!(of(&one, "far"), Keys::new(), "another region's");
        assert_eq!(of(&open(&map, 1).unwrap(), "demo"), keys);
        let hex: String = keys
            .values()
            .flatten()
            .map(|b| format!("{b:02x}"))
            .collect();
        for entry in map.list("", 10).unwrap().entries {
            let text = String::from_utf8(entry.value.unwrap()).unwrap();
            assert!(!text.contains(&hex));
        }
    }

    #[test]
    fn another_sealing_key_is_refused_and_named() {
        let map = Arc::new(MemoryMap::default());
        open(&map, 1).unwrap().cover(&snapshot()).unwrap();
        let error = open(&map, 2).err().unwrap().to_string();
        assert!(error.contains("stores.record_key_file"), "{error}");
        // Sealed keys that are put under another name are not taken for that one's.
        let stolen = map
            .get("record-keys/eu/demo")
            .unwrap()
            .unwrap()
            .value
            .unwrap();
        map.put("record-keys/eu/acme", &stolen, Expect::Any)
            .unwrap();
        assert!(open(&map, 1).is_err());
    }

    #[test]
    fn a_map_without_keys_is_not_taken_for_that_of_a_region_with_logs() {
        let map = Arc::new(MemoryMap::default());
        let opened = SharedKeys::open(map.clone(), "eu", sealing(1), BTreeMap::new(), || Ok(true));
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("has no record keys of region eu"), "{error}");
        // Keys of a time without a map are moved there.
        let before = BTreeMap::from([("demo".to_owned(), Keys::from([(1, [9; 32])]))]);
        SharedKeys::open(map.clone(), "eu", sealing(1), before, || Ok(true)).unwrap();
        assert_eq!(
            of(&open(&map, 1).unwrap(), "demo"),
            Keys::from([(1, [9; 32])])
        );
    }

    #[test]
    fn what_the_map_has_lost_is_put_back_by_who_knows_it() {
        let map = Arc::new(MemoryMap::default());
        let mut old = open(&map, 1).unwrap();
        old.cover(&snapshot()).unwrap();
        let lost = of(&old, "demo");
        map.delete("record-keys/eu/demo", Expect::Any).unwrap();
        // Whoever starts meanwhile makes another key, which is never taken for that one.
        let mut new = open(&map, 1).unwrap();
        new.cover(&snapshot()).unwrap();
        let made = of(&new, "demo");
        assert!(lost.keys().all(|id| !made.contains_key(id)));
        old.agree("demo").unwrap();
        new.cover(&snapshot()).unwrap();
        let both: Keys = lost.into_iter().chain(made).collect();
        assert_eq!((of(&old, "demo"), of(&new, "demo")), (both.clone(), both));
    }
}
