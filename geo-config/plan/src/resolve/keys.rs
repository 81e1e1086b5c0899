//! The keys of an instance: of its tokens and of its server API, each by a table or in short, and
//! where further ones are fetched from. No key stands in a message.

use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse};
use gb6_core_model::{PublicKey, VerifyingJwk};
use toml::Spanned;

use super::address::is_jwks_url;
use super::{Resolver, SECRET_BYTES_MIN};
use crate::file::InstanceFile;
use crate::key_file::{KeyFile, PublicKeyFile};

/// Longest id of a key in bytes: it stands in every token's header.
const KEY_ID_BYTES_MAX: usize = 128;
/// Keys of tokens of one instance: a token that names none may be tried with each.
pub const CLIENT_KEYS_MAX: usize = 64;
/// Keys of the server API of one instance that are live at a time: the one in use and its successor.
pub const API_KEYS_MAX: usize = 2;
/// Longest `token_audience` or `token_issuer` in bytes.
const CLAIM_BYTES_MAX: usize = 1024;

/// Reads files that the snapshot file names.
pub(super) type SecretOf<'f> = dyn FnMut(&str) -> Result<String, String> + 'f;

impl Resolver<'_> {
    pub(super) fn keys(
        &mut self,
        at: &Spanned<String>,
        path: &str,
        instance: &InstanceFile,
        secret_of: &mut SecretOf<'_>,
    ) -> Vec<Key> {
        let name = at.get_ref();
        let mut keys = Vec::new();
        for (n, key) in instance.keys.iter().enumerate() {
            let at = format!("{path}.keys[{n}]");
            keys.extend(self.key(name, &at, key, secret_of));
        }
        self.hmac_secret(path, instance, secret_of, &mut keys);
        for (n, key) in instance.public_keys.iter().enumerate() {
            let at = format!("{path}.public_keys[{n}]");
            keys.extend(self.public_key_in_short(name, &at, n, key, secret_of));
        }
        self.api_keys_in_short(name, path, instance, secret_of, &mut keys);
        self.key_bounds(at, path, instance, &keys);
        keys
    }

    pub(super) fn key(
        &mut self,
        instance: &str,
        path: &str,
        key: &Spanned<KeyFile>,
        secret_of: &mut SecretOf<'_>,
    ) -> Option<Key> {
        let file = key.get_ref();
        self.key_id(instance, &format!("{path}.id"), &file.id);
        let id = file.id.get_ref().clone();
        let written = [
            &file.secret,
            &file.secret_file,
            &file.public_key,
            &file.public_key_file,
        ];
        if let Some(also) = written.into_iter().flatten().nth(1) {
            self.wrong(
                also,
                path,
                "a key has either `secret`, `secret_file`, `public_key` or `public_key_file`, not both",
            );
            return None;
        }
        let public = self.text(
            path,
            "public_key",
            &file.public_key,
            &file.public_key_file,
            secret_of,
        );
        if let Some((at, text)) = public? {
            if file.usage == KeyUse::Api {
                self.wrong(
                    at,
                    path,
                    "an API key is a secret: it needs `secret` or `secret_file`",
                );
                return None;
            }
            return self.public_key(path, id, at, &text, &file.algorithm);
        }
        let Some((at, text)) =
            self.text(path, "secret", &file.secret, &file.secret_file, secret_of)?
        else {
            self.wrong(
                key,
                path,
                "a key needs `secret` or `secret_file`, or `public_key` or `public_key_file`",
            );
            return None;
        };
        if file.usage == KeyUse::Api {
            if let Some(algorithm) = &file.algorithm {
                self.wrong(
                    algorithm,
                    path,
                    "an API key has no algorithm: requests carry it",
                );
            }
            return self.api_key(instance, path, id, at, text);
        }
        let algorithm = match &file.algorithm {
            None => KeyAlgorithm::HS256,
            Some(name) => self.algorithm(&format!("{path}.algorithm"), name)?,
        };
        if !algorithm.is_symmetric() {
            self.wrong(
                at,
                path,
                format!(
                    "{} verifies with a public key: `public_key` or `public_key_file`",
                    algorithm.name()
                ),
            );
            return None;
        }
        self.long_enough(path, at, &text, algorithm);
        Some(Key {
            id,
            algorithm,
            secret: text,
            ..Key::default()
        })
    }

    /// What `NAME` or `NAME_file` says, and where; the outer `None`: it can not be read.
    #[expect(
        clippy::option_option,
        reason = "there may be no such key, or one that is wrong"
    )]
    pub(super) fn text<'f>(
        &mut self,
        path: &str,
        name: &str,
        here: &'f Option<Spanned<String>>,
        file: &'f Option<Spanned<String>>,
        secret_of: &mut SecretOf<'_>,
    ) -> Option<Option<(&'f Spanned<String>, String)>> {
        if let Some(text) = here {
            return Some(Some((text, text.get_ref().clone())));
        }
        let Some(from) = file else {
            return Some(None);
        };
        match secret_of(from.get_ref()) {
            Ok(content) => Some(Some((
                from,
                content.trim_end_matches(['\r', '\n']).to_owned(),
            ))),
            Err(why) => {
                let path = format!("{path}.{name}_file");
                self.unread(from, &path, &why);
                None
            }
        }
    }

    fn key_id(&mut self, instance: &str, path: &str, written: &Spanned<String>) {
        let id = written.get_ref();
        if id.is_empty() || id.len() > KEY_ID_BYTES_MAX || !id.bytes().all(|b| b.is_ascii_graphic())
        {
            self.wrong(
                written,
                path,
                format!("a key's id has 1 to {KEY_ID_BYTES_MAX} printable ASCII characters"),
            );
        } else if let Some((owner, _)) = id.split_once('.').filter(|(owner, _)| *owner != instance)
        {
            // The part before the dot names the instance to whoever verifies a token.
            self.wrong_with(
                written,
                path,
                format!("key id `{id}` names the instance `{owner}`, but stands in `{instance}`"),
                format!("`{instance}.…`, or an id without a dot"),
            );
        }
        if !self.key_ids.insert((instance.to_owned(), id.clone())) {
            self.wrong(
                written,
                path,
                format!("there are two keys with the id `{id}`"),
            );
        }
    }

    fn algorithm(&mut self, path: &str, name: &Spanned<String>) -> Option<KeyAlgorithm> {
        let found = KeyAlgorithm::parse(name.get_ref());
        if found.is_none() {
            let known: Vec<&str> = KeyAlgorithm::ALL.iter().map(|a| a.name()).collect();
            let help = match name.get_ref().as_str() {
                "ES512" => "P-521 is not supported: use ES256, ES384 or EdDSA".to_owned(),
                "none" => "a token that nobody signed is let in nowhere".to_owned(),
                _ => format!("known here: {}", known.join(", ")),
            };
            let message = format!("unknown value `{}`", name.get_ref());
            self.wrong_with(name, path, message, help);
        }
        found
    }

    fn long_enough(
        &mut self,
        path: &str,
        at: &Spanned<String>,
        secret: &str,
        algorithm: KeyAlgorithm,
    ) {
        let needed = match algorithm {
            KeyAlgorithm::HS384 => 48,
            KeyAlgorithm::HS512 => 64,
            _ => SECRET_BYTES_MIN,
        };
        if secret.len() < needed {
            self.wrong_with(
                at,
                &format!("{path}.secret"),
                format!("the secret has {} bytes, needed are {needed}", secret.len()),
                format!("make one with: openssl rand -hex {}", needed.max(32)),
            );
        }
    }

    fn public_key(
        &mut self,
        path: &str,
        id: String,
        at: &Spanned<String>,
        text: &str,
        algorithm: &Option<Spanned<String>>,
    ) -> Option<Key> {
        let path = format!("{path}.public_key");
        let key = match PublicKey::parse(text) {
            Ok(key) => key,
            Err(why) => {
                self.wrong(at, &path, why.to_string());
                return None;
            }
        };
        let named = VerifyingJwk::parse(text).ok().and_then(|jwk| jwk.algorithm);
        let algorithm = match algorithm {
            Some(name) => {
                let asked = self.algorithm(&path, name)?;
                if !key.algorithms().contains(&asked) || named.is_some_and(|n| n != asked) {
                    let usual = named.unwrap_or(key.algorithms()[0]).name();
                    self.wrong(
                        name,
                        &path,
                        format!("this key is not for {}, but for {usual}", asked.name()),
                    );
                    return None;
                }
                asked
            }
            None => named.unwrap_or(key.algorithms()[0]),
        };
        Some(Key {
            id,
            algorithm,
            public_key: text.trim().to_owned(),
            ..Key::default()
        })
    }

    fn hmac_secret(
        &mut self,
        path: &str,
        instance: &InstanceFile,
        secret_of: &mut SecretOf<'_>,
        keys: &mut Vec<Key>,
    ) {
        let here = instance.hmac_secret.as_ref().map(|s| s.0.clone());
        if let (Some(_), Some(also)) = (&here, &instance.hmac_secret_file) {
            self.wrong(
                also,
                path,
                "either `hmac_secret` or `hmac_secret_file`, not both",
            );
            return;
        }
        let Some(Some((at, secret))) = self.text(
            path,
            "hmac_secret",
            &here,
            &instance.hmac_secret_file,
            secret_of,
        ) else {
            return;
        };
        self.long_enough(
            &format!("{path}.hmac_secret"),
            at,
            &secret,
            KeyAlgorithm::HS256,
        );
        for (id, algorithm, bytes) in [
            ("hmac", KeyAlgorithm::HS256, 0),
            ("hmac384", KeyAlgorithm::HS384, 48),
            ("hmac512", KeyAlgorithm::HS512, 64),
        ] {
            if secret.len() >= bytes {
                keys.push(Key {
                    id: id.to_owned(),
                    algorithm,
                    secret: secret.clone(),
                    ..Key::default()
                });
            }
        }
    }

    fn public_key_in_short(
        &mut self,
        instance: &str,
        path: &str,
        n: usize,
        key: &Spanned<PublicKeyFile>,
        secret_of: &mut SecretOf<'_>,
    ) -> Option<Key> {
        let file = key.get_ref();
        if let (Some(_), Some(also)) = (&file.public_key, &file.public_key_file) {
            self.wrong(
                also,
                path,
                "either `public_key` or `public_key_file`, not both",
            );
            return None;
        }
        let Some((at, text)) = self.text(
            path,
            "public_key",
            &file.public_key,
            &file.public_key_file,
            secret_of,
        )?
        else {
            self.wrong(key, path, "it needs `public_key` or `public_key_file`");
            return None;
        };
        let id = match &file.id {
            Some(id) => {
                self.key_id(instance, &format!("{path}.id"), id);
                id.get_ref().clone()
            }
            None => VerifyingJwk::parse(&text)
                .ok()
                .and_then(|jwk| jwk.id)
                .filter(|id| !id.is_empty() && id.len() <= KEY_ID_BYTES_MAX && !id.contains('.'))
                .unwrap_or_else(|| format!("public-{}", n + 1)),
        };
        self.public_key(path, id, at, &text, &file.algorithm)
    }

    /// How many keys there are, and that none is there twice.
    fn key_bounds(
        &mut self,
        at: &Spanned<String>,
        path: &str,
        instance: &InstanceFile,
        keys: &[Key],
    ) {
        let count = |usage| keys.iter().filter(|k| k.usage == usage).count();
        for (count, max, what, why) in [
            (
                count(KeyUse::Client),
                CLIENT_KEYS_MAX,
                "keys of tokens",
                "a token without a `kid` may be tried with each",
            ),
            (
                count(KeyUse::Api),
                API_KEYS_MAX,
                "keys with use = \"api\"",
                "take out the one that is not used any more",
            ),
        ] {
            if count > max {
                let message = format!("an instance has at most {max} {what}, these are {count}");
                self.wrong_with(at, &format!("{path}.keys"), message, why.into());
            }
        }
        for (n, key) in keys.iter().enumerate() {
            // Those with an id of their own are told where it stands.
            let named = instance.keys.iter().map(|k| &k.get_ref().id);
            let short = !named.clone().any(|id| *id.get_ref() == key.id);
            let twice = keys[..n].iter().any(|k| k.id == key.id);
            if twice && (short || named.filter(|id| *id.get_ref() == key.id).count() < 2) {
                let message = format!("there are two keys with the id `{}`", key.id);
                self.wrong(at, &format!("{path}.keys"), message);
            }
        }
    }

    pub(super) fn jwks_url(&mut self, path: &str, instance: &InstanceFile) -> Option<String> {
        let url = instance.jwks_url.as_ref()?;
        if !is_jwks_url(url.get_ref()) {
            self.wrong_with(
                url,
                &format!("{path}.jwks_url"),
                "keys are fetched from an https URL, or an http URL of this machine".into(),
                "as in \"https://id.example.org/.well-known/jwks.json\"".into(),
            );
        }
        Some(url.get_ref().clone())
    }

    /// Instances that fetch the same keys must tell their tokens apart by `aud`.
    pub(super) fn shared_jwks(&mut self) {
        let file = self.file;
        let all = || {
            file.instances
                .iter()
                .map(|(name, i)| (name.get_ref(), i.get_ref()))
        };
        for (name, instance) in all() {
            let Some(url) = &instance.jwks_url else {
                continue;
            };
            let audience =
                |i: &InstanceFile| i.token_audience.as_ref().map(|a| a.get_ref().clone());
            let ours = audience(instance);
            let other = all().find(|(other, i)| {
                *other != name
                    && i.jwks_url.as_ref().map(Spanned::get_ref) == Some(url.get_ref())
                    && (ours.is_none() || audience(i) == ours)
            });
            if let Some((other, _)) = other {
                self.wrong_with(
                    url,
                    &format!("instances.{name}.jwks_url"),
                    format!(
                        "`{other}` fetches the same keys, so a token of one would be let in at both"
                    ),
                    "give each its own `token_audience`".into(),
                );
            }
        }
    }

    /// What a claim must be.
    pub(super) fn claim(
        &mut self,
        path: &str,
        name: &str,
        value: &Option<Spanned<String>>,
    ) -> Option<String> {
        let value = value.as_ref()?;
        if !(1..=CLAIM_BYTES_MAX).contains(&value.get_ref().len()) {
            self.wrong(
                value,
                &format!("{path}.{name}"),
                format!(
                    "it has 1 to {CLAIM_BYTES_MAX} bytes; without it the claim is not looked at"
                ),
            );
        }
        Some(value.get_ref().clone())
    }
}
