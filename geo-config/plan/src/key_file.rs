//! Keys as a snapshot file writes them: a table each, or in short. Secrets and whole keys never
//! stand in what is printed of these.

use std::fmt;

use gb6_core_model::snapshot::KeyUse;
use serde::Deserialize;
use toml::Spanned;

/// `[[instances.NAME.keys]]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The key's id. One that GB6 made reads `<instance>.<random>`.
    pub id: Spanned<String>,
    /// What it verifies: `client`, the default, tokens; `api` requests to the server API.
    #[serde(rename = "use", default)]
    pub usage: KeyUse,
    /// HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384 or EdDSA. Default: HS256 with a
    /// secret, the usual one of a public key.
    #[serde(default)]
    pub algorithm: Option<Spanned<String>>,
    /// The secret as text, at least as long as the algorithm's hash: 32 bytes for HS256. Of an API
    /// key the key itself.
    #[serde(default)]
    pub secret: Option<Spanned<String>>,
    /// A file with the secret; a relative path starts at the snapshot file's directory. A line end
    /// at its end does not belong to the secret.
    #[serde(default)]
    pub secret_file: Option<Spanned<String>>,
    /// A public key: PEM, or a JSON Web Key.
    #[serde(default)]
    pub public_key: Option<Spanned<String>>,
    /// A file with the public key.
    #[serde(default)]
    pub public_key_file: Option<Spanned<String>>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("id", &self.id)
            .field("usage", &self.usage)
            .field("algorithm", &self.algorithm)
            .field("secret_file", &self.secret_file)
            .field("public_key_file", &self.public_key_file)
            .finish_non_exhaustive()
    }
}

/// One of `public_keys`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKeyFile {
    /// The key's id. Default: the `kid` of a JSON Web Key, else `public-1` and so on.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// The algorithm. Default: the usual one of the key.
    #[serde(default)]
    pub algorithm: Option<Spanned<String>>,
    /// PEM, or a JSON Web Key.
    #[serde(default)]
    pub public_key: Option<Spanned<String>>,
    /// A file with it; a relative path starts at the snapshot file's directory.
    #[serde(default)]
    pub public_key_file: Option<Spanned<String>>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub Spanned<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}
