//! The keys of `gb6 dev`: made when it first serves an instance, kept in its data directory, so that
//! tokens and sign-in survive a restart. Each instance has one for its tokens and one for the server
//! API, besides those of its configuration.

use std::collections::BTreeMap;
use std::path::Path;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse};
use gb6_geo_config_plan::DEMO_INSTANCE;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::files::{create_json, read_json, replace_json};

/// The file in the data directory, mode 0600.
const FILE: &str = "keys.json";

/// What stands in the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DevKeys {
    /// The id of the key that signs tokens of the demo instance.
    token_key_id: String,
    /// Its secret: 64 hexadecimal digits, used as they stand.
    token_secret: String,
    /// The same of the other instances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    instances: BTreeMap<String, InstanceKey>,
    /// The keys of the server API, by instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    api_keys: BTreeMap<String, String>,
}

/// The key of one instance.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceKey {
    token_key_id: String,
    token_secret: String,
}

impl InstanceKey {
    fn make(instance: &str) -> anyhow::Result<Self> {
        Ok(Self {
            token_key_id: format!("{instance}.{}", random_hex::<6>()?),
            token_secret: random_hex::<32>()?,
        })
    }
}

impl DevKeys {
    /// The keys in `data_dir`; `None` when none were made.
    ///
    /// # Errors
    /// The file can not be read, or is damaged.
    pub(crate) fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        read_json(&data_dir.join(FILE))
    }

    /// The keys in `data_dir`, made now if there are none.
    ///
    /// # Errors
    /// The file can not be read or written, or is damaged.
    pub(crate) fn load_or_create(data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(keys) = Self::load(data_dir)? {
            return Ok(keys);
        }
        let demo = InstanceKey::make(DEMO_INSTANCE)?;
        let keys = Self {
            token_key_id: demo.token_key_id,
            token_secret: demo.token_secret,
            instances: BTreeMap::new(),
            api_keys: BTreeMap::new(),
        };
        create_json(&data_dir.join(FILE), &keys)?;
        Ok(keys)
    }

    /// Makes the keys that are missing for `instances`. They are used only when the disk has them.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The file can not be written; nothing has changed.
    pub(crate) fn cover<'a>(
        &mut self,
        data_dir: &Path,
        instances: impl Iterator<Item = &'a InstanceId>,
    ) -> anyhow::Result<()> {
        let mut keys = self.clone();
        for id in instances {
            if id.as_str() != DEMO_INSTANCE && !keys.instances.contains_key(id.as_str()) {
                let key = InstanceKey::make(id.as_str())?;
                keys.instances.insert(id.to_string(), key);
            }
            if !keys.api_keys.contains_key(id.as_str()) {
                let key = format!("gb6_{id}_{}", random_hex::<32>()?);
                keys.api_keys.insert(id.to_string(), key);
            }
        }
        if keys != *self {
            replace_json(&data_dir.join(FILE), &keys)?;
            *self = keys;
        }
        Ok(())
    }

    /// The key that signs tokens of `instance`; `None`: `gb6 dev` has never served it.
    pub(crate) fn token_key(&self, instance: &str) -> Option<Key> {
        let (id, secret) = match self.instances.get(instance) {
            Some(key) => (&key.token_key_id, &key.token_secret),
            None if instance == DEMO_INSTANCE => (&self.token_key_id, &self.token_secret),
            None => return None,
        };
        Some(Key {
            id: id.clone(),
            usage: KeyUse::Client,
            algorithm: KeyAlgorithm::HS256,
            secret: secret.clone(),
            ..Key::default()
        })
    }

    /// The key of `instance` for the server API; `None`: `gb6 dev` has never served it.
    pub(crate) fn api_key(&self, instance: &str) -> Option<Key> {
        Some(Key {
            id: format!("{instance}.dev-api"),
            usage: KeyUse::Api,
            algorithm: KeyAlgorithm::HS256,
            secret: self.api_keys.get(instance)?.clone(),
            ..Key::default()
        })
    }

    /// The instances that have a key.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &str> {
        let others = self.instances.keys().map(String::as_str);
        std::iter::once(DEMO_INSTANCE).chain(others)
    }
}

impl std::fmt::Debug for DevKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevKeys")
            .field("token_key_id", &self.token_key_id)
            .field("instances", &self.instances.keys())
            .finish_non_exhaustive()
    }
}

fn random_hex<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("new");
        assert!(DevKeys::load(&data_dir).unwrap().is_none());
        let made = DevKeys::load_or_create(&data_dir).unwrap();
        assert_eq!(DevKeys::load_or_create(&data_dir).unwrap(), made);
        let file = data_dir.join(FILE);
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let demo = made.token_key("demo").unwrap();
        assert!(demo.id.starts_with("demo."));
        assert_eq!(demo.secret.len(), 64);
        assert!(!format!("{made:?}").contains(&made.token_secret));

        std::fs::write(&file, "{\"token_key_id\": \"demo.x\", \"token_secret\": 5}").unwrap();
        let error = DevKeys::load_or_create(&data_dir).unwrap_err().to_string();
        assert!(error.contains("keys.json is damaged at line 1"), "{error}");
    }

    #[test]
    fn other_instances_get_a_key_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = DevKeys::load_or_create(dir.path()).unwrap();
        assert_eq!(keys.token_key("acme"), None);
        let ids = [InstanceId::from("acme"), InstanceId::from("demo")];
        keys.cover(dir.path(), ids.iter()).unwrap();
        let acme = keys.token_key("acme").unwrap();
        assert!(acme.id.starts_with("acme."));
        assert_ne!(acme.secret, keys.token_key("demo").unwrap().secret);
        let api = keys.api_key("acme").unwrap().secret;
        assert!(api.starts_with("gb6_acme_") && api.len() == 9 + 64, "{api}");
        assert_ne!(api[9..], keys.api_key("demo").unwrap().secret[9..]);
        assert!(!format!("{keys:?}").contains(&api));
        assert_eq!(keys.instances().collect::<Vec<_>>(), ["demo", "acme"]);
        keys.cover(dir.path(), ids.iter()).unwrap();
        assert_eq!(DevKeys::load(dir.path()).unwrap(), Some(keys.clone()));

        // One that can not be kept is not used.
        let in_the_way = dir.path().join(FILE).with_extension("new");
        std::fs::create_dir(&in_the_way).unwrap();
        let shop = InstanceId::from("shop");
        keys.cover(dir.path(), [&shop].into_iter()).unwrap_err();
        assert_eq!(keys.token_key("shop"), None);
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.json");
        create_json(&path, &1).unwrap();
        assert!(create_json(&path, &2).is_err());
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(1));
    }
}
