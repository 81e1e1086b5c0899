//! Secrets sealed where an engine keeps them, so that whoever reads the engine sees nothing that can be
//! used.
//!
//! AES-256-GCM (NIST SP 800-38D) under a key that is given at start and is in no engine. What is sealed is
//! bound to its place: moved to another one, it does not open. Layout: version (1 byte), fingerprint of the
//! sealing key (4), nonce (12), ciphertext with its tag. The fingerprint tells which of several keys opens
//! it, so that keys can be changed one after the other.

use std::fmt;
use std::sync::Arc;

use gb6_core_model::hash::digest256;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

const VERSION: u8 = 1;
const FINGERPRINT: usize = 4;
const HEAD: usize = 1 + FINGERPRINT + NONCE_LEN;
/// Keys of one sealer: the one that seals and those before it.
pub const SEALING_KEYS_MAX: usize = 16;

/// Why something can not be sealed or opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The system gives no random numbers, or there is no key.
    #[error("it can not be sealed: the system gives no random numbers")]
    Failed,
    /// It is sealed with a key that the sealer does not have.
    #[error("it is sealed with a key that was not given")]
    UnknownKey,
    /// It is not what was sealed for this place.
    #[error("it is damaged, or belongs elsewhere")]
    Damaged,
}

/// The keys that secrets are sealed with. `Debug` shows none of them; cloning shares them.
#[derive(Clone)]
pub struct Sealer {
    /// The first seals; all open.
    keys: Arc<[([u8; FINGERPRINT], LessSafeKey)]>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// Seals with `key`, and opens what was sealed with it or with one of `earlier`: what is written
    /// again is sealed anew.
    pub fn new(key: &[u8; 32], earlier: &[[u8; 32]]) -> Self {
        let keys = std::iter::once(key).chain(earlier);
        Self {
            keys: keys.filter_map(keyed).collect(),
        }
    }

    /// Reads the text of a file of keys: each 64 hexadecimal digits on a line of its own, the one that seals
    /// first, earlier ones behind it.
    ///
    /// # Errors
    /// What is wrong with it, without what stands there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            if keys.len() == SEALING_KEYS_MAX {
                return Err(format!("more than {SEALING_KEYS_MAX} keys"));
            }
            keys.push(from_hex(line).ok_or_else(|| {
                let line = n + 1;
                format!("line {line} is no key: it must be 64 hexadecimal digits")
            })?);
        }
        match keys.split_first() {
            Some((key, earlier)) => Ok(Self::new(key, earlier)),
            None => Err("it is empty: it must be 64 hexadecimal digits".to_owned()),
        }
    }

    /// Seals `secret` for a place, which is named by its parts.
    ///
    /// # Errors
    /// `Failed`.
    pub fn seal(&self, place: &[&[u8]], secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let (fingerprint, key) = self.keys.first().ok_or(SealError::Failed)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| SealError::Failed)?;
        let mut body = secret.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_used, bound_to(place), &mut body)
            .map_err(|_| SealError::Failed)?;
        Ok([&[VERSION][..], fingerprint, &nonce, &body].concat())
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// `UnknownKey`; `Damaged`.
    pub fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (head, body) = sealed.split_at_checked(HEAD).ok_or(SealError::Damaged)?;
        if head[0] != VERSION {
            return Err(SealError::Damaged);
        }
        let (fingerprint, nonce) = head[1..].split_at(FINGERPRINT);
        let key = self.keys.iter().find(|(f, _)| f == fingerprint);
        let (_, key) = key.ok_or(SealError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
        let mut body = body.to_vec();
        let opened = key.open_in_place(nonce, bound_to(place), &mut body);
        let length = opened.map_err(|_| SealError::Damaged)?.len();
        body.truncate(length);
        Ok(body)
    }

    /// Whether something is sealed with the key that seals now, and not with an earlier one.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        let fingerprint = sealed.get(1..=FINGERPRINT);
        let first = self.keys.first();
        first.is_some_and(|(first, _)| fingerprint == Some(&first[..]))
    }
}

fn keyed(key: &[u8; 32]) -> Option<([u8; FINGERPRINT], LessSafeKey)> {
    let digest = digest256(&[b"gb6.seal.fingerprint", key]);
    let mut fingerprint = [0; FINGERPRINT];
    fingerprint.copy_from_slice(&digest[..FINGERPRINT]);
    // The length is right, so that it is never refused.
    let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
    Some((fingerprint, LessSafeKey::new(key)))
}

fn bound_to(place: &[&[u8]]) -> Aad<[u8; 32]> {
    Aad::from(digest256(place))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; 32];
    for (n, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_where_it_belongs_alone() {
        let (old, new) = ([1; 32], [2; 32]);
        let before = Sealer::new(&old, &[]);
        let here: &[&[u8]] = &[b"a", b"b"];
        let sealed = before.seal(here, b"hush").unwrap();
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        assert_ne!(sealed, before.seal(here, b"hush").unwrap());
        assert_eq!(before.open(here, &sealed).unwrap(), b"hush");
        for elsewhere in [&[&b"ab"[..]][..], &[b"a", b"c"], &[b"b", b"a"]] {
            assert_eq!(before.open(elsewhere, &sealed), Err(SealError::Damaged));
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(before.open(here, &changed).is_err(), "{at}");
            assert!(before.open(here, &sealed[..at]).is_err(), "{at}");
        }
        // Another key, with and without the earlier one.
        let rotated = Sealer::new(&new, &[old]);
        assert_eq!(rotated.open(here, &sealed).unwrap(), b"hush");
        assert!(before.is_current(&sealed) && !rotated.is_current(&sealed));
        assert!(rotated.is_current(&rotated.seal(here, b"hush").unwrap()));
        let forgotten = Sealer::new(&new, &[]).open(here, &sealed);
        assert_eq!(forgotten, Err(SealError::UnknownKey));
    }

    #[test]
    fn a_file_has_the_key_that_seals_first() {
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        let sealer = Sealer::parse(&format!("{two}\n\n {one} \n")).unwrap();
        let place: &[&[u8]] = &[b"here"];
        let sealed = Sealer::new(&[2; 32], &[]).seal(place, b"x").unwrap();
        assert!(sealer.is_current(&sealed));
        let earlier = Sealer::new(&[1; 32], &[]).seal(place, b"x").unwrap();
        assert_eq!(sealer.open(place, &earlier).unwrap(), b"x");
        let many = format!("{one}\n").repeat(SEALING_KEYS_MAX + 1);
        for (text, want) in [
            ("", "it is empty"),
            ("\n\n", "it is empty"),
            (&one[1..], "line 1 is no key"),
            (&format!("{one}\n+{}", &two[1..]), "line 2 is no key"),
            (&many, "more than 16 keys"),
        ] {
            let said = Sealer::parse(text).unwrap_err();
            assert!(said.starts_with(want), "{said}");
            assert!(!said.contains("0101"), "{said}");
        }
        assert!(!format!("{sealer:?}").contains("01"));
    }

    /// Put together by hand from the description above: what lies in databases opens for ever.
    #[test]
    fn the_layout_never_changes() {
        let sealed = [
            &[VERSION][..],
            &digest256(&[b"gb6.seal.fingerprint", &[1; 32]])[..FINGERPRINT],
            &[0; NONCE_LEN],
        ]
        .concat();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
        let mut body = b"hush".to_vec();
        let aad = Aad::from(digest256(&[b"place"]));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; NONCE_LEN]), aad, &mut body)
            .unwrap();
        let sealed = [sealed, body].concat();
        let opened = Sealer::new(&[1; 32], &[]).open(&[b"place"], &sealed);
        assert_eq!(opened.unwrap(), b"hush");
    }
}
