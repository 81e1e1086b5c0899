//! Making tokens: for `gb6 token create` and for the console's own sign-in.

use gb6_core_model::Capability;
use gb6_core_model::snapshot::{Key, KeyAlgorithm};
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use super::keys::named;
use super::provider::install_crypto;

/// What a token is to say.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenRequest {
    /// The user; empty: anonymous.
    pub user: String,
    /// Now, Unix seconds.
    pub now: i64,
    /// Seconds until it expires; `None`: never.
    pub ttl: Option<i64>,
    /// What it allows; `None`: whatever the instance's rules allow any member.
    pub caps: Option<Vec<Capability>>,
    /// Info about the connection that other clients see.
    pub info: Option<serde_json::Value>,
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key has no secret.
    #[error(
        "key {0} can not sign: it has no secret. Sign with the private key that belongs to it, or \
         with another key"
    )]
    NoSecret(String),
    /// The private key can not be read.
    #[error(
        "it is no private key for {0}: give PKCS #8 in PEM, as of `openssl pkcs8 -topk8 -nocrypt`"
    )]
    PrivateKey(&'static str),
    /// Signing failed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A key that makes signatures.
pub struct SigningKey {
    id: Option<String>,
    algorithm: KeyAlgorithm,
    key: EncodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The secret of a key of the key table.
    ///
    /// # Errors
    /// It has none.
    pub fn shared(key: &Key) -> Result<Self, IssueError> {
        if key.secret.is_empty() || !key.algorithm.is_symmetric() {
            return Err(IssueError::NoSecret(key.id.clone()));
        }
        Ok(Self {
            id: Some(key.id.clone()),
            algorithm: key.algorithm,
            key: EncodingKey::from_secret(key.secret.as_bytes()),
        })
    }

    /// A private key (PEM) for signatures by `algorithm`; `id` becomes the token's `kid`.
    ///
    /// # Errors
    /// The text is no such key.
    pub fn private(
        id: Option<String>,
        algorithm: KeyAlgorithm,
        pem: &str,
    ) -> Result<Self, IssueError> {
        let key = match algorithm {
            KeyAlgorithm::RS256 | KeyAlgorithm::RS384 | KeyAlgorithm::RS512 => {
                EncodingKey::from_rsa_pem(pem.as_bytes())
            }
            KeyAlgorithm::ES256 | KeyAlgorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            KeyAlgorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            KeyAlgorithm::HS256 | KeyAlgorithm::HS384 | KeyAlgorithm::HS512 => {
                return Err(IssueError::PrivateKey(algorithm.name()));
            }
        };
        Ok(Self {
            id,
            algorithm,
            key: key.map_err(|_| IssueError::PrivateKey(algorithm.name()))?,
        })
    }

    /// The usual algorithm of a private key (PEM); `None`: it is none that can sign.
    pub fn algorithm_of(pem: &str) -> Option<KeyAlgorithm> {
        install_crypto();
        [
            KeyAlgorithm::RS256,
            KeyAlgorithm::ES256,
            KeyAlgorithm::ES384,
            KeyAlgorithm::EdDSA,
        ]
        .into_iter()
        .find(|algorithm| {
            Self::private(None, *algorithm, pem)
                .is_ok_and(|key| sign_claims(&key, &serde_json::json!({})).is_ok())
        })
    }
}

/// A token with these claims, signed with `key`.
///
/// # Errors
/// The key can not sign.
pub fn sign_claims(key: &SigningKey, claims: &impl Serialize) -> Result<String, IssueError> {
    install_crypto();
    let mut header = Header::new(named(key.algorithm));
    header.kid = key.id.clone();
    Ok(jsonwebtoken::encode(&header, claims, &key.key)?)
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caps: Option<&'a [Capability]>,
}

/// A connection token signed with `key`, whose id it carries as `kid`.
///
/// # Errors
/// The key can not sign.
pub fn issue_token(key: &Key, request: &TokenRequest) -> Result<String, IssueError> {
    let claims = Claims {
        sub: &request.user,
        iat: request.now,
        exp: request.ttl.map(|ttl| request.now.saturating_add(ttl)),
        info: request.info.as_ref(),
        caps: request.caps.as_deref(),
    };
    sign_claims(&SigningKey::shared(key)?, &claims)
}
