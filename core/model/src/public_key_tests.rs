//! Keys as openssl and another library write them, and texts that are no usable key.

use super::*;

const RSA: &str = include_str!("../tests/keys/rsa.pub");
const RSA_PKCS1: &str = include_str!("../tests/keys/rsa1.pub");
const WEAK: &str = include_str!("../tests/keys/weak.pub");
const P256_PEM: &str = include_str!("../tests/keys/p256.pub");
const P384_PEM: &str = include_str!("../tests/keys/p384.pub");
const P521_PEM: &str = include_str!("../tests/keys/p521.pub");
const ED25519_PEM: &str = include_str!("../tests/keys/ed.pub");
const ED448_PEM: &str = include_str!("../tests/keys/ed448.pub");

// The same keys as JSON Web Keys, written by Python's cryptography.
const RSA_JWK: &str = r#"{"kty":"RSA","use":"sig","alg":"RS384","kid":"r","n":"vUXMbiLBKLxNOn9YsGx1BxhZbfE4E3w1CR6tPAWTAsbrwEc3ghloxGWjue4g4AD-CjLcyvd-I57hnmlvRe1jnDRSuG9hfvz-oMRCtNr3PJS-qxMoI6cZbKHRowDSxToiHkw1duiMSYK14aOEo5itHU_2WTgYJO5vbyAPKOmNbL6Ba0TidmFQoX6rsHJ5dF_4KzsHSiOJj2sG2yzCNe_srzLYA9nVzc05dOxOonBdrplZn9ieO7zvJ0BTP-7XNCs5ljcnpVaWmaHQDVTXfV7C6Ez7FtcHN2QgQnAfS2CxPZn3o_jJUL6_Qg810iWbHNovFciDmPqrGKVWNrPOW4dnGw","e":"AQAB"}"#;
const P256_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"4IpR5sVrLFUtz2v-wAMnLdWZK0Ex2ee-80BhBE-BYqY","y":"dR0XNbuKvKnJpCppB4yd9JaCF1-lRWfL5unNmWicP74"}"#;
const P384_JWK: &str = r#"{"kty":"EC","crv":"P-384","key_ops":["verify"],"x":"wcaAT0W0PtIldx00-g9ssSpNCGDmZKrc42nJC9ZUUDAPYvZhy9AaDkD4TO_GnKf4","y":"xg-_7NYcB5YYbH9Ylnb-bvDT-BYdItN7ifp59Yg3Jdb7bB0DtSPz3u9sXVAupXja"}"#;
const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","x":"t6uFG1xYSLGu-o34o6m5x1jwL73Au_AeshqTD8k7P1g"}"#;

fn parse(text: &str) -> PublicKey {
    PublicKey::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(text: &str) -> PublicKeyError {
    PublicKey::parse(text).expect_err(text)
}

#[test]
fn pem_and_json_web_keys_give_the_same_key() {
    use KeyAlgorithm::*;
    for (pem, jwk, algorithms) in [
        (RSA, RSA_JWK, &[RS256, RS384, RS512][..]),
        (RSA_PKCS1, RSA_JWK, &[RS256, RS384, RS512]),
        (P256_PEM, P256_JWK, &[ES256]),
        (P384_PEM, P384_JWK, &[ES384]),
        (ED25519_PEM, ED25519_JWK, &[EdDSA]),
    ] {
        assert_eq!(parse(pem), parse(jwk));
        assert_eq!(parse(pem).algorithms(), algorithms);
    }
    let jwk = VerifyingJwk::parse(RSA_JWK).unwrap();
    assert_eq!((jwk.id.as_deref(), jwk.algorithm), (Some("r"), Some(RS384)));
    let windows = P256_PEM.replace('\n', "\r\n");
    assert_eq!(parse(&windows), parse(P256_PEM));
}

#[test]
fn what_is_refused_and_in_what_words() {
    use PublicKeyError::*;
    assert_eq!(refused(WEAK), RsaBits(1024));
    assert_eq!(refused(P521_PEM), Unsupported("this curve".into()));
    assert_eq!(refused(ED448_PEM), Unsupported("this kind of key".into()));
    let private = P256_PEM.replace("PUBLIC", "PRIVATE");
    assert_eq!(refused(&private), Private);
    assert_eq!(refused(&private.replace("PRIVATE", "RSA PRIVATE")), Private);
    let certificate = P256_PEM.replace("PUBLIC KEY", "CERTIFICATE");
    assert_eq!(
        refused(&certificate),
        Unsupported("PEM `CERTIFICATE`".into())
    );
    assert_eq!(refused("ssh-ed25519 AAAA"), NoKey);
    assert_eq!(refused(""), NoKey);
    assert_eq!(
        refused(&format!("{{{}", "x".repeat(PUBLIC_KEY_BYTES_MAX))),
        NoKey
    );
    // Cut anywhere it is damaged, never another key.
    for end in 1..P256_PEM.trim_end().len() {
        assert!(PublicKey::parse(&P256_PEM[..end]).is_err(), "{end}");
    }
    let changed = |jwk: &str, from: &str, to: &str| {
        assert!(jwk.contains(from), "{from}");
        refused(&jwk.replace(from, to))
    };
    assert_eq!(refused(r#"{"kty":"oct","k":"c2VjcmV0"}"#), Symmetric);
    assert_eq!(changed(P256_JWK, r#""x""#, r#""d":"AA","x""#), Private);
    assert_eq!(changed(RSA_JWK, "sig", "enc"), Use("use"));
    assert_eq!(changed(P384_JWK, "verify", "sign"), Use("key_ops"));
    assert_eq!(changed(RSA_JWK, "RS384", "ES256"), Use("alg"));
    assert_eq!(changed(RSA_JWK, "RS384", "HS256"), Use("alg"));
    assert_eq!(
        changed(RSA_JWK, "RS384", "PS256"),
        Unsupported("PS256".into())
    );
    assert_eq!(
        changed(P256_JWK, "P-256", "P-521"),
        Unsupported("EC P-521".into())
    );
    assert!(matches!(changed(P256_JWK, "P-256", "P-384"), Damaged(_)));
    assert!(matches!(changed(P256_JWK, r#""y""#, r#""z""#), Damaged(_)));
    assert!(matches!(changed(RSA_JWK, "AQAB", "AQAA"), Damaged(_)));
    assert!(matches!(changed(RSA_JWK, "AQAB", "AQ"), Damaged(_)));
    assert!(matches!(changed(RSA_JWK, "AQAB", "?"), Damaged(_)));
    assert!(matches!(refused(r#"{"kty":7}"#), Damaged(_)));
}

#[test]
fn any_text_does_no_harm() {
    for text in [
        RSA,
        RSA_PKCS1,
        P384_PEM,
        ED25519_PEM,
        RSA_JWK,
        P256_JWK,
        ED25519_JWK,
    ] {
        for at in 0..text.len() {
            for byte in [0, b'A', b'{', b'"', 0xff] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = byte;
                fuzz_public_key(&bytes);
            }
        }
    }
}
