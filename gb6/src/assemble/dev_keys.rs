//! The keys of `gb6 dev`: made at its first start, kept in its data directory, so that tokens and
//! sign-in survive a restart.

use std::path::Path;

use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse};
use gb6_geo_config_plan::DEMO_INSTANCE;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::files::{create_json, read_json};

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
        let keys = Self {
            token_key_id: format!("{DEMO_INSTANCE}.{}", random_hex::<6>()?),
            token_secret: random_hex::<32>()?,
        };
        create_json(&data_dir.join(FILE), &keys)?;
        Ok(keys)
    }

    /// The key that signs tokens of the demo instance.
    pub(crate) fn token_key(&self) -> Key {
        Key {
            id: self.token_key_id.clone(),
            usage: KeyUse::Client,
            algorithm: KeyAlgorithm::HS256,
            secret: self.token_secret.clone(),
        }
    }
}

impl std::fmt::Debug for DevKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevKeys")
            .field("token_key_id", &self.token_key_id)
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
        assert!(made.token_key().id.starts_with("demo."));
        assert_eq!(made.token_key().secret.len(), 64);
        assert!(!format!("{made:?}").contains(&made.token_secret));

        std::fs::write(&file, "{\"token_key_id\": \"demo.x\", \"token_secret\": 5}").unwrap();
        let error = DevKeys::load_or_create(&data_dir).unwrap_err().to_string();
        assert!(error.contains("keys.json is damaged at line 1"), "{error}");
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
