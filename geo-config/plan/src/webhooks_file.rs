//! Webhooks as a snapshot file writes them. Neither address nor secret stands in what is printed of
//! them.

use std::fmt;

use gb6_core_model::WebhookEvent;
use serde::Deserialize;
use toml::Spanned;

use crate::key_file::SecretText;
use crate::units::Millis;

/// How long one request may take where the file does not say.
pub(crate) const WEBHOOK_TIMEOUT_DEFAULT: Millis = Millis(5_000);
/// Bounds of that, in ms: who needs longer holds up everything behind.
pub(crate) const WEBHOOK_TIMEOUT_MIN: u64 = 100;
/// See [`WEBHOOK_TIMEOUT_MIN`].
pub(crate) const WEBHOOK_TIMEOUT_MAX: u64 = 30_000;

/// `[instances.NAME.webhooks]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksFile {
    /// Where requests go.
    pub url: Spanned<String>,
    /// What they are signed with, at least 32 bytes.
    #[serde(default)]
    pub secret: Option<SecretText>,
    /// The same, in a file; a relative path starts at the snapshot file's directory.
    #[serde(default)]
    pub secret_file: Option<Spanned<String>>,
    /// Which events are told. Default: all of them.
    #[serde(default)]
    pub events: Option<Spanned<Vec<WebhookEvent>>>,
    /// How long one request may take. Default 5 s.
    #[serde(default)]
    pub timeout: Option<Spanned<Millis>>,
}

impl fmt::Debug for WebhooksFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhooksFile")
            .field("secret_file", &self.secret_file)
            .field("events", &self.events)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
