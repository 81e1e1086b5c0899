//! One revocation, as a record of an instance's system channel holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::InstanceEpoch;
use gb6_core_model::hash::digest128;
use gb6_core_wire::mesh::Person;
use gb6_core_wire::record::ContentType;
use serde::{Deserialize, Serialize};

use crate::request::{PublishQuery, Request};

/// Longest record in bytes: names have 255 at most.
const RECORD_BYTES_MAX: usize = 4 * 1024;

/// What is taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Revocation {
    /// One token.
    Token {
        /// The key of its `jti` or of its text, in hexadecimal digits.
        id: String,
        /// Unix ms behind which it is expired, so that nothing need be remembered.
        until: i64,
    },
    /// The tokens of a user that were issued before some time, and those that do not say when.
    UserTokens {
        /// The user.
        user: String,
        /// Unix ms.
        before: i64,
        /// Unix ms behind which they are all expired.
        until: i64,
    },
    /// Everything of a user, from now on.
    Block {
        /// The user.
        user: String,
        /// Unix ms until which; `None`: until it is unblocked.
        until: Option<i64>,
    },
    /// A block no longer.
    Unblock {
        /// The user.
        user: String,
    },
    /// One connection.
    Session {
        /// Its client id.
        client: String,
        /// Unix ms behind which it has ended by itself, so that nothing need be remembered.
        until: i64,
    },
}

/// The key by which [`Identity`](super::Identity) and revocations name a user.
pub fn id_of_user(user: &str) -> [u8; 16] {
    digest128(&[b"user", user.as_bytes()])
}

/// The key by which [`Identity`](super::Identity) and revocations name a connection: of its client id.
pub fn id_of_client(client: &str) -> [u8; 16] {
    digest128(&[b"client", client.as_bytes()])
}

impl Revocation {
    /// That of the token with the key `id`, which expires at `until`, Unix ms.
    pub fn of_token(id: [u8; 16], until: i64) -> Self {
        Revocation::Token {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            until,
        }
    }

    /// Its kind, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Revocation::Token { .. } => "token",
            Revocation::UserTokens { .. } => "user_tokens",
            Revocation::Block { .. } => "block",
            Revocation::Unblock { .. } => "unblock",
            Revocation::Session { .. } => "session",
        }
    }

    /// The record's data.
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and numbers are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The request that writes it to the log of revocations, only behind the record at `after` if that
    /// is given.
    pub fn to_publish(&self, instance_epoch: InstanceEpoch, after: Option<u64>) -> Request {
        Request::Publish(Box::new(PublishQuery {
            instance_epoch,
            from: Arc::new(Person::default()),
            id: Bytes::new(),
            data: Bytes::from(self.to_json()),
            content_type: ContentType::Json,
            tags: BTreeMap::new(),
            traceparent: String::new(),
            version: None,
            after,
            signal: false,
            unkept: false,
        }))
    }

    /// Reads a record's data; `None`: it is of a kind that this edge does not know.
    pub fn parse(data: &[u8]) -> Option<Self> {
        if data.len() > RECORD_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(data).ok()
    }
}

/// The key that a record of a token names.
pub(super) fn token_id(hex: &str) -> Option<[u8; 16]> {
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_their_form_stays() {
        for (revocation, json) in [
            (
                Revocation::of_token([0xa5; 16], 7),
                r#"{"kind":"token","id":"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5","until":7}"#,
            ),
            (
                Revocation::UserTokens {
                    user: "u".to_owned(),
                    before: 5,
                    until: 9,
                },
                r#"{"kind":"user_tokens","user":"u","before":5,"until":9}"#,
            ),
            (
                Revocation::Block {
                    user: "u".to_owned(),
                    until: None,
                },
                r#"{"kind":"block","user":"u","until":null}"#,
            ),
            (
                Revocation::Unblock {
                    user: "u".to_owned(),
                },
                r#"{"kind":"unblock","user":"u"}"#,
            ),
            (
                Revocation::Session {
                    client: "c".to_owned(),
                    until: 3,
                },
                r#"{"kind":"session","client":"c","until":3}"#,
            ),
        ] {
            assert_eq!(revocation.to_json(), json.as_bytes());
            assert_eq!(Revocation::parse(json.as_bytes()), Some(revocation));
        }
        assert_eq!(
            token_id("a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5"),
            Some([0xa5; 16])
        );
        for bad in ["", "a5", "+5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5", "zz"] {
            assert_eq!(token_id(bad), None, "{bad}");
        }
        for unknown in [
            "",
            "{}",
            "7",
            r#"{"kind":"planet","user":"u"}"#,
            r#"{"kind":"block"}"#,
        ] {
            assert_eq!(Revocation::parse(unknown.as_bytes()), None, "{unknown}");
        }
        assert_eq!(Revocation::parse(&vec![b' '; RECORD_BYTES_MAX + 1]), None);
    }
}
