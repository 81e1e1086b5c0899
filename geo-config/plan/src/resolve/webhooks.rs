//! The webhooks of an instance. Neither secret nor address stands in a message.

use gb6_core_model::{WebhookEvent, Webhooks};

use super::address::is_request_url;
use super::keys::SecretOf;
use super::{Resolver, SECRET_BYTES_MIN};
use crate::file::InstanceFile;
use crate::webhooks_file::{WEBHOOK_TIMEOUT_DEFAULT, WEBHOOK_TIMEOUT_MAX, WEBHOOK_TIMEOUT_MIN};

impl Resolver<'_> {
    pub(super) fn webhooks(
        &mut self,
        path: &str,
        instance: &InstanceFile,
        secret_of: &mut SecretOf<'_>,
    ) -> Option<Webhooks> {
        let written = instance.webhooks.as_ref()?;
        let (file, path) = (written.get_ref(), format!("{path}.webhooks"));
        if !is_request_url(file.url.get_ref()) {
            self.wrong_with(
                &file.url,
                &format!("{path}.url"),
                "events are sent to an https URL, or an http URL of an address that nodes may reach"
                    .into(),
                "as in \"https://chat.example.org/gb6\"".into(),
            );
        }
        let here = file.secret.as_ref().map(|s| s.0.clone());
        if let (Some(_), Some(also)) = (&here, &file.secret_file) {
            self.wrong(also, &path, "either `secret` or `secret_file`, not both");
        }
        let secret = match self.text(&path, "secret", &here, &file.secret_file, secret_of)? {
            Some((at, secret)) => {
                if secret.len() < SECRET_BYTES_MIN {
                    self.wrong_with(
                        at,
                        &format!("{path}.secret"),
                        format!(
                            "the secret has {} bytes, needed are {SECRET_BYTES_MIN}",
                            secret.len()
                        ),
                        "make one with: openssl rand -hex 32".into(),
                    );
                }
                secret
            }
            None => {
                self.wrong_with(
                    written,
                    &path,
                    "requests are signed: they need `secret` or `secret_file`".into(),
                    "make one with: openssl rand -hex 32".into(),
                );
                String::new()
            }
        };
        let events = match &file.events {
            None => WebhookEvent::ALL.iter().copied().collect(),
            Some(events) => {
                if events.get_ref().is_empty() {
                    self.wrong_with(
                        events,
                        &format!("{path}.events"),
                        "no event would be told".into(),
                        "take the table out, or the line: without it all events are told".into(),
                    );
                }
                events.get_ref().iter().copied().collect()
            }
        };
        let timeout_ms = match &file.timeout {
            None => WEBHOOK_TIMEOUT_DEFAULT.0,
            Some(timeout) => {
                let (path, ms) = (format!("{path}.timeout"), timeout.get_ref().0);
                self.within(timeout, &path, ms, WEBHOOK_TIMEOUT_MIN, WEBHOOK_TIMEOUT_MAX);
                ms
            }
        };
        Some(Webhooks {
            url: file.url.get_ref().clone(),
            secret,
            events,
            timeout_ms,
        })
    }
}
