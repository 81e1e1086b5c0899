//! Connection tokens: one that was given, for everybody, one signed for each connection, or none.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::json;

/// How long a signed token is valid, in seconds.
const VALID_SECONDS: u64 = 24 * 3600;

/// Where connections get their token from.
#[derive(Clone)]
pub(crate) enum Tokens {
    /// None: connections are anonymous.
    Nobody,
    /// The same for every connection.
    Given(String),
    /// Signed with HMAC-SHA-256 (RFC 7518 section 3.2), a user for each connection.
    Signed {
        /// The instance's secret.
        secret: String,
        /// The key's id, where the token must name one.
        key_id: Option<String>,
    },
}

impl Tokens {
    /// The user of a signed token.
    pub(crate) fn user(n: usize) -> String {
        format!("bench-{n}")
    }

    /// The token of connection `n`, for rooms whose names begin with `room_prefix`; empty: none.
    pub(crate) fn of(&self, n: usize, room_prefix: &str) -> String {
        match self {
            Tokens::Nobody => String::new(),
            Tokens::Given(token) => token.clone(),
            Tokens::Signed { secret, key_id } => {
                let mut header = json!({"alg": "HS256", "typ": "JWT"});
                if let Some(key_id) = key_id {
                    header["kid"] = json!(key_id);
                }
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs());
                let claims = json!({
                    "sub": Self::user(n),
                    "exp": now + VALID_SECONDS,
                    "caps": [{
                        "channels": [format!("{room_prefix}*")],
                        "match": "wildcard",
                        "allow": ["sub", "pub", "prs", "hst"],
                    }],
                });
                let signed = format!(
                    "{}.{}",
                    URL_SAFE_NO_PAD.encode(header.to_string()),
                    URL_SAFE_NO_PAD.encode(claims.to_string())
                );
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                let signature = hmac::sign(&key, signed.as_bytes());
                format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::{Allow, Caps};

    #[test]
    fn a_signed_token_verifies_and_allows_what_a_bench_does() {
        let tokens = Tokens::Signed {
            secret: "s".repeat(32),
            key_id: Some("demo.main".into()),
        };
        let token = tokens.of(7, "room:");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[b's'; 32]);
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let read = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(read(header)["kid"], "demo.main");
        assert_eq!(read(claims)["sub"], "bench-7");
        let caps: Caps = Caps(Some(
            serde_json::from_value(read(claims)["caps"].clone()).unwrap(),
        ));
        for allow in [Allow::Subscribe, Allow::Publish, Allow::History] {
            assert!(caps.allows("room:bench-1", allow));
        }
    }
}
