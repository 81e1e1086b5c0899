//! The webhooks of an instance: where the ends of sessions and subscriptions are told.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::Instance;

/// Where an instance's events are told, and which.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// Where requests go: an `https` URL, or an `http` URL of an address that an operator opened.
    /// It may hold secrets. Empty on nodes that send none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What requests are signed with, as text. Empty on nodes that send none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Which events are told.
    pub events: BTreeSet<WebhookEvent>,
    /// How long one request may take, in ms.
    pub timeout_ms: u64,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("events", &self.events)
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Whether somebody is told of such events of this instance.
    pub fn tells(&self, event: WebhookEvent) -> bool {
        let webhooks = self.webhooks.as_ref();
        webhooks.is_some_and(|w| w.events.contains(&event))
    }
}

/// What can be told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookEvent {
    /// A session has ended.
    Disconnect,
    /// A subscription has ended, and its session goes on.
    Unsubscribe,
}

impl WebhookEvent {
    /// Every event.
    pub const ALL: &'static [WebhookEvent] = &[WebhookEvent::Disconnect, WebhookEvent::Unsubscribe];

    /// Its name, as in configuration and in what is sent.
    pub fn name(self) -> &'static str {
        match self {
            WebhookEvent::Disconnect => "disconnect",
            WebhookEvent::Unsubscribe => "unsubscribe",
        }
    }
}
