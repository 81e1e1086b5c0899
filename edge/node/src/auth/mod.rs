//! Tokens: which instance's key must have signed one, and what it then says.
//!
//! JSON Web Tokens (RFC 7519). The key decides the algorithm, never the token. A token's `kid` or
//! `iss` names an instance only if it is a key id that GB6 made; else the host name or the listener
//! names it, and the token must verify with one of that instance's keys.

mod backend;
mod claims;
mod grant;
mod issue;
pub(crate) mod jwks;
mod keys;
mod provider;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_edge_session::{Claims, SubscriptionClaims, TokenError, TokenRef};
use serde::Deserialize;

pub(crate) use backend::{claims_of_backend, object};
pub(crate) use claims::TOKEN_ID_BYTES_MAX;
pub use issue::{IssueError, SigningKey, TokenRequest, issue_token, sign_claims};
pub use jwks::KeySetTiming;
pub(crate) use keys::{Fetched, KeyTable, VerifyingKey};
pub use provider::install_crypto;

use keys::InstanceKeys;

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
    /// The key that it names may be among those that have yet to be fetched.
    KeyNotFetched,
    /// It names another algorithm than its key's.
    Algorithm,
    /// No key that is meant by it made its signature.
    Signature,
    /// Its signature is good and its claims are not those of a token that is valid now.
    Claims,
    /// Its signature is good, and it is meant for somebody else.
    Audience,
    /// Its signature is good, and somebody else issued it.
    Issuer,
    /// It was valid until it was taken back, or its user was.
    Revoked,
}

impl Refusal {
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Expired => "expired",
            Refusal::Malformed => "malformed",
            Refusal::UnknownKey => "unknown_key",
            Refusal::KeyNotFetched => "key_not_fetched",
            Refusal::Algorithm => "algorithm",
            Refusal::Signature => "signature",
            Refusal::Claims => "claims",
            Refusal::Audience => "audience",
            Refusal::Issuer => "issuer",
            Refusal::Revoked => "revoked",
        }
    }
}

impl From<Refusal> for TokenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Expired => TokenError::Expired,
            Refusal::KeyNotFetched => TokenError::Unavailable,
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
    /// Extensions that must be understood (RFC 7515 section 4.1.11): there are none here.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: Option<serde_json::Value>,
}

/// Verifies a connection token at `unix_ms` and reads its claims. `listener` is the instance that
/// the host name or the listener names: used where the token itself names none.
///
/// # Errors
/// Why it is refused, as far as that can be told.
pub(crate) fn verify_token(
    keys: &KeyTable,
    listener: &InstanceId,
    token: &str,
    unix_ms: i64,
) -> Result<(Claims, TokenRef), Refusal> {
    let signed = Signed::verify(keys, listener, token, Keys::OfAny)?;
    let raw = signed.claims()?;
    let token = raw.token(token)?;
    let claims = raw.connection(signed.instance.clone(), signed.keys, unix_ms)?;
    Ok((claims, token))
}

/// Verifies a subscription token at `unix_ms`: one that allows one user one channel. `instance` is
/// that of the connection, the only one whose keys count.
///
/// # Errors
/// Why it is refused, as far as that can be told.
pub(crate) fn verify_subscription_token(
    keys: &KeyTable,
    instance: &InstanceId,
    token: &str,
    unix_ms: i64,
) -> Result<(SubscriptionClaims, TokenRef), Refusal> {
    // A key of another instance says nothing about this one's channels.
    let signed = Signed::verify(keys, instance, token, Keys::OfListener)?;
    let raw = signed.claims()?;
    let token = raw.token(token)?;
    let claims = raw.subscription(signed.instance.clone(), signed.keys, &token, unix_ms)?;
    Ok((claims, token))
}

/// Whose keys count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Those of the instance that a key id in the token names, and the listener's.
    OfAny,
    /// The listener's alone.
    OfListener,
}

/// A token whose signature is good.
struct Signed<'a> {
    instance: &'a InstanceId,
    keys: &'a InstanceKeys,
    payload: Vec<u8>,
}

impl<'a> Signed<'a> {
    fn verify(
        table: &'a KeyTable,
        listener: &InstanceId,
        token: &str,
        whose: Keys,
    ) -> Result<Self, Refusal> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        install_crypto();
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
        let header: Header = part(header).ok_or(Refusal::Malformed)?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| Refusal::Malformed)?;
        let issuer: Issuer = object(&payload).ok_or(Refusal::Malformed)?;
        let algorithm = header.alg.as_deref().and_then(KeyAlgorithm::parse);
        let algorithm = algorithm.ok_or(Refusal::Algorithm)?;
        let signs = |meant: &Meant<'_>| meant.verify(algorithm, message, signature);
        let kid = header.kid.as_deref();
        let named = Meant::named(table, kid, &issuer);
        let named = named.filter(|m| whose == Keys::OfAny || m.instance == listener);
        let by_listener = || {
            let meant = Meant::by_listener(table, listener, kid)?;
            signs(&meant)?;
            Ok(meant)
        };
        let meant = match named {
            None => by_listener(),
            Some(meant) => match signs(&meant) {
                Ok(()) => Ok(meant),
                Err(refusal) if meant.instance == listener => Err(refusal),
                // What another instance calls its keys is nobody's business here: the token fares
                // like one with an id that no key has.
                Err(refusal) => by_listener().map_err(|otherwise| match otherwise {
                    Refusal::KeyNotFetched => otherwise,
                    _ => refusal,
                }),
            },
        }?;
        Ok(Self {
            instance: meant.instance,
            keys: meant.keys,
            payload,
        })
    }

    fn claims(&self) -> Result<claims::Raw, Refusal> {
        object(&self.payload).ok_or(Refusal::Claims)
    }
}

/// Which keys may have signed a token.
struct Meant<'a> {
    instance: &'a InstanceId,
    keys: &'a InstanceKeys,
    candidates: Vec<&'a VerifyingKey>,
    /// Why the token is refused if none of them did.
    otherwise: Refusal,
}

impl<'a> Meant<'a> {
    /// The key that the token itself names, with its instance.
    fn named(table: &'a KeyTable, kid: Option<&str>, issuer: &Issuer) -> Option<Self> {
        let iss = match &issuer.iss {
            Some(serde_json::Value::String(iss)) => Some(iss.as_str()),
            _ => None,
        };
        let named = [kid, iss]
            .into_iter()
            .flatten()
            .find_map(|id| table.made_here(id));
        named.map(|(instance, keys, key)| Self {
            instance,
            keys,
            candidates: vec![key],
            otherwise: Refusal::Signature,
        })
    }

    /// Keys of the instance that the listener or the host name names.
    fn by_listener(
        table: &'a KeyTable,
        listener: &InstanceId,
        kid: Option<&str>,
    ) -> Result<Self, Refusal> {
        let (instance, keys) = table.of(listener.as_str()).ok_or(Refusal::UnknownKey)?;
        let all = || keys.stored.iter().chain(keys.fetched.keys());
        let chosen: Vec<_> = all()
            .filter(|k| kid.is_some() && k.id.as_deref() == kid)
            .collect();
        let otherwise = match (&keys.fetched, kid) {
            _ if !chosen.is_empty() => Refusal::Signature,
            (Fetched::Missing, _) | (Fetched::Keys(_), Some(_)) => Refusal::KeyNotFetched,
            (Fetched::None, Some(_)) => Refusal::UnknownKey,
            (Fetched::None | Fetched::Keys(_), None) => Refusal::Signature,
        };
        Ok(Self {
            instance,
            keys,
            candidates: match chosen.is_empty() {
                // Key sets name their keys, so that a token which names another means none of them.
                true => all()
                    .filter(|k| kid.is_none() || k.id.is_none() || k.is_stored())
                    .collect(),
                false => chosen,
            },
            otherwise,
        })
    }

    /// Whether one of the keys made this signature.
    fn verify(
        &self,
        algorithm: KeyAlgorithm,
        message: &str,
        signature: &str,
    ) -> Result<(), Refusal> {
        let fitting = self.candidates.iter().filter(|k| k.fits(algorithm));
        let mut fitting = fitting.peekable();
        if fitting.peek().is_none() && self.otherwise == Refusal::Signature {
            return Err(Refusal::Algorithm);
        }
        match fitting.any(|key| key.verifies(algorithm, message, signature)) {
            true => Ok(()),
            false => Err(self.otherwise),
        }
    }
}

/// A token that is to be revoked. Nobody has verified it: whoever revokes it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NamedToken {
    /// The key by which it is revoked.
    pub(crate) key: [u8; 16],
    /// When it has ended, and what it was let into too, Unix ms; `None`: never, or only its `jti` is
    /// known.
    pub(crate) ends_unix_ms: Option<i64>,
}

/// The token that is named by its `jti` or by its text; `None`: it is neither.
pub(crate) fn named_token(uid: &str) -> Option<NamedToken> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        jti: Option<String>,
        #[serde(default)]
        exp: Option<serde_json::Value>,
        #[serde(default)]
        expire_at: Option<serde_json::Value>,
    }
    impl Named {
        fn ends_unix_ms(&self) -> Option<i64> {
            let exp = self.exp.as_ref().and_then(|exp| exp.as_f64());
            let exp = exp.and_then(|exp| claims::millis(exp).ok());
            // What it lets into ends then in place of `exp`.
            match self.expire_at.as_ref().and_then(|at| at.as_i64()) {
                None => exp,
                Some(0) => None,
                Some(at) => exp.max(Some(at.saturating_mul(1000))),
            }
        }
    }
    let mut parts = uid.split('.');
    let token = (parts.next(), parts.next(), parts.next(), parts.next());
    if let (Some(header), Some(payload), Some(_), None) = token
        && part::<Header>(header).is_some()
        && let Some(named) = part::<Named>(payload)
    {
        let ends_unix_ms = named.ends_unix_ms();
        let key = match named.jti {
            Some(jti) if !jti.is_empty() => claims::id_of_jti(&jti),
            _ => claims::id_of_text(uid),
        };
        return Some(NamedToken { key, ends_unix_ms });
    }
    (1..=TOKEN_ID_BYTES_MAX)
        .contains(&uid.len())
        .then(|| NamedToken {
            key: claims::id_of_jti(uid),
            ends_unix_ms: None,
        })
}

fn part<T: for<'de> Deserialize<'de>>(encoded: &str) -> Option<T> {
    object(&URL_SAFE_NO_PAD.decode(encoded).ok()?)
}

#[cfg(test)]
mod algorithm_tests;
#[cfg(test)]
mod claims_tests;
#[cfg(test)]
mod tests;
