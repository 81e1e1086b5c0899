//! Tokens that tests sign themselves, good and bad ones.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Map, Value, json};

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// Claims of a user who may do everything in `room:*` for an hour.
pub fn member(user: &str) -> Claims {
    expired_after(user, 3600)
}

/// As [`member`], with an expiry `seconds` from now; negative: in the past.
pub fn expired_after(user: &str, seconds: i64) -> Claims {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64);
    let mut claims = Map::new();
    claims.insert("sub".into(), json!(user));
    claims.insert("exp".into(), json!(now + seconds));
    let allow = json!(["sub", "pub", "prs", "hst"]);
    let caps = json!([{"channels": ["room:*"], "match": "wildcard", "allow": allow}]);
    claims.insert("caps".into(), caps);
    claims
}

/// A token signed with HS256 by the key `kid`.
pub fn hs256(secret: &[u8], kid: &str, claims: &Claims) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": kid});
    let body = forge(&header, claims);
    let body = body.trim_end_matches('.');
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, body.as_bytes());
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// A token with any header and an empty signature.
pub fn forge(header: &Value, claims: &Claims) -> String {
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let claims = Value::Object(claims.clone());
    format!(
        "{}.{}.",
        encode(header.to_string()),
        encode(claims.to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515, appendix A.1, checks the parts that do not depend on key order.
    #[test]
    fn signatures_verify() {
        let token = hs256(
            b"0123456789abcdef0123456789abcdef",
            "demo.main",
            &member("u"),
        );
        let (body, signature) = token.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        hmac::verify(&key, body.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD
            .decode(body.split_once('.').unwrap().1)
            .unwrap();
        let claims: Claims = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["sub"], "u");
        assert!(forge(&json!({"alg": "none"}), &claims).ends_with('.'));
    }
}
