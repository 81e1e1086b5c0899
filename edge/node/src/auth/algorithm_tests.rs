//! Every algorithm, and every way in which a token claims another than its key's.

use std::sync::Arc;

use gb6_core_model::VerifyingJwk;
use gb6_core_model::snapshot::{Instance, Key, KeyUse, Snapshot};

use super::*;

const RSA: &str = include_str!("../../../../core/model/tests/keys/rsa.pub");
const P256: &str = include_str!("../../../../core/model/tests/keys/p256.pub");
const P384: &str = include_str!("../../../../core/model/tests/keys/p384.pub");
const ED25519: &str = include_str!("../../../../core/model/tests/keys/ed.pub");
const RSA_PRIVATE: &str = include_str!("../../tests/keys/rsa.pem");
const P256_PRIVATE: &str = include_str!("../../tests/keys/p256.pem");
const P384_PRIVATE: &str = include_str!("../../tests/keys/p384.pem");
const ED25519_PRIVATE: &str = include_str!("../../tests/keys/ed25519.pem");
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

// Tokens that Python's cryptography signed with the private keys: {"sub":"42"}.
const BY_PYTHON_RS256: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.KBnHgpreeD8DCEwBGLPItYtpiJw3uQ0IBxF47JNH_EMcLwyRZaPgcQ738Y1pknjL8908g8Vnwx7Ojs3H1QSd_E49pWTJIXwAqBQH1pwA7e_odVJxIaWp3ztBBipvTm7ZGXU9zc12fY4re-En2IrFGfCcl38LQ8cP-XLc5-JPyjoKH6ch0_3AyL2P4jETLzkKuWen58pRKXL3-OnGVP4_wiLd67DYZqqsVrkUJFEtIBob46uR9XVKG2bL7eIliQDRRr_O8OXTgfklUuMmb7Kq2CeY6ttJc_JRZAt3f6zs7prDEIfe3FJNo_RCzpe39zdDzt3okfPvOK6K19AKiWgCDA";
const BY_PYTHON_RS384: &str = "eyJhbGciOiJSUzM4NCIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.JErowrgfGWcRaZoRHzdCaGsBPrxvh9S5Nz7NDfbC0dLJ24qcXzkH3F0PgxqEPiHFaIVa_1lYLlOioloKnnS-UwXLORSjQTnw-oz7Dp6BWuCF6x9ZuX_1TKrMYdaYaawx0Weyb25GwEONHJLr2_-6d1Pnts_iARNQiNXIJfnZNrnMhJ1CNaxgZv4fk540GPLs4-5rbaSQQ4wzw55c6M3ytVP4GIR-onilqx1yiUClrLb_I87pVzDpGx7Ji1V-riFfxmfy1uLVZeEGPWJvvIB4JE3DkqsTOocjbt6q2lp9ExCxNyGdLBfsjTdUpit84pT3-gjWttcJq_Cg3bfdClVceQ";
const BY_PYTHON_RS512: &str = "eyJhbGciOiJSUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.HzywoBB8j1cuJmKrcY-aW5Teqyn1fZy55Ve420TUurHsVt9f0uFM2UrQWoN0FDGb8BVOaACOB4yCt55lZ68gVL2HisWVjXIi15Zfbud9wyhwTcprH8cDmlvzsP-nTJCzeGuXjiWyXnAXp0S_QpllQWNIyWFg0CruQvRd7T89eOxakO8gkHuEWTk1YCP1Wa9lxuavTsxtqtBJ0bHAO75Qcyvdm-qXl30JfdcnYwbshUeJgPSFNe4X0JIsuFQk38SYxJNwQcQh34HTRXJEfGx_hnhIXYY_QuwlbQLE__MAfTSHdWmZM63jawCxHN5uc5NW7jfzhKIZFO8oDM9hcWeFZQ";
const BY_PYTHON_ES256: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.JXINriCNckWG3J2jdcU9qxjo_0iZBNOVR5zn8t2bChJqbGpvSpa-8q5rMcE8TpGqjCxYZ_Dh0yIiN67Nv1M94w";
const BY_PYTHON_ES384: &str = "eyJhbGciOiJFUzM4NCIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.-dk2jcSaGzSZODtfIx7PNDHWJqXn-KV1b3b9Vjsir9EydXiYaOeWWApyDZBiP6fvmUAfTDEHw1bx8OsQGjmltEEK0R4mmWx48Sg1iGafoEQfGy5zRuNbKVmfRjcz0bFv";
const BY_PYTHON_EDDSA: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.HdWmrAOE3we7nYhIr-fr7wHR032m-QdaY3cIyqtTqG2IW-DqM8iv5zFRvnpKmY3MDw0iWSmoslKsRPSTtKZeAA";
const BY_PYTHON_PS256: &str = "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.OUBeoLI_-aubLWEjTyrY8gkO4DEuPx5uQRvx2U7QNsQv9oYflbV_whfmXpVEf3nV5m41qiHwnHCYPlTZNHqxDnqn235lryd9HETRwXb0sqNUaqsB3Mv4oH8QBjI0o2Al9YfDoPTDkAk6Ycbs3k_1868FVnglT_lRYCAQwYTHivHsYYNACl_gAbS20fh51DPu284BtHLbciaCmE13lnagplYKpMCFqjPoJj4JxZir-YoMXL66bJ0xBvfNo-ZY8IT3WqgGas6jL2-lc1N3SaTg0CWBWix7Kpu2XIl10Uf8aPWS5usbL7Y3STGWBz71W4YVBFFlBQMXlKnCBVJzOT-JBw";
const BY_PYTHON_ES512: &str = "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.AdRUw9Rp4IXVCRqUPRIXnA_fnZJUi1TNzEZYi3Sw-ULEzTZ8cR2SMVlfpIih2B9X3clFbPOpe8FQPlHEo9v79ALwAYMPQ4_Mc28K-mgd5Iw6fGXGM7WPsTG6mKIEwy1143bfLaKZ-3gW_ZLczOUiu9soOLWBB6ucEL2B6yZ_D3JyhRNg";

fn public(id: &str, algorithm: KeyAlgorithm, key: &str) -> Key {
    Key {
        id: id.to_owned(),
        algorithm,
        public_key: key.to_owned(),
        ..Key::default()
    }
}

fn secret(id: &str, algorithm: KeyAlgorithm) -> Key {
    Key {
        id: id.to_owned(),
        algorithm,
        secret: SECRET.to_owned(),
        ..Key::default()
    }
}

fn every_key() -> Vec<Key> {
    use KeyAlgorithm::*;
    vec![
        secret("h256", HS256),
        secret("h384", HS384),
        secret("h512", HS512),
        public("r256", RS256, RSA),
        public("r384", RS384, RSA),
        public("r512", RS512, RSA),
        public("e256", ES256, P256),
        public("e384", ES384, P384),
        public("ed", EdDSA, ED25519),
        Key {
            usage: KeyUse::Api,
            ..secret("api", HS256)
        },
    ]
}

/// An instance `demo` with these keys, and `acme` with none.
fn snapshot(keys: Vec<Key>) -> Snapshot {
    let demo = Instance {
        keys,
        ..Instance::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.instances.insert("demo".into(), demo);
    snapshot
        .instances
        .insert("acme".into(), Instance::default());
    snapshot
}

fn table(keys: Vec<Key>) -> KeyTable {
    KeyTable::new(&snapshot(keys), |_| Fetched::None)
}

fn verify(table: &KeyTable, token: &str) -> Result<String, Refusal> {
    verify_token(table, &"demo".into(), token, 0).map(|(claims, _)| claims.user)
}

/// A token for `u` with this key, whose id it names where it has one.
fn sign(id: Option<&str>, algorithm: KeyAlgorithm, private: &str) -> String {
    let key = SigningKey::private(id.map(str::to_owned), algorithm, private).unwrap();
    sign_claims(&key, &serde_json::json!({"sub": "u"})).unwrap()
}

/// The token with another header, and the signature of the old one.
fn with_header(token: &str, header: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
}

#[test]
fn tokens_of_an_independent_program() {
    let table = table(every_key());
    for token in [
        BY_PYTHON_RS256,
        BY_PYTHON_RS384,
        BY_PYTHON_RS512,
        BY_PYTHON_ES256,
        BY_PYTHON_ES384,
        BY_PYTHON_EDDSA,
    ] {
        assert_eq!(verify(&table, token), Ok("42".to_owned()), "{token}");
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let last = bytes.len() - 1;
        for at in [0, last / 2, last] {
            bytes[at] ^= 1;
            let bad = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&bytes));
            assert_eq!(verify(&table, &bad), Err(Refusal::Signature), "{bad}");
            bytes[at] ^= 1;
        }
        let cut = format!("{message}.{}", &signature[..signature.len() - 4]);
        assert_eq!(verify(&table, &cut), Err(Refusal::Signature));
    }
    // Good signatures by algorithms that there are no keys for.
    for token in [BY_PYTHON_PS256, BY_PYTHON_ES512] {
        assert_eq!(verify(&table, token), Err(Refusal::Algorithm), "{token}");
    }
}

#[test]
fn what_is_signed_here_verifies_with_its_key_and_no_other() {
    use KeyAlgorithm::*;
    let all = every_key();
    for (algorithm, private, owner) in [
        (RS256, RSA_PRIVATE, "r256"),
        (RS384, RSA_PRIVATE, "r384"),
        (RS512, RSA_PRIVATE, "r512"),
        (ES256, P256_PRIVATE, "e256"),
        (ES384, P384_PRIVATE, "e384"),
        (EdDSA, ED25519_PRIVATE, "ed"),
    ] {
        let token = sign(None, algorithm, private);
        for key in &all {
            let alone = table(vec![key.clone()]);
            let want = match key.id == owner {
                true => Ok("u".to_owned()),
                false => Err(Refusal::Algorithm),
            };
            assert_eq!(
                verify(&alone, &token),
                want,
                "{} {}",
                algorithm.name(),
                key.id
            );
        }
        let named = sign(Some(owner), algorithm, private);
        assert_eq!(verify(&table(all.clone()), &named), Ok("u".to_owned()));
        let misnamed = sign(Some("h256"), algorithm, private);
        assert_eq!(
            verify(&table(all.clone()), &misnamed),
            Err(Refusal::Algorithm)
        );
    }
    for (key, other) in [(&all[0], &all[1]), (&all[1], &all[2]), (&all[2], &all[0])] {
        let signing = SigningKey::shared(key).unwrap();
        let token = sign_claims(&signing, &serde_json::json!({"sub": "u"})).unwrap();
        assert_eq!(
            verify(&table(vec![key.clone()]), &token),
            Ok("u".to_owned())
        );
        let wrong = verify(&table(vec![other.clone()]), &token);
        assert_eq!(wrong, Err(Refusal::UnknownKey));
    }
    assert!(SigningKey::private(None, RS256, P256_PRIVATE).is_err());
    assert!(SigningKey::private(None, ES256, "x").is_err());
    assert!(SigningKey::private(None, HS256, RSA_PRIVATE).is_err());
    let es384 = SigningKey::private(None, ES384, P256_PRIVATE).unwrap();
    assert!(sign_claims(&es384, &serde_json::json!({})).is_err());
    assert!(SigningKey::shared(&all[3]).is_err());
    for (private, usual) in [
        (RSA_PRIVATE, Some(RS256)),
        (P256_PRIVATE, Some(ES256)),
        (P384_PRIVATE, Some(ES384)),
        (ED25519_PRIVATE, Some(EdDSA)),
        (P256, None),
    ] {
        assert_eq!(SigningKey::algorithm_of(private), usual);
    }
}

#[test]
fn a_public_key_is_nobodys_secret() {
    // The classic confusion: HMAC with what everybody knows as the secret.
    let jwk = VerifyingJwk::parse(
        r#"{"kty":"EC","crv":"P-256","kid":"j","x":"4IpR5sVrLFUtz2v-wAMnLdWZK0Ex2ee-80BhBE-BYqY","y":"dR0XNbuKvKnJpCppB4yd9JaCF1-lRWfL5unNmWicP74"}"#,
    )
    .unwrap();
    let fetched: Arc<[VerifyingKey]> = vec![VerifyingKey::fetched(
        jwk.id,
        vec![KeyAlgorithm::ES256],
        &jwk.key,
    )]
    .into();
    let mut placed = snapshot(vec![
        public("r256", KeyAlgorithm::RS256, RSA),
        public("e256", KeyAlgorithm::ES256, P256),
        public("ed", KeyAlgorithm::EdDSA, ED25519),
    ]);
    let demo = placed.instances.get_mut("demo").unwrap();
    demo.jwks_url = Some("https://a.b/c".to_owned());
    let table = KeyTable::new(&placed, |_| Fetched::Keys(fetched.clone()));
    let gb6_core_model::PublicKey::P256(point) = &jwk.key else {
        panic!("another kind of key");
    };
    let secrets: [&[u8]; 6] = [
        RSA.as_bytes(),
        RSA.trim().as_bytes(),
        P256.as_bytes(),
        P256.trim().as_bytes(),
        ED25519.as_bytes(),
        point,
    ];
    for known in secrets {
        for (name, hmac) in [
            ("HS256", ring::hmac::HMAC_SHA256),
            ("HS384", ring::hmac::HMAC_SHA384),
            ("HS512", ring::hmac::HMAC_SHA512),
        ] {
            for kid in [
                "",
                ",\"kid\":\"r256\"",
                ",\"kid\":\"e256\"",
                ",\"kid\":\"j\"",
            ] {
                let header = format!("{{\"alg\":\"{name}\"{kid}}}");
                let message = format!(
                    "{}.{}",
                    URL_SAFE_NO_PAD.encode(header),
                    URL_SAFE_NO_PAD.encode("{\"sub\":\"root\"}")
                );
                let tag = ring::hmac::sign(&ring::hmac::Key::new(hmac, known), message.as_bytes());
                let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
                assert_eq!(verify(&table, &token), Err(Refusal::Algorithm), "{token}");
            }
        }
    }
}

#[test]
fn the_header_changes_nothing() {
    let table = table(every_key());
    let token = sign(None, KeyAlgorithm::ES256, P256_PRIVATE);
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"NONE","kid":"e256"}"#,
        r#"{"alg":"ES512"}"#,
        r#"{"alg":"es256"}"#,
        r#"{"kid":"e256"}"#,
    ] {
        assert_eq!(
            verify(&table, &with_header(&token, header)),
            Err(Refusal::Algorithm)
        );
    }
    for header in [r#"{"alg":"ES256","crit":["exp"]}"#, r#"{"alg":7}"#, "7"] {
        assert_eq!(
            verify(&table, &with_header(&token, header)),
            Err(Refusal::Malformed)
        );
    }
    // Keys that a token brings along are not looked at.
    let own = r#"{"alg":"ES256","jwk":{"kty":"EC"},"jku":"https://evil.example/k","x5u":"https://evil.example/c"}"#;
    assert_eq!(
        verify(&table, &with_header(&token, own)),
        Err(Refusal::Signature)
    );
    // A key of the server API signs no tokens.
    let api = SigningKey::shared(&Key {
        id: "api".into(),
        ..secret("api", KeyAlgorithm::HS256)
    });
    let token = sign_claims(&api.unwrap(), &serde_json::json!({"sub": "u"})).unwrap();
    let only = vec![Key {
        usage: KeyUse::Api,
        ..secret("api", KeyAlgorithm::HS256)
    }];
    assert!(
        verify(
            &super::KeyTable::new(&snapshot(only), |_| Fetched::None),
            &token
        )
        .is_err()
    );
}

#[test]
fn fetched_keys_are_of_their_instance_alone_and_name_none() {
    let p256 = gb6_core_model::PublicKey::parse(P256).unwrap();
    let fetched = |id: Option<&str>| -> Fetched {
        let algorithms = p256.algorithms().to_vec();
        let key = VerifyingKey::fetched(id.map(str::to_owned), algorithms, &p256);
        Fetched::Keys(vec![key].into())
    };
    let mut placed = snapshot(vec![secret("demo.k1", KeyAlgorithm::HS256)]);
    placed.instances.get_mut("acme").unwrap().jwks_url = Some("https://a.b/c".to_owned());
    let with = |fetched: Fetched| KeyTable::new(&placed, move |_| fetched.clone());
    let ask = |table: &KeyTable, listener: &str, token: &str| {
        let found = verify_token(table, &listener.into(), token, 0);
        found.map(|(claims, _)| claims.instance.to_string())
    };
    // The set of acme claims the key id of another instance.
    let stolen = sign(Some("demo.k1"), KeyAlgorithm::ES256, P256_PRIVATE);
    let table = with(fetched(Some("demo.k1")));
    assert_eq!(ask(&table, "demo", &stolen), Err(Refusal::Algorithm));
    // At acme it is an id like any other: nobody learns there that demo has such a key.
    assert_eq!(ask(&table, "acme", &stolen), Ok("acme".to_owned()));
    let foreign = sign(Some("demo.k9"), KeyAlgorithm::ES256, P256_PRIVATE);
    let table = with(fetched(Some("demo.k9")));
    assert_eq!(ask(&table, "demo", &foreign), Err(Refusal::UnknownKey));
    assert_eq!(ask(&table, "acme", &foreign), Ok("acme".to_owned()));
    // By `iss` it names nobody either.
    let key = SigningKey::private(None, KeyAlgorithm::ES256, P256_PRIVATE).unwrap();
    let claims = serde_json::json!({"sub": "u", "iss": "demo.k9"});
    let by_issuer = sign_claims(&key, &claims).unwrap();
    assert!(ask(&table, "demo", &by_issuer).is_err());
    // What has yet to be fetched.
    let missing = with(Fetched::Missing);
    let unnamed = sign(None, KeyAlgorithm::ES256, P256_PRIVATE);
    assert_eq!(ask(&missing, "acme", &unnamed), Err(Refusal::KeyNotFetched));
    for id in ["demo.k1", "demo.k9"] {
        let guessed = sign(Some(id), KeyAlgorithm::ES256, P256_PRIVATE);
        assert_eq!(ask(&missing, "acme", &guessed), Err(Refusal::KeyNotFetched));
    }
    assert_eq!(
        TokenError::from(Refusal::KeyNotFetched),
        TokenError::Unavailable
    );
    let there = with(fetched(Some("k1")));
    assert_eq!(ask(&there, "acme", &unnamed), Ok("acme".to_owned()));
    let rotated = sign(Some("k2"), KeyAlgorithm::ES256, P256_PRIVATE);
    assert_eq!(ask(&there, "acme", &rotated), Err(Refusal::KeyNotFetched));
    let without_id = with(fetched(None));
    assert_eq!(ask(&without_id, "acme", &rotated), Ok("acme".to_owned()));
}
