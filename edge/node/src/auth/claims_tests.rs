//! Every claim, its bounds, and what a token of the other kind is refused for.

use gb6_core_model::snapshot::{Instance, Key, Snapshot};
use gb6_core_model::{Allow, Capability};
use gb6_edge_session::{Overrides, SubscriptionGrant};

use super::*;

const NOW_MS: i64 = 1_700_000_000_500;
const NOW: i64 = 1_700_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn snapshot() -> Snapshot {
    let key = |id: &str| Key {
        id: id.to_owned(),
        secret: format!("{id} {SECRET}"),
        ..Key::default()
    };
    let mut snapshot = Snapshot::default();
    for (id, audience, issuer) in [
        ("demo", None, None),
        ("aud", Some("chat"), None),
        ("iss", None, Some("https://id.example")),
    ] {
        let instance = Instance {
            keys: vec![key(&format!("{id}.k"))],
            token_audience: audience.map(str::to_owned),
            token_issuer: issuer.map(str::to_owned),
            ..Instance::default()
        };
        snapshot.instances.insert(id.into(), instance);
    }
    snapshot
}

fn sign(instance: &str, claims: serde_json::Value) -> String {
    let key = &snapshot().instances[instance].keys[0];
    sign_claims(&SigningKey::shared(key).unwrap(), &claims).unwrap()
}

fn connection(claims: serde_json::Value) -> Result<Claims, Refusal> {
    of("demo", claims)
}

fn of(instance: &str, claims: serde_json::Value) -> Result<Claims, Refusal> {
    let keys = KeyTable::new(&snapshot(), |_| Fetched::None);
    let token = sign(instance, claims);
    verify_token(&keys, &instance.into(), &token, NOW_MS).map(|(claims, _)| claims)
}

fn subscription(claims: serde_json::Value) -> Result<SubscriptionClaims, Refusal> {
    let keys = KeyTable::new(&snapshot(), |_| Fetched::None);
    let token = sign("demo", claims);
    verify_subscription_token(&keys, &"demo".into(), &token, NOW_MS).map(|(claims, _)| claims)
}

#[test]
fn server_side_subscriptions() {
    let claims = connection(serde_json::json!({
        "sub": "u",
        "channels": ["news", "room:1"],
        "subs": {
            "room:1": {
                "info": {"role": "admin"},
                "b64data": "eyJhIjoxfQ==",
                "override": {
                    "presence": {"value": false},
                    "join_leave": {"value": true},
                    "force_push_join_leave": {"value": true},
                    "force_recovery": {"value": false},
                    "force_positioning": {"value": true},
                },
                "expire_at": NOW + 60,
            },
            "room:2": {"expire_at": 0},
            "room:gone": {"expire_at": NOW},
        },
    }))
    .unwrap();
    let names: Vec<_> = claims.subscriptions.keys().map(String::as_str).collect();
    assert_eq!(names, ["news", "room:1", "room:2"]);
    assert_eq!(claims.subscriptions["news"], SubscriptionGrant::default());
    assert_eq!(claims.subscriptions["room:2"], SubscriptionGrant::default());
    let want = SubscriptionGrant {
        info: r#"{"role":"admin"}"#.into(),
        data: r#"{"a":1}"#.into(),
        overrides: Overrides {
            presence: Some(false),
            join_leave: Some(true),
            force_push_join_leave: Some(true),
            force_recovery: Some(false),
            force_positioning: Some(true),
        },
        expires_unix_ms: Some((NOW + 60) * 1000),
    };
    assert_eq!(claims.subscriptions["room:1"], want);
}

#[test]
fn what_no_claim_may_be() {
    let deep: serde_json::Value =
        serde_json::from_str(&format!("{}1{}", "[".repeat(120), "]".repeat(120))).unwrap();
    let mut deeper = deep.clone();
    for _ in 0..20 {
        deeper = serde_json::json!([deeper]);
    }
    let many: Vec<String> = (0..1025).map(|n| format!("c{n}")).collect();
    let patterns = |n: usize| serde_json::json!({"caps": [{"channels": vec!["a"; n], "match": "regex", "allow": ["sub"]}]});
    assert!(connection(serde_json::json!({"subs": {"a": {"data": deep}}})).is_ok());
    assert!(connection(patterns(16)).is_ok());
    assert!(connection(serde_json::json!({"channels": &many[1..]})).is_ok());
    for bad in [
        serde_json::json!({"channels": ["a b"]}),
        serde_json::json!({"channels": [""]}),
        serde_json::json!({"channels": ["x".repeat(256)]}),
        serde_json::json!({"channels": "news"}),
        serde_json::json!({"channels": many}),
        serde_json::json!({"subs": ["a"]}),
        serde_json::json!({"subs": {"\n": {}}}),
        serde_json::json!({"subs": {"a": {"b64data": "?"}}}),
        serde_json::json!({"subs": {"a": {"data": deeper}}}),
        serde_json::json!({"subs": {"a": {"override": {"presence": true}}}}),
        serde_json::json!({"subs": {"a": {"override": {"presence": {"value": 1}}}}}),
        serde_json::json!({"sub": "u".repeat(256)}),
        serde_json::json!({"jti": "j".repeat(256)}),
        serde_json::json!({"jti": 7}),
        serde_json::json!({"iat": "now"}),
        serde_json::json!({"caps": [{"channels": ["("], "match": "regex", "allow": ["sub"]}]}),
        serde_json::json!({"caps": [{"channels": ["a"], "match": "glob", "allow": ["sub"]}]}),
        serde_json::json!({"caps": [{"channels": ["a"], "allow": ["everything"]}]}),
        serde_json::json!({"caps": [{"channels": vec!["a"; 1025], "allow": ["sub"]}]}),
        patterns(17),
        serde_json::json!({"caps": [
            {"channels": vec!["a"; 9], "match": "regex", "allow": ["sub"]},
            {"channels": vec!["a"; 9], "match": "regex", "allow": ["sub"]},
        ]}),
    ] {
        let shown = bad.to_string();
        assert_eq!(
            connection(bad),
            Err(Refusal::Claims),
            "{}",
            &shown[..shown.len().min(80)]
        );
    }
    // Claims that nobody knows are passed over.
    assert!(connection(serde_json::json!({"meta": {"role": "x"}, "unknown": [1]})).is_ok());
}

#[test]
fn claims_are_an_object() {
    // Serde would take the claims in the order in which they are declared.
    for array in [serde_json::json!([]), serde_json::json!(["alice"])] {
        assert_eq!(connection(array), Err(Refusal::Malformed));
    }
}

/// What a server in Go or PHP writes where it has nothing to say.
#[test]
fn null_is_as_good_as_absent_and_base_64_of_nothing_is_none() {
    use serde_json::json;
    let nothing = json!({
        "sub": null, "exp": null, "nbf": null, "iat": null, "jti": null, "aud": null, "iss": null,
        "expire_at": null, "info": null, "b64info": null, "caps": null, "channels": null,
        "subs": null, "meta": null, "channel": null, "client": null, "data": null,
        "b64data": null, "override": null,
    });
    assert_eq!(connection(nothing.clone()), connection(json!({})));
    let channel = |mut claims: serde_json::Value| {
        claims["channel"] = json!("room:1");
        let claims = subscription(claims).unwrap();
        (claims.user, claims.client, claims.grant)
    };
    assert_eq!(channel(nothing), channel(json!({})));
    let claims = connection(json!({
        "sub": "u", "jti": "", "info": {"a": 1}, "b64info": "",
        "subs": {"room:1": null, "room:2": {"data": [1], "b64data": "", "override": null}},
    }));
    let claims = claims.unwrap();
    assert_eq!(&claims.info[..], br#"{"a":1}"#);
    assert_eq!(claims.subscriptions["room:1"], SubscriptionGrant::default());
    assert_eq!(&claims.subscriptions["room:2"].data[..], b"[1]");
    let (.., grant) = channel(json!({"info": 7, "b64info": "", "data": 8, "b64data": ""}));
    assert_eq!((&grant.info[..], &grant.data[..]), (&b"7"[..], &b"8"[..]));
}

#[test]
fn capabilities_by_regular_expression() {
    let claims = connection(serde_json::json!({
        "caps": [{"channels": ["room:[0-9]+"], "match": "regex", "allow": ["sub", "pub"]}]
    }));
    let caps = claims.unwrap().caps;
    assert!(caps.allows("room:12", Allow::Publish));
    assert!(!caps.allows("room:12x", Allow::Publish));
    assert!(!caps.allows("room:12", Allow::History));
    let written = vec![
        Capability::regex(
            vec!["room:[0-9]+".into()],
            vec![Allow::Subscribe, Allow::Publish],
        )
        .unwrap(),
    ];
    assert_eq!(caps.0, Some(written));
}

#[test]
fn audience_and_issuer_where_they_are_configured() {
    use serde_json::json;
    assert!(of("demo", json!({"aud": "anybody", "iss": "anybody"})).is_ok());
    assert!(of("aud", json!({"aud": "chat"})).is_ok());
    assert!(of("aud", json!({"aud": ["mail", "chat"]})).is_ok());
    for aud in [
        json!("mail"),
        json!(["mail"]),
        json!([]),
        json!("chat2"),
        json!(null),
    ] {
        assert_eq!(
            of("aud", json!({"aud": aud})),
            Err(Refusal::Audience),
            "{aud}"
        );
    }
    assert_eq!(of("aud", json!({})), Err(Refusal::Audience));
    assert_eq!(of("aud", json!({"aud": 7})), Err(Refusal::Claims));
    assert!(of("iss", json!({"iss": "https://id.example"})).is_ok());
    for iss in [
        json!("https://id.example/"),
        json!(["https://id.example"]),
        json!(null),
    ] {
        assert_eq!(
            of("iss", json!({"iss": iss})),
            Err(Refusal::Issuer),
            "{iss}"
        );
    }
}

#[test]
fn subscription_tokens() {
    use serde_json::json;
    let claims = subscription(json!({
        "sub": "42",
        "channel": "$room:1",
        "client": "c-1",
        "info": {"a": 1},
        "data": [1],
        "override": {"force_recovery": {"value": true}},
        "exp": NOW + 60,
    }))
    .unwrap();
    assert_eq!(claims.instance, InstanceId::from("demo"));
    assert_eq!(
        (claims.user.as_str(), claims.channel.as_str()),
        ("42", "$room:1")
    );
    assert_eq!(claims.client.as_deref(), Some("c-1"));
    assert_eq!(&claims.grant.info[..], br#"{"a":1}"#);
    assert_eq!(&claims.grant.data[..], b"[1]");
    assert_eq!(claims.grant.overrides.force_recovery, Some(true));
    assert_eq!(claims.grant.expires_unix_ms, Some((NOW + 60) * 1000));

    let end = |claims| subscription(claims).map(|c| c.grant.expires_unix_ms);
    assert_eq!(end(json!({"channel": "a"})), Ok(None));
    assert_eq!(
        end(json!({"channel": "a", "exp": NOW + 9, "expire_at": 0})),
        Ok(None)
    );
    let later = json!({"channel": "a", "exp": NOW + 9, "expire_at": NOW + 99});
    assert_eq!(end(later), Ok(Some((NOW + 99) * 1000)));
    assert_eq!(
        end(json!({"channel": "a", "exp": NOW})),
        Err(Refusal::Expired)
    );
    assert_eq!(
        end(json!({"channel": "a", "expire_at": NOW})),
        Err(Refusal::Expired)
    );
    assert_eq!(
        subscription(json!({"channel": "a", "client": ""}))
            .unwrap()
            .client,
        None
    );
    for bad in [
        json!({}),
        json!({"channel": 7}),
        json!({"channel": ""}),
        json!({"channel": "a b"}),
        json!({"channel": "a", "client": 7}),
        json!({"channel": "a", "nbf": NOW + 9}),
        json!({"channel": "a", "b64info": "?"}),
        json!({"channel": "a", "sub": "u".repeat(256)}),
    ] {
        assert_eq!(subscription(bad.clone()), Err(Refusal::Claims), "{bad}");
    }
    // One kind is never the other.
    assert_eq!(
        connection(json!({"sub": "u", "channel": "a"})),
        Err(Refusal::Claims)
    );
}

#[test]
fn a_key_of_another_instance_gives_no_subscription() {
    let keys = KeyTable::new(&snapshot(), |_| Fetched::None);
    let token = sign("aud", serde_json::json!({"channel": "a", "aud": "chat"}));
    let verify =
        |instance: &str| verify_subscription_token(&keys, &instance.into(), &token, NOW_MS);
    assert!(verify("aud").is_ok());
    let refused = verify("demo").err().map(TokenError::from);
    assert_eq!(refused, Some(TokenError::Invalid));
}

#[test]
fn when_a_token_that_is_taken_back_has_ended() {
    use serde_json::json;
    let ends = |claims| named_token(&sign("demo", claims)).unwrap().ends_unix_ms;
    assert_eq!(ends(json!({"exp": NOW})), Some(NOW * 1000));
    assert_eq!(ends(json!({"exp": NOW as f64 + 0.5})), Some(NOW_MS));
    assert_eq!(ends(json!({})), None);
    let of_both = |expire_at: i64| ends(json!({"exp": NOW, "expire_at": expire_at}));
    assert_eq!(of_both(NOW + 9), Some((NOW + 9) * 1000));
    assert_eq!(of_both(NOW - 9), Some(NOW * 1000));
    assert_eq!(of_both(0), None);
    assert_eq!(ends(json!({"expire_at": NOW})), Some(NOW * 1000));
    // Times that are none say nothing.
    assert_eq!(ends(json!({"exp": 1e300})), None);
    assert_eq!(ends(json!({"exp": "soon"})), None);
    assert_eq!(named_token("t1").unwrap().ends_unix_ms, None);
    assert_eq!(named_token("t1").unwrap().key, claims::id_of_jti("t1"));
    assert_eq!(named_token(""), None);
    assert_eq!(named_token(&"j".repeat(256)), None);
}

#[test]
fn by_what_a_token_can_be_taken_back() {
    let keys = KeyTable::new(&snapshot(), |_| Fetched::None);
    let id = |claims: serde_json::Value| {
        let token = sign("demo", claims);
        verify_token(&keys, &"demo".into(), &token, NOW_MS)
            .unwrap()
            .1
    };
    let by_jti = id(serde_json::json!({"jti": "t1", "sub": "a", "iat": NOW}));
    assert_eq!(by_jti.id, claims::id_of_jti("t1"));
    assert_eq!(by_jti.issued_unix_ms, Some(NOW * 1000));
    let again = id(serde_json::json!({"jti": "t1", "sub": "b"}));
    assert_eq!((again.id, again.issued_unix_ms), (by_jti.id, None));
    let (a, b) = (
        id(serde_json::json!({"sub": "a"})),
        id(serde_json::json!({"sub": "b"})),
    );
    assert_ne!(a.id, b.id);
    // An empty one is none, also where the API names the token by its text.
    let empty = serde_json::json!({"sub": "a", "jti": ""});
    let text = sign("demo", empty.clone());
    assert_eq!(id(empty).id, claims::id_of_text(&text));
    assert_eq!(named_token(&text).unwrap().key, claims::id_of_text(&text));
    assert_eq!(
        a.id,
        claims::id_of_text(&sign("demo", serde_json::json!({"sub": "a"})))
    );
}
