//! Public keys that verify tokens, as people hand them over: PEM (`PUBLIC KEY`, RFC 5280 section
//! 4.1; `RSA PUBLIC KEY`, RFC 8017) or a JSON Web Key (RFC 7517). Private and symmetric keys, weak
//! ones, and those of other curves are refused by name.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::snapshot::KeyAlgorithm;

/// Longest text of one key in bytes: RSA with 8,192 bits needs about 1,500.
pub const PUBLIC_KEY_BYTES_MAX: usize = 16 * 1024;
/// Smallest RSA modulus in bits (RFC 7518 section 3.3).
pub const RSA_BITS_MIN: usize = 2048;
/// Largest RSA modulus in bits: each verification costs with its square.
pub const RSA_BITS_MAX: usize = 8192;

/// A public key, in the form that signatures are verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublicKey {
    /// RSA: modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// A point on P-256, uncompressed (SEC 1 section 2.3.3): 65 bytes.
    P256(Vec<u8>),
    /// A point on P-384, uncompressed: 97 bytes.
    P384(Vec<u8>),
    /// Ed25519: 32 bytes.
    Ed25519(Vec<u8>),
}

/// Why a text is no public key that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// It is no PEM and no JSON, or too long.
    #[error("it is neither a PEM block `PUBLIC KEY` nor a JSON Web Key")]
    NoKey,
    /// It is PEM or JSON, and what is in it is not a key.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Whoever reads it could sign.
    #[error("it is a private key: give the public one, as of `openssl pkey -pubout`")]
    Private,
    /// A shared secret, which everybody who fetches it could sign with.
    #[error("it is a symmetric key")]
    Symmetric,
    /// An RSA modulus outside of what is safe or bearable.
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this one has {0}")]
    RsaBits(usize),
    /// A kind of key, or an algorithm, that is not supported.
    #[error("{0} is not supported: use RSA, P-256, P-384 or Ed25519")]
    Unsupported(String),
    /// Its `use`, `key_ops` or `alg` say that it verifies no signatures, or not of this kind.
    #[error("its `{0}` says that it is not for verifying such signatures")]
    Use(&'static str),
}

/// A JSON Web Key that verifies signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyingJwk {
    /// Its `kid`.
    pub id: Option<String>,
    /// The algorithm that it names; `None`: any that fits the key.
    pub algorithm: Option<KeyAlgorithm>,
    /// The key.
    pub key: PublicKey,
}

/// The members of a JSON Web Key that matter. Unknown ones are passed over.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    /// The private part.
    #[serde(default)]
    d: Option<serde::de::IgnoredAny>,
}

impl VerifyingJwk {
    /// Reads one JSON Web Key.
    ///
    /// # Errors
    /// Why it can not be used.
    pub fn parse(json: &str) -> Result<Self, PublicKeyError> {
        if json.len() > PUBLIC_KEY_BYTES_MAX {
            return Err(PublicKeyError::NoKey);
        }
        let jwk: Jwk =
            serde_json::from_str(json).map_err(|_| PublicKeyError::Damaged("no JSON Web Key"))?;
        if jwk.kty == "oct" {
            return Err(PublicKeyError::Symmetric);
        }
        if jwk.d.is_some() {
            return Err(PublicKeyError::Private);
        }
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err(PublicKeyError::Use("use"));
        }
        let ops = jwk.key_ops.as_deref();
        if ops.is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err(PublicKeyError::Use("key_ops"));
        }
        let part = |part: &Option<String>| {
            let text = part
                .as_deref()
                .ok_or(PublicKeyError::Damaged("a part is missing"))?;
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| PublicKeyError::Damaged("a part is no base64url"))
        };
        let point = |bytes: usize| {
            let (x, y) = (part(&jwk.x)?, part(&jwk.y)?);
            if x.len() != bytes || y.len() != bytes {
                return Err(PublicKeyError::Damaged("a coordinate has another length"));
            }
            Ok([&[4], x.as_slice(), y.as_slice()].concat())
        };
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => PublicKey::rsa(&part(&jwk.n)?, &part(&jwk.e)?)?,
            ("EC", Some("P-256")) => PublicKey::P256(point(32)?),
            ("EC", Some("P-384")) => PublicKey::P384(point(48)?),
            ("OKP", Some("Ed25519")) => match part(&jwk.x)? {
                x if x.len() == 32 => PublicKey::Ed25519(x),
                _ => return Err(PublicKeyError::Damaged("a key has another length")),
            },
            (kty, crv) => {
                let name = format!("{} {}", short(kty), short(crv.unwrap_or("")));
                return Err(PublicKeyError::Unsupported(name.trim().to_owned()));
            }
        };
        let algorithm = match jwk.alg.as_deref() {
            None => None,
            Some(name) => match KeyAlgorithm::parse(name) {
                Some(algorithm) if key.algorithms().contains(&algorithm) => Some(algorithm),
                Some(_) => return Err(PublicKeyError::Use("alg")),
                None => return Err(PublicKeyError::Unsupported(short(name).to_owned())),
            },
        };
        Ok(Self {
            id: jwk.kid,
            algorithm,
            key,
        })
    }
}

/// The beginning of a foreign text: enough to recognise it by.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(16).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

impl PublicKey {
    /// Reads a key from PEM or from a JSON Web Key.
    ///
    /// # Errors
    /// Why it can not be used.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        let text = text.trim();
        if text.len() > PUBLIC_KEY_BYTES_MAX {
            return Err(PublicKeyError::NoKey);
        }
        if text.starts_with('{') {
            return Ok(VerifyingJwk::parse(text)?.key);
        }
        let rest = text
            .strip_prefix("-----BEGIN ")
            .ok_or(PublicKeyError::NoKey)?;
        let (label, rest) = rest.split_once("-----").ok_or(PublicKeyError::NoKey)?;
        if label.ends_with("PRIVATE KEY") {
            return Err(PublicKeyError::Private);
        }
        let body = rest
            .strip_suffix("-----")
            .and_then(|r| r.strip_suffix(label))
            .and_then(|r| r.strip_suffix("-----END "))
            .ok_or(PublicKeyError::Damaged("the PEM block has no end"))?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD
            .decode(body)
            .map_err(|_| PublicKeyError::Damaged("the PEM block is no base64"))?;
        match label {
            "PUBLIC KEY" => Self::from_spki(&der),
            "RSA PUBLIC KEY" => Self::from_pkcs1(&der),
            other => Err(PublicKeyError::Unsupported(format!(
                "PEM `{}`",
                short(other)
            ))),
        }
    }

    /// The algorithms whose signatures it verifies; the first is the usual one.
    pub fn algorithms(&self) -> &'static [KeyAlgorithm] {
        use KeyAlgorithm::*;
        match self {
            PublicKey::Rsa { .. } => &[RS256, RS384, RS512],
            PublicKey::P256(_) => &[ES256],
            PublicKey::P384(_) => &[ES384],
            PublicKey::Ed25519(_) => &[EdDSA],
        }
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, PublicKeyError> {
        let (n, e) = (unsigned(n), unsigned(e));
        let bits = n
            .first()
            .map_or(0, |top| n.len() * 8 - top.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(PublicKeyError::RsaBits(bits));
        }
        // Larger exponents only cost; even ones and 1 are none.
        let odd = |bytes: &[u8]| bytes.last().is_some_and(|last| last & 1 == 1);
        if !odd(n) || !odd(e) || e == [1] || e.len() > 4 {
            return Err(PublicKeyError::Damaged("no RSA modulus or exponent"));
        }
        Ok(PublicKey::Rsa {
            n: n.to_vec(),
            e: e.to_vec(),
        })
    }

    /// RSAPublicKey (RFC 8017 appendix A.1.1).
    fn from_pkcs1(der: &[u8]) -> Result<Self, PublicKeyError> {
        const DAMAGED: PublicKeyError = PublicKeyError::Damaged("no RSAPublicKey");
        let (inner, rest) = tlv(SEQUENCE, der).ok_or(DAMAGED)?;
        let (n, inner) = tlv(INTEGER, inner).ok_or(DAMAGED)?;
        let (e, inner) = tlv(INTEGER, inner).ok_or(DAMAGED)?;
        let negative = |n: &[u8]| n.first().is_none_or(|top| top & 0x80 != 0);
        if !rest.is_empty() || !inner.is_empty() || negative(n) || negative(e) {
            return Err(DAMAGED);
        }
        Self::rsa(n, e)
    }

    /// SubjectPublicKeyInfo (RFC 5280 section 4.1).
    fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        const DAMAGED: PublicKeyError = PublicKeyError::Damaged("no SubjectPublicKeyInfo");
        let (inner, rest) = tlv(SEQUENCE, der).ok_or(DAMAGED)?;
        let (algorithm, inner) = tlv(SEQUENCE, inner).ok_or(DAMAGED)?;
        let (bits, inner) = tlv(BIT_STRING, inner).ok_or(DAMAGED)?;
        let (oid, parameters) = tlv(OID, algorithm).ok_or(DAMAGED)?;
        // The first byte says how many bits of the last are not used.
        let Some((0, key)) = bits.split_first() else {
            return Err(DAMAGED);
        };
        if !rest.is_empty() || !inner.is_empty() {
            return Err(DAMAGED);
        }
        let unsupported = |name: &str| Err(PublicKeyError::Unsupported(name.to_owned()));
        match oid {
            RSA_ENCRYPTION => Self::from_pkcs1(key),
            ED25519 if key.len() == 32 => Ok(PublicKey::Ed25519(key.to_vec())),
            EC_PUBLIC_KEY => match tlv(OID, parameters) {
                Some((P256, _)) if is_point(key, 32) => Ok(PublicKey::P256(key.to_vec())),
                Some((P384, _)) if is_point(key, 48) => Ok(PublicKey::P384(key.to_vec())),
                Some((P256 | P384, _)) => Err(PublicKeyError::Damaged("no uncompressed point")),
                _ => unsupported("this curve"),
            },
            ED25519 => Err(DAMAGED),
            _ => unsupported("this kind of key"),
        }
    }
}

fn is_point(key: &[u8], coordinate: usize) -> bool {
    key.len() == 1 + 2 * coordinate && key[0] == 4
}

/// A big-endian number without leading zeros.
fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

// Tags of DER (X.690 section 8), and the object identifiers of keys.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The content of the value at the beginning of `der`, which must have this tag, and what follows.
fn tlv(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (
            usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])),
            rest.get(2..)?,
        ),
        // Nothing here is longer than 64 KiB.
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Any text as a key, and as a JSON Web Key: must return, and what it returns must be usable.
#[doc(hidden)]
pub fn fuzz_public_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for key in [
        PublicKey::parse(text).ok(),
        VerifyingJwk::parse(text).ok().map(|jwk| jwk.key),
    ]
    .into_iter()
    .flatten()
    {
        assert!(!key.algorithms().is_empty());
        match key {
            PublicKey::Rsa { n, e } => {
                assert!((RSA_BITS_MIN / 8..=RSA_BITS_MAX / 8).contains(&n.len()));
                assert!((1..=4).contains(&e.len()));
            }
            PublicKey::P256(point) => assert!(is_point(&point, 32)),
            PublicKey::P384(point) => assert!(is_point(&point, 48)),
            PublicKey::Ed25519(key) => assert_eq!(key.len(), 32),
        }
    }
}

#[cfg(test)]
#[path = "public_key_tests.rs"]
mod tests;
