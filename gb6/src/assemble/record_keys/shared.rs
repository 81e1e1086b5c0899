//! The keys of a region of several nodes: agreed on in its `MapStore`, where they lie sealed with a key
//! that every node has in a file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::{Expect, MapStore, StoreError};
use gb6_region_node::RecordKeys;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Cover, decode, random_key};

/// Record keys of one region at most: several for each instance.
const KEYS_MAX: usize = 100_000;

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

/// The keys of a region, in its `MapStore` and in memory.
pub(in crate::assemble) struct SharedKeys {
    map: Arc<dyn MapStore>,
    region: String,
    sealing: SealingKey,
    keys: RecordKeys,
}

impl SharedKeys {
    /// The keys of `region` that `map` has. Blocks.
    ///
    /// # Errors
    /// The map can not be read, or a key in it was sealed with another key.
    pub(in crate::assemble) fn open(
        map: Arc<dyn MapStore>,
        region: &str,
        sealing: SealingKey,
    ) -> anyhow::Result<Self> {
        let shared = Self {
            map,
            region: region.to_owned(),
            sealing,
            keys: RecordKeys::default(),
        };
        let prefix = format!("regions/{region}/record-keys/");
        let page = shared
            .map
            .list(&prefix, KEYS_MAX)
            .context("the record keys of the region can not be read")?;
        for entry in page.entries {
            let (Some(name), Some(value)) = (entry.key.strip_prefix(&prefix), &entry.value) else {
                continue;
            };
            let Some((instance, id)) = name
                .split_once('/')
                .and_then(|(instance, id)| Some((instance, id.parse().ok()?)))
            else {
                bail!("{} is no name of a record key", entry.key);
            };
            let key = shared.unseal(&entry.key, value)?;
            shared.keys.add(instance, id, key);
        }
        Ok(shared)
    }

    fn unseal(&self, name: &str, sealed: &[u8]) -> anyhow::Result<[u8; 32]> {
        self.sealing.open(name, sealed).with_context(|| {
            format!(
                "the record key {name} was sealed with another key than this node's: \
                 `stores.record_key_file` must be the same on every node of the region, for ever"
            )
        })
    }

    /// The first key of an instance: this one, or what another node was faster with.
    fn agree(&self, instance: &str) -> anyhow::Result<[u8; 32]> {
        let name = format!("regions/{}/record-keys/{instance}/1", self.region);
        let key = random_key()?;
        let sealed = self.sealing.seal(&name, &key)?;
        match self.map.put(&name, &sealed, Expect::Absent) {
            Ok(_) => return Ok(key),
            Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {}
            Err(error) => return Err(error).context("a record key can not be kept"),
        }
        let entry = self.map.get(&name)?;
        match entry.and_then(|entry| entry.value) {
            Some(value) => self.unseal(&name, &value),
            None => bail!("the record key {name} was not kept"),
        }
    }
}

impl Cover for SharedKeys {
    fn keys(&self) -> RecordKeys {
        self.keys.clone()
    }

    fn cover(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        for (id, instance) in &snapshot.instances {
            if instance.region == self.region && !self.keys.has(id.as_str()) {
                let key = self.agree(id.as_str())?;
                self.keys.add(id.as_str(), 1, key);
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

    fn open(map: &Arc<MemoryMap>, secret: u8) -> anyhow::Result<SharedKeys> {
        let sealing = SealingKey::new([secret; 32]).unwrap();
        SharedKeys::open(map.clone(), "eu", sealing)
    }

    #[test]
    fn nodes_agree_on_keys_and_the_map_does_not_show_them() {
        let map = Arc::new(MemoryMap::default());
        let (mut one, mut other) = (open(&map, 1).unwrap(), open(&map, 1).unwrap());
        one.cover(&snapshot()).unwrap();
        other.cover(&snapshot()).unwrap();
        let of = |shared: &SharedKeys, name: &str| shared.keys().key(name, 1);
        let key = of(&one, "demo").unwrap();
        assert_eq!(of(&other, "demo"), Some(key));
        assert_ne!(of(&one, "acme"), Some(key));
        assert_eq!(of(&one, "far"), None, "another region's");
        assert_eq!(of(&open(&map, 1).unwrap(), "demo"), Some(key));
        for entry in map.list("", 10).unwrap().entries {
            let value = entry.value.unwrap();
            assert!(!value.windows(32).any(|part| part == key));
        }
    }

    #[test]
    fn another_sealing_key_is_refused_and_named() {
        let map = Arc::new(MemoryMap::default());
        open(&map, 1).unwrap().cover(&snapshot()).unwrap();
        let error = open(&map, 2).err().unwrap().to_string();
        assert!(error.contains("stores.record_key_file"), "{error}");
        // A sealed key that is put under another name is not taken for that one's.
        let name = "regions/eu/record-keys/demo/1";
        let stolen = map.get(name).unwrap().unwrap().value.unwrap();
        let other = "regions/eu/record-keys/acme/1";
        map.put(other, &stolen, Expect::Any).unwrap();
        assert!(open(&map, 1).is_err());
    }
}
