//! The keys of a region of several nodes: agreed on in its `MapStore`, where they lie sealed with a key
//! that every node has in a file. A record that was sealed with an earlier key of that file is sealed anew
//! by whoever reads it with a newer one.
//!
//! Each instance has a record, `record-keys/<region>/<instance>`: its keys by their ids. Ids are by chance, so
//! that a key which is made after the map was lost is never taken for another one; and a node that still
//! knows a key which the map has lost puts it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::{Expect, MapStore, SealError, Sealer, StoreError};
use gb6_region_node::{KeySource, RecordKeys};
use serde::{Deserialize, Serialize};

use super::{Cover, Keys, decode_bytes, encode_bytes, random_key};

/// Instances of one region at most.
const INSTANCES_MAX: usize = 100_000;
/// The version of records that this program writes and reads. Version 1, of no release, did not say with which
/// key it was sealed.
const VERSION: u32 = 2;
/// How often a change is tried against others who change the same record.
const TRIES: u32 = 8;

/// The keys of an instance as they lie in the map.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Key id → what the key became under the sealing key, in hexadecimal digits.
    keys: BTreeMap<u32, String>,
}

/// The records of a region's keys.
struct Records {
    map: Arc<dyn MapStore>,
    region: String,
    sealer: Sealer,
}

/// The keys of a region, in its `MapStore` and in memory.
pub(in crate::assemble) struct SharedKeys {
    records: Arc<Records>,
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
        sealer: Sealer,
        before: BTreeMap<String, Keys>,
        has_logs: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Self> {
        let records = Arc::new(Records {
            map,
            region: region.to_owned(),
            sealer,
        });
        let mut shared = Self {
            records: records.clone(),
            known: BTreeMap::new(),
            keys: RecordKeys::of(records),
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

    /// Reads what the map has; answers the instances that it has keys of.
    fn read(&mut self) -> anyhow::Result<Vec<String>> {
        let prefix = self.records.prefix();
        let page = self
            .records
            .map
            .list(&prefix, INSTANCES_MAX)
            .context("the record keys of the region can not be read")?;
        let mut there = Vec::new();
        for entry in page.entries {
            let (Some(instance), Some(value)) = (entry.key.strip_prefix(&prefix), &entry.value)
            else {
                continue;
            };
            let (keys, current) = self.records.unseal(instance, value)?;
            self.learn(instance, keys.clone());
            if !current {
                self.seal_anew(instance, &keys, entry.revision);
            }
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

    /// Writes the record of an instance again where it was sealed with an earlier key. Whoever does not
    /// succeed tries again at the next reading: until then the earlier key opens it.
    fn seal_anew(&self, instance: &str, keys: &Keys, revision: u64) {
        let record = format!("{}{instance}", self.records.prefix());
        let put = self.records.seal(instance, keys).and_then(|sealed| {
            match self
                .records
                .map
                .put(&record, &sealed, Expect::Revision(revision))
            {
                Ok(_) => Ok(true),
                // Another node was faster, or has made a key: its record is read next time.
                Err(StoreError::Conflict { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        });
        match put {
            Ok(true) => tracing::info!(instance, "the record keys are sealed with the newest key"),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                instance,
                error = format!("{error:#}"),
                "the record keys are still sealed with an earlier key"
            ),
        }
    }

    /// Sees to it that the map has a key of the instance, and every one that this node knows: what
    /// another node was faster with, or else one that is made now.
    fn agree(&mut self, instance: &str) -> anyhow::Result<()> {
        let record = format!("{}{instance}", self.records.prefix());
        for _ in 0..TRIES {
            let entry = self
                .records
                .map
                .get(&record)
                .context("the record keys can not be read")?;
            let mut wanted = self.known.get(instance).cloned().unwrap_or_default();
            let expect = match entry.and_then(|e| Some((e.value?, e.revision))) {
                Some((value, revision)) => {
                    let (there, _) = self.records.unseal(instance, &value)?;
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
            let sealed = self.records.seal(instance, &wanted)?;
            match self.records.map.put(&record, &sealed, expect) {
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

/// Whether `sealer` opens the keys of `region` that `map` has: of how many instances. Writes nothing.
/// Blocks.
///
/// # Errors
/// The map can not be read, or a key in it was sealed with another key.
pub(in crate::assemble) fn check_keys(
    map: Arc<dyn MapStore>,
    region: &str,
    sealer: Sealer,
) -> anyhow::Result<usize> {
    let records = Records {
        map,
        region: region.to_owned(),
        sealer,
    };
    let prefix = records.prefix();
    let page = records
        .map
        .list(&prefix, INSTANCES_MAX)
        .context("the record keys of the region can not be read")?;
    let mut opened = 0;
    for entry in &page.entries {
        if let (Some(instance), Some(value)) = (entry.key.strip_prefix(&prefix), &entry.value) {
            records.unseal(instance, value)?;
            opened += 1;
        }
    }
    Ok(opened)
}

impl Records {
    fn prefix(&self) -> String {
        format!("record-keys/{}/", self.region)
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
            let name = self.name(instance, *id);
            let sealed = self.sealer.seal(&place(&name), key)?;
            stored.keys.insert(*id, encode_bytes(&sealed));
        }
        Ok(serde_json::to_vec(&stored)?)
    }

    /// The keys in a record, and whether all are sealed with the newest key.
    fn unseal(&self, instance: &str, value: &[u8]) -> anyhow::Result<(Keys, bool)> {
        let name = format!("{}{instance}", self.prefix());
        let stored: Stored = serde_json::from_slice(value)
            .ok()
            .filter(|stored: &Stored| stored.version == VERSION)
            .with_context(|| {
                format!(
                    "the record {name} is damaged, or of another version of gb6: restore it, or use that one"
                )
            })?;
        let (mut keys, mut current) = (Keys::new(), true);
        for (id, text) in &stored.keys {
            let sealed = decode_bytes(text).unwrap_or_default();
            current &= self.sealer.is_current(&sealed);
            let opened = self.sealer.open(&place(&self.name(instance, *id)), &sealed);
            let opened = opened.map_err(|error| match error {
                SealError::UnknownKey => anyhow!(
                    "the record key {id} in {name} was sealed with another key than this node's: the file \
                     of `stores.record_key_file` must have it, on a line behind the newer one"
                ),
                error => anyhow!("the record key {id} in {name}: {error}; restore the database"),
            })?;
            let key = <[u8; 32]>::try_from(opened)
                .ok()
                .with_context(|| format!("the record key {id} in {name} has not 32 bytes"))?;
            keys.insert(*id, key);
        }
        Ok((keys, current))
    }
}

impl KeySource for Records {
    fn key(&self, instance: &str, key_id: u32) -> Result<Option<[u8; 32]>, StoreError> {
        let record = format!("{}{instance}", self.prefix());
        let Some(value) = self.map.get(&record)?.and_then(|entry| entry.value) else {
            return Ok(None);
        };
        match self.unseal(instance, &value) {
            Ok((keys, _)) => Ok(keys.get(&key_id).copied()),
            Err(error) => Err(StoreError::Unavailable {
                cause: format!("{error:#}"),
            }),
        }
    }
}

/// Where a key lies, for the sealer.
fn place(name: &str) -> [&[u8]; 2] {
    [b"gb6.seal.record-key", name.as_bytes()]
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
            .filter(|(_, instance)| instance.region == self.records.region)
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
    use gb6_core_wire::record::KeyRing;
    use gb6_region_node::KeyLook;

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

    fn sealing(secret: u8) -> Sealer {
        Sealer::new(&[secret; 32], &[])
    }

    fn open_with(map: &Arc<MemoryMap>, sealer: Sealer) -> anyhow::Result<SharedKeys> {
        SharedKeys::open(map.clone(), "eu", sealer, BTreeMap::new(), || Ok(false))
    }

    fn open(map: &Arc<MemoryMap>, secret: u8) -> anyhow::Result<SharedKeys> {
        open_with(map, sealing(secret))
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
    fn the_sealing_key_can_be_changed_while_nodes_run() {
        let map = Arc::new(MemoryMap::default());
        let mut old = open(&map, 1).unwrap();
        old.cover(&snapshot()).unwrap();
        let keys = of(&old, "demo");
        // First every node knows the new key, then one seals with it: all the time everybody can read.
        let both = Sealer::new(&[1; 32], &[[2; 32]]);
        let mut waiting = open_with(&map, both).unwrap();
        open(&map, 1).unwrap();
        let mut new = open_with(&map, Sealer::new(&[2; 32], &[[1; 32]])).unwrap();
        assert_eq!(of(&new, "demo"), keys);
        waiting.cover(&snapshot()).unwrap();
        assert!(
            open(&map, 1).is_ok(),
            "the one that has the old key first sealed again with it"
        );
        new.cover(&snapshot()).unwrap();
        // Sealed anew: the old key is of no use any more, and not needed.
        let alone = open(&map, 2).unwrap();
        assert_eq!(
            (of(&alone, "demo"), of(&alone, "acme")),
            (keys, of(&new, "acme"))
        );
        let error = open(&map, 1).err().unwrap().to_string();
        assert!(error.contains("behind the newer one"), "{error}");
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

    #[test]
    fn a_key_that_another_node_made_is_found_and_one_that_was_destroyed_is_known_to_be() {
        let map = Arc::new(MemoryMap::default());
        let here = open(&map, 1).unwrap().keys();
        let mut other = open(&map, 1).unwrap();
        other.cover(&snapshot()).unwrap();
        let (id, key) = of(&other, "demo").pop_first().unwrap();
        assert_eq!(here.key("demo", id), None);
        assert_eq!(here.look_for("demo", id), KeyLook::Found);
        assert_eq!(here.key("demo", id), Some(key));
        assert_eq!(here.look_for("acme", id), KeyLook::Destroyed, "another's");
        map.delete("record-keys/eu/demo", Expect::Any).unwrap();
        let late = open(&map, 1).unwrap().keys();
        assert_eq!(late.look_for("demo", id), KeyLook::Destroyed);
        // What can not be read says nothing.
        map.put("record-keys/eu/demo", b"{}", Expect::Any).unwrap();
        assert_eq!(late.look_for("demo", id), KeyLook::Untold);
    }
}
