//! Making tokens: for `gb6 token create` and for the console's own sign-in.

use gb6_core_model::Capability;
use gb6_core_model::snapshot::{Key, KeyAlgorithm};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

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
    #[error("key {0} has no secret: a token signed with it could be forged by anybody")]
    NoSecret(String),
    /// Signing failed.
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
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
    install_crypto();
    if key.secret.is_empty() {
        return Err(IssueError::NoSecret(key.id.clone()));
    }
    let KeyAlgorithm::HS256 = key.algorithm;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.id.clone());
    let claims = Claims {
        sub: &request.user,
        iat: request.now,
        exp: request.ttl.map(|ttl| request.now.saturating_add(ttl)),
        info: request.info.as_ref(),
        caps: request.caps.as_deref(),
    };
    let signer = EncodingKey::from_secret(key.secret.as_bytes());
    Ok(jsonwebtoken::encode(&header, &claims, &signer)?)
}
