//! Secrets sealed where they are stored, so that a dump of the database shows nothing that can be used.
//!
//! AES-256-GCM (NIST SP 800-38D) under a key that is given at start and is not in the database. What is
//! sealed is bound to its customer, instance and key id: moved to another row, it does not open. Layout:
//! version (1 byte), fingerprint of the sealing key (4), nonce (12), ciphertext with its tag.

use std::fmt;

use gb6_core_model::InstanceId;
use gb6_core_model::hash::digest256;
use gb6_core_ports::directory::{OrgId, Secret};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::fault::Fault;

const VERSION: u8 = 1;
const FINGERPRINT: usize = 4;
const HEAD: usize = 1 + FINGERPRINT + NONCE_LEN;

/// The keys that secrets are sealed with. `Debug` shows none of them.
pub struct Sealer {
    /// The first seals; all open.
    keys: Vec<([u8; FINGERPRINT], LessSafeKey)>,
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

    /// Seals a key's secret.
    pub(super) fn seal(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        id: &str,
        secret: &Secret,
    ) -> Result<Vec<u8>, Fault> {
        let failed = || Fault::Refused("a secret can not be sealed".into());
        let (fingerprint, key) = self.keys.first().ok_or_else(failed)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| failed())?;
        let mut body = secret.0.clone();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_used, bound_to(root, instance, id), &mut body)
            .map_err(|_| failed())?;
        Ok([&[VERSION][..], fingerprint, &nonce, &body].concat())
    }

    /// Opens one.
    pub(super) fn open(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        id: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let damaged = || Fault::Damaged(format!("the secret of key {instance}/{id} is damaged"));
        let (head, body) = sealed.split_at_checked(HEAD).ok_or_else(damaged)?;
        if head[0] != VERSION {
            return Err(damaged());
        }
        let (fingerprint, nonce) = head[1..].split_at(FINGERPRINT);
        let key = self.keys.iter().find(|(f, _)| f == fingerprint);
        let (_, key) = key.ok_or_else(|| {
            Fault::Refused(format!(
                "the secret of key {instance}/{id} is sealed with a key that was not given: \
                 give the sealing key that was used before as an earlier one"
            ))
        })?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let mut body = body.to_vec();
        let opened = key.open_in_place(nonce, bound_to(root, instance, id), &mut body);
        let length = opened.map_err(|_| damaged())?.len();
        body.truncate(length);
        Ok(body)
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

fn bound_to(root: &OrgId, instance: &InstanceId, id: &str) -> Aad<[u8; 32]> {
    Aad::from(digest256(&[
        b"gb6.seal.key",
        root.as_str().as_bytes(),
        instance.as_str().as_bytes(),
        id.as_bytes(),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_where_it_belongs_alone() {
        let root = OrgId::parse("org_01J00000000000000000000001").unwrap();
        let other = OrgId::parse("org_01J00000000000000000000002").unwrap();
        let (demo, acme) = (InstanceId::from("demo"), InstanceId::from("acme"));
        let (old, new) = ([1; 32], [2; 32]);
        let before = Sealer::new(&old, &[]);
        let secret = Secret(b"hush".to_vec());
        let sealed = before.seal(&root, &demo, "k", &secret).unwrap();
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        assert_ne!(sealed, before.seal(&root, &demo, "k", &secret).unwrap());
        assert_eq!(before.open(&root, &demo, "k", &sealed).unwrap(), b"hush");
        let rotated = Sealer::new(&new, &[old]);
        assert_eq!(rotated.open(&root, &demo, "k", &sealed).unwrap(), b"hush");
        for (root, instance, id) in [
            (&other, &demo, "k"),
            (&root, &acme, "k"),
            (&root, &demo, "l"),
        ] {
            let opened = before.open(root, instance, id, &sealed);
            assert!(matches!(opened, Err(Fault::Damaged(_))), "{opened:?}");
        }
        let forgotten = Sealer::new(&new, &[]).open(&root, &demo, "k", &sealed);
        assert!(matches!(forgotten, Err(Fault::Refused(_))), "{forgotten:?}");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(before.open(&root, &demo, "k", &changed).is_err(), "{at}");
            assert!(
                before.open(&root, &demo, "k", &sealed[..at]).is_err(),
                "{at}"
            );
        }
    }
}
