//! A JSON Web Key Set (RFC 7517 section 5) as a stranger sends it: read under bounds, key by key,
//! so that one bad key spoils none of the others.

use std::collections::BTreeSet;
use std::fmt;

use gb6_core_model::VerifyingJwk;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::auth::keys::VerifyingKey;

/// Largest set in bytes.
pub(crate) const SET_BYTES_MAX: usize = 256 * 1024;
/// Keys in one set at most: a token that names none is tried with each that fits.
const KEYS_MAX: usize = 64;
/// Longest key id in bytes.
const KEY_ID_BYTES_MAX: usize = 128;

/// Why a set can not be used as a whole.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SetError {
    /// It is too large.
    #[error("it has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no key set, or has too many keys.
    #[error("it is no JSON Web Key Set of at most {KEYS_MAX} keys: {0}")]
    NoSet(String),
    /// None of its keys can be used.
    #[error("none of its {0} keys can be used; the first: {1}")]
    NoKey(usize, String),
}

/// The keys of a set that verify signatures.
pub(crate) struct KeySet {
    pub(crate) keys: Vec<VerifyingKey>,
    /// Why others were left out, by their place.
    pub(crate) refused: Vec<(usize, String)>,
}

#[derive(Deserialize)]
struct Raw {
    keys: Few,
}

/// The texts of at most [`KEYS_MAX`] keys.
struct Few(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Few {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Few;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of keys")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut keys: A) -> Result<Few, A::Error> {
                let mut few = Vec::new();
                while let Some(key) = keys.next_element()? {
                    if few.len() == KEYS_MAX {
                        return Err(A::Error::custom("there are more"));
                    }
                    few.push(key);
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(Keys)
    }
}

/// Reads a key set.
///
/// # Errors
/// None of it can be used.
pub(crate) fn parse_key_set(body: &[u8]) -> Result<KeySet, SetError> {
    if body.len() > SET_BYTES_MAX {
        return Err(SetError::TooLarge);
    }
    let raw: Raw = serde_json::from_slice(body)
        .map_err(|error| SetError::NoSet(error.to_string().chars().take(200).collect()))?;
    let mut ids = BTreeSet::new();
    let mut set = KeySet {
        keys: Vec::new(),
        refused: Vec::new(),
    };
    let count = raw.keys.0.len();
    for (place, json) in raw.keys.0.into_iter().enumerate() {
        match key(json.get(), &mut ids) {
            Ok(key) => set.keys.push(key),
            Err(why) => set.refused.push((place, why)),
        }
    }
    if set.keys.is_empty() {
        let first = set.refused.first().map_or("there is none", |(_, why)| why);
        return Err(SetError::NoKey(count, first.to_owned()));
    }
    Ok(set)
}

/// One key; `ids` are those of the keys before it.
fn key(json: &str, ids: &mut BTreeSet<String>) -> Result<VerifyingKey, String> {
    let jwk = VerifyingJwk::parse(json).map_err(|why| why.to_string())?;
    if let Some(id) = &jwk.id {
        if id.is_empty() || id.len() > KEY_ID_BYTES_MAX {
            return Err(format!("its kid has not 1 to {KEY_ID_BYTES_MAX} bytes"));
        }
        if !ids.insert(id.clone()) {
            return Err("a key before it has the same kid".to_owned());
        }
    }
    let algorithms = match jwk.algorithm {
        Some(algorithm) => vec![algorithm],
        None => jwk.key.algorithms().to_vec(),
    };
    Ok(VerifyingKey::fetched(jwk.id, algorithms, &jwk.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = r#""kty":"EC","crv":"P-256","x":"4IpR5sVrLFUtz2v-wAMnLdWZK0Ex2ee-80BhBE-BYqY","y":"dR0XNbuKvKnJpCppB4yd9JaCF1-lRWfL5unNmWicP74""#;

    fn set(keys: &[String]) -> Result<KeySet, SetError> {
        parse_key_set(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes())
    }

    fn p256(more: &str) -> String {
        format!("{{{P256}{more}}}")
    }

    #[test]
    fn bad_keys_are_left_out_one_by_one() {
        let rsa_1024 = format!(
            r#"{{"kty":"RSA","kid":"weak","e":"AQAB","n":"{}"}}"#,
            "_".repeat(172)
        );
        let keys = [
            p256(r#","kid":"a""#),
            p256(r#","kid":"a""#),
            p256(r#","kid":"enc","use":"enc""#),
            p256(r#","kid":"ops","key_ops":["encrypt"]"#),
            p256(r#","kid":"alg","alg":"RS256""#),
            p256(r#","kid":"private","d":"AA""#),
            p256(r#","kid":"b","x5c":["…"]"#),
            p256(&format!(r#","kid":"{}""#, "k".repeat(129))),
            p256(r#","kid":"""#),
            p256(r#","kid":7"#),
            r#"{"kty":"oct","kid":"shared","k":"c2VjcmV0"}"#.to_owned(),
            rsa_1024,
            "7".to_owned(),
            format!("{{\"kty\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)),
            p256(""),
        ];
        let set = set(&keys).unwrap();
        let ids: Vec<_> = set.keys.iter().map(|k| k.id.as_deref()).collect();
        assert_eq!(ids, [Some("a"), Some("b"), None]);
        assert_eq!(set.refused.len(), keys.len() - 3);
        let why = |place: usize| {
            let found = set.refused.iter().find(|(at, _)| *at == place);
            found.unwrap().1.as_str()
        };
        assert!(why(1).contains("same kid"));
        assert!(why(2).contains("`use`"));
        assert!(why(3).contains("`key_ops`"));
        assert!(why(4).contains("`alg`"));
        assert!(why(5).contains("private"));
        assert!(why(10).contains("symmetric"));
        assert!(why(11).contains("has 1032"), "{}", why(11));
    }

    #[test]
    fn sets_that_are_none() {
        let refused = |body: &[u8]| parse_key_set(body).err().unwrap();
        assert_eq!(refused(&vec![b' '; SET_BYTES_MAX + 1]), SetError::TooLarge);
        for body in [
            "",
            "[]",
            "{}",
            "{\"keys\":7}",
            "<html>",
            "{\"keys\":{}}",
            "{\"keys\":[1",
        ] {
            assert!(
                matches!(refused(body.as_bytes()), SetError::NoSet(_)),
                "{body}"
            );
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse_key_set(deep.as_bytes()).is_err());
        let deep = format!("{{\"keys\":{deep}}}");
        assert!(parse_key_set(deep.as_bytes()).is_err());
        assert!(matches!(refused(b"{\"keys\":[]}"), SetError::NoKey(0, _)));
        let many: Vec<_> = (0..=KEYS_MAX)
            .map(|n| p256(&format!(r#","kid":"{n}""#)))
            .collect();
        assert!(set(&many[1..]).is_ok());
        assert!(matches!(set(&many).err(), Some(SetError::NoSet(_))));
    }
}
