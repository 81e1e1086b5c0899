//! Connection tokens: which instance's key must have signed one, and what it then says.
//!
//! JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256. The key decides the algorithm, never the
//! token. A token's `kid` or `iss` names an instance only if it is a key id that GB6 made; else
//! the host name or the listener names it, and the token must verify with that instance's key.

mod claims;
mod issue;
mod provider;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse, Snapshot};
use gb6_edge_session::{Claims, TokenError};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

pub use issue::{IssueError, TokenRequest, issue_token};
pub use provider::install_crypto;

/// Longest token in bytes: what a command may spend beside a publish's data.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The parts of a token that choose its key, read before anything is verified.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: Option<serde_json::Value>,
}

/// Verifies `token` at `unix_ms` and reads its claims. `listener` is the instance that the host
/// name or the listener names: used where the token itself names none.
///
/// # Errors
/// `Expired` for a token that was valid until its time ran out; `Invalid` for everything else,
/// without saying what, so that a forger learns nothing.
pub fn verify_token(
    snapshot: &Snapshot,
    listener: &InstanceId,
    token: &str,
    unix_ms: i64,
) -> Result<Claims, TokenError> {
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Invalid);
    }
    install_crypto();
    let (instance, keys) = keys_for(snapshot, listener, token).ok_or(TokenError::Invalid)?;
    let mut validation = Validation::new(Algorithm::HS256);
    // Times are checked below, against the caller's clock and without leeway; instances have no
    // audience of their own.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.leeway = 0;
    for key in keys {
        validation.algorithms = vec![algorithm(key.algorithm)];
        let verifier = DecodingKey::from_secret(key.secret.as_bytes());
        // An empty secret would let anybody sign.
        if key.secret.is_empty() {
            continue;
        }
        if let Ok(data) = jsonwebtoken::decode::<claims::Raw>(token, &verifier, &validation) {
            return data.claims.check(instance.clone(), unix_ms);
        }
    }
    Err(TokenError::Invalid)
}

/// The instance that must have signed `token`, and which of its keys may have.
fn keys_for<'a>(
    snapshot: &'a Snapshot,
    listener: &'a InstanceId,
    token: &str,
) -> Option<(&'a InstanceId, Vec<&'a Key>)> {
    let mut parts = token.split('.');
    let (header, payload) = (parts.next()?, parts.next()?);
    let kid = part::<Header>(header)?.kid;
    let iss = match part::<Issuer>(payload)?.iss {
        Some(serde_json::Value::String(iss)) => Some(iss),
        _ => None,
    };
    let named = [kid.as_deref(), iss.as_deref()]
        .into_iter()
        .flatten()
        .find_map(|id| made_here(snapshot, id));
    if let Some((instance, key)) = named {
        return Some((instance, vec![key]));
    }
    let (instance, placed) = snapshot.instances.get_key_value(listener)?;
    let clients = || placed.keys.iter().filter(|k| k.usage == KeyUse::Client);
    let chosen: Vec<&Key> = clients()
        .filter(|k| Some(k.id.as_str()) == kid.as_deref())
        .collect();
    if chosen.is_empty() {
        Some((instance, clients().collect()))
    } else {
        Some((instance, chosen))
    }
}

/// The key with this id, if it is one that GB6 made: `<instance>.<random>`, in that instance's
/// key table.
fn made_here<'a>(snapshot: &'a Snapshot, id: &str) -> Option<(&'a InstanceId, &'a Key)> {
    let (instance, _) = id.split_once('.')?;
    let (instance, placed) = snapshot.instances.get_key_value(instance)?;
    let key = placed
        .keys
        .iter()
        .find(|k| k.id == id && k.usage == KeyUse::Client)?;
    Some((instance, key))
}

fn part<T: for<'de> Deserialize<'de>>(encoded: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    serde_json::from_slice(&json).ok()
}

fn algorithm(algorithm: KeyAlgorithm) -> Algorithm {
    match algorithm {
        KeyAlgorithm::HS256 => Algorithm::HS256,
    }
}

#[cfg(test)]
mod tests;
