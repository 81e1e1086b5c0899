//! Keys of the server API. None stands in a message.

use gb6_core_model::snapshot::{Key, KeyUse, Snapshot};
use toml::Spanned;

use super::Resolver;
use super::keys::SecretOf;
use crate::file::InstanceFile;

/// Shortest random part of an API key in characters: 128 bits in hexadecimal digits.
const API_RANDOM_MIN: usize = 32;
/// Longest API key in bytes.
const API_KEY_BYTES_MAX: usize = 255;

impl Resolver<'_> {
    pub(super) fn api_keys_in_short(
        &mut self,
        name: &str,
        path: &str,
        instance: &InstanceFile,
        secret_of: &mut SecretOf<'_>,
        keys: &mut Vec<Key>,
    ) {
        let mut texts = Vec::new();
        for (n, key) in instance.api_keys.iter().enumerate() {
            texts.push((
                format!("{path}.api_keys[{n}]"),
                &key.0,
                key.0.get_ref().clone(),
            ));
        }
        for (n, file) in instance.api_key_files.iter().enumerate() {
            let path = format!("{path}.api_key_files[{n}]");
            match secret_of(file.get_ref()) {
                Ok(text) => {
                    texts.push((path, file, text.trim_end_matches(['\r', '\n']).to_owned()))
                }
                Err(why) => self.unread(file, &path, &why),
            }
        }
        for (n, (path, at, text)) in texts.into_iter().enumerate() {
            let id = format!("api-{}", n + 1);
            keys.extend(self.api_key(name, &path, id, at, text));
        }
    }

    pub(super) fn api_key(
        &mut self,
        instance: &str,
        path: &str,
        id: String,
        at: &Spanned<String>,
        text: String,
    ) -> Option<Key> {
        let fits = text.bytes().all(|b| b.is_ascii_graphic())
            && Snapshot::instance_of_api_key(&text) == Some(instance)
            && text.len() <= API_KEY_BYTES_MAX;
        let random = text.rsplit_once('_').map_or(0, |(_, random)| random.len());
        if !fits || random < API_RANDOM_MIN {
            self.wrong_with(
                at,
                path,
                format!(
                    "an API key of `{instance}` begins with gb6_{instance}_ and has at least \
                     {API_RANDOM_MIN} random characters behind that"
                ),
                format!("make one with: echo gb6_{instance}_$(openssl rand -hex 32)"),
            );
            return None;
        }
        Some(Key {
            id,
            usage: KeyUse::Api,
            secret: text,
            ..Key::default()
        })
    }
}
