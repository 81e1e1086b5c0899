//! Tokens that are let in, and every way in which one is not.

use std::collections::BTreeMap;

use gb6_core_model::snapshot::{Instance, Key, KeyUse, Snapshot};
use gb6_core_model::{Allow, Capability, Caps, InstanceEpoch, Slot};

use super::*;

const NOW_MS: i64 = 1_700_000_000_500;
const NOW: i64 = 1_700_000_000;

fn key(id: &str, secret: &str) -> Key {
    Key {
        id: id.to_owned(),
        usage: KeyUse::Client,
        algorithm: KeyAlgorithm::HS256,
        secret: secret.to_owned(),
        ..Key::default()
    }
}

fn snapshot() -> Snapshot {
    let instance = |keys| Instance {
        region: "r1".to_owned(),
        epoch: InstanceEpoch(1),
        slots: vec![Slot(1)],
        keys,
        subscriptions_max: 10,
        ..Instance::default()
    };
    Snapshot {
        instances: BTreeMap::from([
            (
                InstanceId::from("demo"),
                instance(vec![key("demo.k1", "s-one"), key("legacy", "s-two")]),
            ),
            (
                InstanceId::from("acme"),
                instance(vec![key("acme.k1", "s-acme"), key("acme.empty", "")]),
            ),
        ]),
        ..Snapshot::default()
    }
}

fn sign(header: &str, claims: &str, secret: &str) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn verify(listener: &str, token: &str) -> Result<Claims, TokenError> {
    refusal(listener, token).map_err(TokenError::from)
}

fn refusal(listener: &str, token: &str) -> Result<Claims, Refusal> {
    let keys = KeyTable::new(&snapshot(), |_| Fetched::None);
    verify_token(&keys, &InstanceId::from(listener), token, NOW_MS).map(|(claims, _)| claims)
}

const HS: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn issued_tokens_verify_and_say_what_was_asked() {
    let snapshot = snapshot();
    let caps = vec![Capability {
        channels: vec!["room:*".to_owned()],
        matching: gb6_core_model::caps::Match::Wildcard,
        allow: vec![Allow::Subscribe, Allow::Publish],
    }];
    let request = TokenRequest {
        user: "alice".to_owned(),
        now: NOW,
        ttl: Some(60),
        caps: Some(caps.clone()),
        info: Some(serde_json::json!({"name": "Alice"})),
    };
    let token = issue_token(&snapshot.instances["demo"].keys[0], &request).unwrap();
    // Its kid names the instance, whatever the listener says.
    let claims = verify("acme", &token).unwrap();
    assert_eq!(claims.instance, InstanceId::from("demo"));
    assert_eq!(claims.user, "alice");
    assert_eq!(claims.caps, Caps(Some(caps)));
    assert_eq!(&claims.info[..], br#"{"name":"Alice"}"#);
    assert_eq!(claims.expires_unix_ms, Some((NOW + 60) * 1000));
    assert!(matches!(
        issue_token(&snapshot.instances["acme"].keys[1], &request),
        Err(IssueError::NoSecret(_))
    ));
}

#[test]
fn the_golden_token_of_an_independent_program() {
    // python: hmac.new(b"s-two", header.payload, sha256), both base64url without padding.
    let token = sign(HS, r#"{"sub":"42"}"#, "s-two");
    assert_eq!(
        token,
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.8EonDCz_78cNa_5QI283IcO2VAXByz3Kc0_ycqz0L9w"
    );
    assert_eq!(verify("demo", &token).unwrap().user, "42");
}

#[test]
fn which_key_must_have_signed() {
    let ok = |listener, token: &str| verify(listener, token).map(|c| c.instance.to_string());
    let claims = r#"{"sub":"u"}"#;
    // Without a kid: any key of the listener's instance, and of no other.
    assert_eq!(
        ok("demo", &sign(HS, claims, "s-one")),
        Ok("demo".to_owned())
    );
    assert_eq!(
        ok("demo", &sign(HS, claims, "s-two")),
        Ok("demo".to_owned())
    );
    assert_eq!(
        ok("demo", &sign(HS, claims, "s-acme")),
        Err(TokenError::Invalid)
    );
    assert_eq!(
        ok("nobody", &sign(HS, claims, "s-one")),
        Err(TokenError::Invalid)
    );
    // A kid of the listener's own instance chooses that key alone.
    let legacy = r#"{"alg":"HS256","kid":"legacy"}"#;
    assert_eq!(
        ok("demo", &sign(legacy, claims, "s-two")),
        Ok("demo".to_owned())
    );
    assert_eq!(
        ok("demo", &sign(legacy, claims, "s-one")),
        Err(TokenError::Invalid)
    );
    // Not made here, so it names no instance: the listener's must verify it.
    assert_eq!(
        ok("acme", &sign(legacy, claims, "s-two")),
        Err(TokenError::Invalid)
    );
    // Made here: names its instance, through kid or iss.
    let acme = r#"{"alg":"HS256","kid":"acme.k1"}"#;
    assert_eq!(
        ok("demo", &sign(acme, claims, "s-acme")),
        Ok("acme".to_owned())
    );
    // Nobody learns at another instance that there is such a key: it is an id that no key has.
    let nobody = r#"{"alg":"HS256","kid":"acme.k9"}"#;
    for head in [acme, nobody] {
        let own = ok("demo", &sign(head, claims, "s-one"));
        assert_eq!(own, Ok("demo".to_owned()), "{head}");
        for (listener, secret) in [("demo", "guessed"), ("acme", "s-one"), ("nobody", "s-one")] {
            let refused = ok(listener, &sign(head, claims, secret));
            assert_eq!(refused, Err(TokenError::Invalid), "{head} {listener}");
        }
    }
    let iss = r#"{"sub":"u","iss":"acme.k1"}"#;
    assert_eq!(ok("demo", &sign(HS, iss, "s-acme")), Ok("acme".to_owned()));
    // An empty secret signs nothing.
    let empty = r#"{"alg":"HS256","kid":"acme.empty"}"#;
    assert_eq!(
        ok("demo", &sign(empty, claims, "")),
        Err(TokenError::Invalid)
    );
}

#[test]
fn forgeries() {
    let claims = r#"{"sub":"root"}"#;
    let good = sign(HS, claims, "s-one");
    let (text, tag) = good.rsplit_once('.').unwrap();
    let none = |alg: &str| {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        )
    };
    let mut wrong = tag.to_owned().into_bytes();
    wrong[3] ^= 1;
    for token in [
        none("none"),
        none("None"),
        none("HS256"),
        text.to_owned(),
        format!("{text}."),
        format!("{text}.{}", String::from_utf8(wrong).unwrap()),
        format!("{text}.{}", &tag[..tag.len() - 2]),
        format!("{good}.x"),
        sign(r#"{"alg":"HS512"}"#, claims, "s-one"),
        sign(r#"{"alg":"RS256"}"#, claims, "s-one"),
        "x".repeat(TOKEN_BYTES_MAX + 1),
        "a.b.c".to_owned(),
        "..".to_owned(),
        String::new(),
    ] {
        assert_eq!(verify("demo", &token), Err(TokenError::Invalid), "{token}");
    }
}

#[test]
fn times() {
    let at = |claims: &str| verify("demo", &sign(HS, claims, "s-one")).map(|c| c.expires_unix_ms);
    assert_eq!(at(r#"{"sub":"u"}"#), Ok(None));
    assert_eq!(
        at(&format!(r#"{{"exp":{}}}"#, NOW + 1)),
        Ok(Some((NOW + 1) * 1000))
    );
    // No leeway: the second it names has passed.
    assert_eq!(at(&format!(r#"{{"exp":{NOW}}}"#)), Err(TokenError::Expired));
    assert_eq!(at(r#"{"exp":1700000000.6}"#), Ok(Some(NOW * 1000 + 600)));
    assert_eq!(
        at(&format!(r#"{{"nbf":{}}}"#, NOW + 1)),
        Err(TokenError::Invalid)
    );
    assert_eq!(at(&format!(r#"{{"nbf":{NOW}}}"#)), Ok(None));
    assert_eq!(
        at(&format!(r#"{{"exp":{},"expire_at":0}}"#, NOW + 9)),
        Ok(None)
    );
    assert_eq!(
        at(&format!(
            r#"{{"exp":{},"expire_at":{}}}"#,
            NOW + 9,
            NOW + 99
        )),
        Ok(Some((NOW + 99) * 1000))
    );
    assert_eq!(
        at(&format!(r#"{{"expire_at":{}}}"#, NOW - 1)),
        Err(TokenError::Expired)
    );
    for bad in [r#"{"exp":1e300}"#, r#"{"exp":"soon"}"#, r#"{"exp":-1e18}"#] {
        assert_eq!(at(bad), Err(TokenError::Invalid), "{bad}");
    }
}

#[test]
fn info_and_what_makes_no_connection_token() {
    let info = |claims: &str| {
        verify("demo", &sign(HS, claims, "s-one"))
            .map(|c| String::from_utf8(c.info.to_vec()).unwrap())
    };
    assert_eq!(
        info(r#"{"info":{"a": [1]}}"#).as_deref(),
        Ok(r#"{"a": [1]}"#)
    );
    assert_eq!(
        info(r#"{"b64info":"eyJhIjoxfQ=="}"#).as_deref(),
        Ok(r#"{"a":1}"#)
    );
    assert_eq!(
        info(r#"{"b64info":"/wA="}"#).as_deref(),
        Ok(r#"{"b64":"/wA="}"#)
    );
    assert_eq!(info(r#"{"b64info":"?"}"#), Err(TokenError::Invalid));
    let deep = format!(r#"{{"info":{}1{}}}"#, "[".repeat(127), "]".repeat(127));
    assert!(info(&deep).is_ok());
    let deep = format!(r#"{{"info":{}1{}}}"#, "[".repeat(2000), "]".repeat(2000));
    assert_eq!(info(&deep), Err(TokenError::Invalid));
    assert_eq!(
        info(r#"{"sub":"u","channel":"room:1"}"#),
        Err(TokenError::Invalid)
    );
    assert_eq!(info(r#"{"sub":7}"#), Err(TokenError::Invalid));
    assert_eq!(
        info(r#"{"sub":"u","caps":"all"}"#),
        Err(TokenError::Invalid)
    );
}

#[test]
fn operators_are_told_why_a_token_was_refused() {
    let claims = r#"{"sub":"u"}"#;
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let other = r#"{"alg":"HS256","kid":"other.k1"}"#;
    let made_here = r#"{"alg":"HS256","kid":"acme.k1"}"#;
    for (token, want) in [
        (sign(HS, r#"{"exp":1}"#, "s-one"), Refusal::Expired),
        ("a.b.c".to_owned(), Refusal::Malformed),
        (String::new(), Refusal::Malformed),
        ("x".repeat(TOKEN_BYTES_MAX + 1), Refusal::Malformed),
        (sign(HS, claims, "guessed"), Refusal::Signature),
        (sign(made_here, claims, "guessed"), Refusal::Signature),
        (sign(other, claims, "s-other"), Refusal::UnknownKey),
        (none, Refusal::Algorithm),
        (
            sign(r#"{"alg":"HS512"}"#, claims, "s-one"),
            Refusal::Algorithm,
        ),
        (
            sign(r#"{"alg":"RS256"}"#, claims, "s-one"),
            Refusal::Algorithm,
        ),
        (sign(HS, r#"{"nbf":1e11}"#, "s-one"), Refusal::Claims),
        (sign(HS, r#"{"sub":7}"#, "s-one"), Refusal::Claims),
        (
            sign(HS, r#"{"channel":"room:1"}"#, "s-one"),
            Refusal::Claims,
        ),
    ] {
        assert_eq!(refusal("demo", &token), Err(want), "{token}");
    }
    let nobody = refusal("nobody", &sign(HS, claims, "s-one"));
    assert_eq!(nobody, Err(Refusal::UnknownKey));
}
