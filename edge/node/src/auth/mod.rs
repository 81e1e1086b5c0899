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
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

pub use issue::{IssueError, TokenRequest, issue_token};
pub use provider::install_crypto;

/// Longest token in bytes: what a command may spend beside a publish's data.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Why a token was refused: for operators. Clients are told no more than [`TokenError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It was valid until its time ran out.
    Expired,
    /// It is no JSON Web Token, or too long for one.
    Malformed,
    /// No key is meant by it: another server's, or one that is gone.
    UnknownKey,
    /// It names another algorithm than its key's.
    Algorithm,
    /// No key that is meant by it made its signature.
    Signature,
    /// Its signature is good and its claims are not those of a connection token that is valid now.
    Claims,
}

impl Refusal {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Expired => "expired",
            Refusal::Malformed => "malformed",
            Refusal::UnknownKey => "unknown_key",
            Refusal::Algorithm => "algorithm",
            Refusal::Signature => "signature",
            Refusal::Claims => "claims",
        }
    }
}

impl From<Refusal> for TokenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Expired => TokenError::Expired,
            _ => TokenError::Invalid,
        }
    }
}

/// The parts of a token that choose its key, read before anything is verified.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    alg: Option<String>,
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
/// Why it is refused, as far as that can be told.
pub(crate) fn verify_token(
    snapshot: &Snapshot,
    listener: &InstanceId,
    token: &str,
    unix_ms: i64,
) -> Result<Claims, Refusal> {
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::Malformed);
    }
    install_crypto();
    let Meant {
        instance,
        keys,
        otherwise,
    } = keys_for(snapshot, listener, token)?;
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
        match jsonwebtoken::decode::<claims::Raw>(token, &verifier, &validation) {
            Ok(data) => return data.claims.check(instance.clone(), unix_ms),
            // Read only behind a good signature.
            Err(e) if matches!(e.kind(), ErrorKind::Json(_)) && otherwise == Refusal::Signature => {
                return Err(Refusal::Claims);
            }
            Err(_) => {}
        }
    }
    Err(otherwise)
}

/// Which keys may have signed a token.
struct Meant<'a> {
    instance: &'a InstanceId,
    keys: Vec<&'a Key>,
    /// Why the token is refused if none of them did.
    otherwise: Refusal,
}

/// The instance that must have signed `token`, and which of its keys may have.
fn keys_for<'a>(
    snapshot: &'a Snapshot,
    listener: &'a InstanceId,
    token: &str,
) -> Result<Meant<'a>, Refusal> {
    let mut parts = token.split('.');
    let header = parts.next().and_then(part::<Header>);
    let payload = parts.next().and_then(part::<Issuer>);
    let (Some(Header { alg, kid }), Some(payload)) = (header, payload) else {
        return Err(Refusal::Malformed);
    };
    let otherwise = match alg.as_deref() {
        Some("HS256") => Refusal::Signature,
        _ => Refusal::Algorithm,
    };
    let iss = match payload.iss {
        Some(serde_json::Value::String(iss)) => Some(iss),
        _ => None,
    };
    let named = [kid.as_deref(), iss.as_deref()]
        .into_iter()
        .flatten()
        .find_map(|id| made_here(snapshot, id));
    if let Some((instance, key)) = named {
        return Ok(Meant {
            instance,
            keys: vec![key],
            otherwise,
        });
    }
    let listener = snapshot.instances.get_key_value(listener);
    let (instance, placed) = listener.ok_or(Refusal::UnknownKey)?;
    let clients = || placed.keys.iter().filter(|k| k.usage == KeyUse::Client);
    let chosen: Vec<&Key> = clients()
        .filter(|k| Some(k.id.as_str()) == kid.as_deref())
        .collect();
    let otherwise = match otherwise {
        Refusal::Signature if kid.is_some() && chosen.is_empty() => Refusal::UnknownKey,
        other => other,
    };
    let keys = match chosen.is_empty() {
        true => clients().collect(),
        false => chosen,
    };
    Ok(Meant {
        instance,
        keys,
        otherwise,
    })
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
