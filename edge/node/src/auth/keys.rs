//! The keys that tokens are verified with, prepared once for a placement snapshot and the key sets
//! that were fetched: nothing is decoded while a token is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse, Snapshot};
use gb6_core_model::{InstanceId, PublicKey, PublicKeyError};
use jsonwebtoken::{Algorithm, DecodingKey};

/// A key that verifies signatures.
pub(crate) struct VerifyingKey {
    /// Its id; `None`: a fetched one without.
    pub(crate) id: Option<String>,
    /// The algorithms that it verifies: of a stored key exactly one.
    algorithms: Vec<KeyAlgorithm>,
    key: DecodingKey,
    stored: bool,
}

impl VerifyingKey {
    /// A public key that was fetched, for these algorithms, all of which must be among
    /// [`PublicKey::algorithms`].
    pub(crate) fn fetched(
        id: Option<String>,
        algorithms: Vec<KeyAlgorithm>,
        key: &PublicKey,
    ) -> Self {
        Self::public(id, algorithms, key, false)
    }

    fn public(
        id: Option<String>,
        algorithms: Vec<KeyAlgorithm>,
        key: &PublicKey,
        stored: bool,
    ) -> Self {
        let key = match key {
            PublicKey::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            PublicKey::P256(point) | PublicKey::P384(point) => DecodingKey::from_ec_der(point),
            PublicKey::Ed25519(key) => DecodingKey::from_ed_der(key),
        };
        Self {
            id,
            algorithms,
            key,
            stored,
        }
    }

    /// A key of the key table.
    fn stored(key: &Key) -> Result<Self, PublicKeyError> {
        let id = Some(key.id.clone());
        if !key.algorithm.is_symmetric() {
            let public = PublicKey::parse(&key.public_key)?;
            if !public.algorithms().contains(&key.algorithm) {
                return Err(PublicKeyError::Use("algorithm"));
            }
            return Ok(Self::public(id, vec![key.algorithm], &public, true));
        }
        // An empty secret would let anybody sign.
        if key.secret.is_empty() {
            return Err(PublicKeyError::Damaged("it has no secret"));
        }
        Ok(Self {
            id,
            algorithms: vec![key.algorithm],
            key: DecodingKey::from_secret(key.secret.as_bytes()),
            stored: true,
        })
    }

    /// Whether it stands in the key table.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored
    }

    /// Whether it may have signed by this algorithm.
    pub(crate) fn fits(&self, algorithm: KeyAlgorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether it made this signature (base64url) of `message` by this algorithm.
    pub(crate) fn verifies(&self, algorithm: KeyAlgorithm, message: &str, signature: &str) -> bool {
        let named = named(algorithm);
        self.fits(algorithm)
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, named)
                .unwrap_or(false)
    }
}

/// The algorithm as jsonwebtoken names it.
pub(super) fn named(algorithm: KeyAlgorithm) -> Algorithm {
    match algorithm {
        KeyAlgorithm::HS256 => Algorithm::HS256,
        KeyAlgorithm::HS384 => Algorithm::HS384,
        KeyAlgorithm::HS512 => Algorithm::HS512,
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// The keys of one instance, and what its tokens must say.
pub(crate) struct InstanceKeys {
    /// Those of the key table.
    pub(crate) stored: Vec<VerifyingKey>,
    /// Those that were fetched.
    pub(crate) fetched: Fetched,
    /// What `aud` must name.
    pub(crate) audience: Option<String>,
    /// What `iss` must be.
    pub(crate) issuer: Option<String>,
}

/// The fetched keys of one instance.
#[derive(Clone, Default)]
pub(crate) enum Fetched {
    /// It fetches none.
    #[default]
    None,
    /// It fetches some, and has none yet.
    Missing,
    /// The last good ones.
    Keys(Arc<[VerifyingKey]>),
}

impl Fetched {
    pub(crate) fn keys(&self) -> &[VerifyingKey] {
        match self {
            Fetched::None | Fetched::Missing => &[],
            Fetched::Keys(keys) => keys,
        }
    }
}

/// Every key that a token may be verified with.
#[derive(Default)]
pub(crate) struct KeyTable {
    instances: BTreeMap<InstanceId, InstanceKeys>,
}

impl KeyTable {
    /// The keys of `snapshot`, and those that were fetched for its instances.
    pub(crate) fn new(snapshot: &Snapshot, fetched: impl Fn(&InstanceId) -> Fetched) -> Self {
        let instances = snapshot.instances.iter().map(|(id, instance)| {
            let clients = instance.keys.iter().filter(|k| k.usage == KeyUse::Client);
            let stored = clients.filter_map(|key| {
                VerifyingKey::stored(key)
                    .inspect_err(|why| {
                        tracing::error!(instance = %id, key = key.id, %why, "a key can not be used");
                    })
                    .ok()
            });
            let keys = InstanceKeys {
                stored: stored.collect(),
                fetched: match &instance.jwks_url {
                    Some(_) => fetched(id),
                    None => Fetched::None,
                },
                audience: instance.token_audience.clone(),
                issuer: instance.token_issuer.clone(),
            };
            (id.clone(), keys)
        });
        Self {
            instances: instances.collect(),
        }
    }

    /// The keys of an instance.
    pub(crate) fn of(&self, instance: &str) -> Option<(&InstanceId, &InstanceKeys)> {
        self.instances.get_key_value(instance)
    }

    /// The key with this id, if it is one that GB6 made: `<instance>.<random>`, in that instance's
    /// key table. Fetched keys name no instance, whatever they are called.
    pub(crate) fn made_here(
        &self,
        id: &str,
    ) -> Option<(&InstanceId, &InstanceKeys, &VerifyingKey)> {
        let (instance, _) = id.split_once('.')?;
        let (instance, keys) = self.of(instance)?;
        let key = keys.stored.iter().find(|k| k.id.as_deref() == Some(id))?;
        Some((instance, keys, key))
    }
}
