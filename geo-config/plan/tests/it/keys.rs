//! Keys of tokens and of the server API: every form in which they are written, and what is wrong
//! with one.

use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse, Snapshot};
use gb6_geo_config_plan::{EXAMPLE, Problems, read_snapshot};

use crate::{SECRET, read};

const P256: &str = include_str!("../../../../core/model/tests/keys/p256.pub");
const RSA: &str = include_str!("../../../../core/model/tests/keys/rsa.pub");
const WEAK: &str = include_str!("../../../../core/model/tests/keys/weak.pub");
const ED25519_JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","alg":"EdDSA","x":"t6uFG1xYSLGu-o34o6m5x1jwL73Au_AeshqTD8k7P1g"}"#;

/// The example with these lines in `[instances.demo]`, and with files of these names.
fn with(lines: &str) -> Result<Snapshot, Problems> {
    let text = EXAMPLE.replacen("slots = 8\n", &format!("slots = 8\n{lines}\n"), 1);
    read_snapshot(&text, 1, |path| match path {
        "p256.pem" => Ok(P256.to_owned()),
        "rsa.pem" => Ok(RSA.to_owned()),
        "weak.pem" => Ok(WEAK.to_owned()),
        "ed.jwk" => Ok(ED25519_JWK.to_owned()),
        "demo.secret" | "long.secret" => Ok(SECRET.repeat(2)),
        "demo.api" => Ok(format!("gb6_demo_{SECRET}\n")),
        other => Err(format!("no file {other}")),
    })
}

fn keys(lines: &str) -> Vec<Key> {
    let snapshot = with(lines).unwrap_or_else(|e| panic!("{lines}: {e}"));
    // Behind the example's own.
    snapshot.instances["demo"].keys[1..].to_vec()
}

fn refused(lines: &str) -> String {
    with(lines).expect_err(lines).to_string()
}

fn told(keys: &[Key]) -> Vec<(&str, KeyAlgorithm)> {
    keys.iter().map(|k| (k.id.as_str(), k.algorithm)).collect()
}

#[test]
fn public_keys_by_table_and_in_short() {
    use KeyAlgorithm::*;
    let short = keys(
        r#"public_keys = [
            { public_key_file = "p256.pem" },
            { id = "demo.rsa", algorithm = "RS512", public_key_file = "rsa.pem" },
            { public_key_file = "ed.jwk" },
        ]"#,
    );
    assert_eq!(
        told(&short),
        [("public-1", ES256), ("demo.rsa", RS512), ("ed", EdDSA)]
    );
    assert!(
        short
            .iter()
            .all(|k| k.secret.is_empty() && k.usage == KeyUse::Client)
    );
    assert_eq!(short[0].public_key, P256.trim());
    let table = format!(
        "{EXAMPLE}\n[[instances.demo.keys]]\nid = \"p\"\nalgorithm = \"ES256\"\npublic_key = '''\n{P256}'''\n"
    );
    let snapshot = read(&table).unwrap();
    assert_eq!(
        snapshot.instances["demo"].keys[1].public_key,
        short[0].public_key
    );
}

#[test]
fn a_shared_secret_verifies_as_much_as_it_is_long_enough_for() {
    use KeyAlgorithm::*;
    let short = keys(&format!("hmac_secret = \"{SECRET}\""));
    assert_eq!(told(&short), [("hmac", HS256)]);
    let long = keys("hmac_secret_file = \"long.secret\"");
    assert_eq!(
        told(&long),
        [("hmac", HS256), ("hmac384", HS384), ("hmac512", HS512)]
    );
    assert_eq!(long[2].secret, SECRET.repeat(2));
}

#[test]
fn api_keys_in_short() {
    let keys = keys(&format!(
        "api_keys = [\"gb6_demo_{SECRET}x\"]\napi_key_files = [\"demo.api\"]"
    ));
    let told: Vec<_> = keys.iter().map(|k| (k.id.as_str(), k.usage)).collect();
    assert_eq!(told, [("api-1", KeyUse::Api), ("api-2", KeyUse::Api)]);
    assert_eq!(keys[1].secret, format!("gb6_demo_{SECRET}"));
}

#[test]
fn where_keys_are_fetched_from() {
    for url in [
        "https://id.example.org/.well-known/jwks.json",
        "https://id.example.org:8443",
        "http://127.0.0.1:9000/jwks",
        "http://localhost/jwks?x=1",
        "http://[::1]:9000/",
    ] {
        let snapshot = with(&format!("jwks_url = \"{url}\"")).unwrap();
        assert_eq!(snapshot.instances["demo"].jwks_url.as_deref(), Some(url));
    }
    for url in [
        "http://id.example.org/jwks",
        "http://127.0.0.1.example.org/jwks",
        "http://10.0.0.1/jwks",
        "https://user@id.example.org/jwks",
        "https:///jwks",
        "https://id.example.org/#keys",
        "https://id.example.org/a b",
        "file:///etc/keys",
        "id.example.org",
    ] {
        let shown = refused(&format!("jwks_url = \"{url}\""));
        assert!(
            shown.contains("an https URL, or an http URL of this machine"),
            "{url}: {shown}"
        );
    }
}

#[test]
fn instances_that_fetch_the_same_keys_tell_their_tokens_apart() {
    let two = |demo: &str, acme: &str| {
        let acme = format!(
            "[instances.acme]\nregion = \"eu\"\njwks_url = \"https://id.example.org/k\"\n{acme}\n"
        );
        let lines = format!("jwks_url = \"https://id.example.org/k\"\n{demo}");
        let text = EXAMPLE.replacen("slots = 8\n", &format!("slots = 8\n{lines}\n"), 1);
        read(&format!("{text}\n{acme}"))
    };
    let (a, b) = ("token_audience = \"a\"", "token_audience = \"b\"");
    assert!(two(a, b).is_ok());
    for (demo, acme) in [("", ""), (a, ""), ("", b), (a, a)] {
        let shown = two(demo, acme).expect_err("shared keys").to_string();
        assert!(shown.contains("would be let in at both"), "{shown}");
    }
}

#[test]
fn what_is_wrong_with_a_key() {
    let public = |entry: &str| refused(&format!("public_keys = [{{ {entry} }}]"));
    for (shown, want) in [
        (
            public("algorithm = \"ES512\", public_key_file = \"p256.pem\""),
            "P-521 is not supported",
        ),
        (
            public("algorithm = \"none\", public_key_file = \"p256.pem\""),
            "nobody signed",
        ),
        (
            public("algorithm = \"PS256\", public_key_file = \"rsa.pem\""),
            "known here: HS256",
        ),
        // A public key as the secret of an HMAC is the classic confusion.
        (
            public("algorithm = \"HS256\", public_key_file = \"rsa.pem\""),
            "not for HS256, but for RS256",
        ),
        (
            public("algorithm = \"RS256\", public_key_file = \"p256.pem\""),
            "not for RS256, but for ES256",
        ),
        (
            public("public_key_file = \"weak.pem\""),
            "this one has 1024",
        ),
        (public("public_key = \"x\""), "neither a PEM block"),
        (
            public("public_key = \"x\", public_key_file = \"p256.pem\""),
            "not both",
        ),
        (public("id = \"a\""), "it needs `public_key` or"),
        (
            public("id = \"acme.k\", public_key_file = \"p256.pem\""),
            "names the instance `acme`",
        ),
        (
            public("public_key_file = \"nowhere\""),
            "nowhere: no file nowhere",
        ),
        (refused("hmac_secret = \"short\""), "the secret has 5 bytes"),
        (
            refused(&format!(
                "hmac_secret = \"{SECRET}\"\nhmac_secret_file = \"demo.secret\""
            )),
            "not both",
        ),
        (
            refused("api_keys = [\"gb6_acme_0123456789012345678901234567890123\"]"),
            "begins with gb6_demo_",
        ),
        (
            refused("api_keys = [\"gb6_demo_short\"]"),
            "32 random characters",
        ),
        (
            refused("api_key_files = [\"demo.api\", \"demo.api\", \"demo.api\"]"),
            "at most 2 keys",
        ),
        (refused("token_audience = \"\""), "1 to 1024 bytes"),
    ] {
        assert!(shown.contains(want), "{want}: {shown}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let key = |lines: &str| {
        let text = format!("{EXAMPLE}\n[[instances.demo.keys]]\nid = \"k\"\n{lines}\n");
        read(&text).expect_err(lines).to_string()
    };
    let long = format!("secret = \"{SECRET}\"");
    for (shown, want) in [
        (
            key(&format!("algorithm = \"HS384\"\n{long}")),
            "needed are 48",
        ),
        (
            key(&format!("algorithm = \"ES256\"\n{long}")),
            "verifies with a public key",
        ),
        (
            key(&format!("use = \"api\"\nalgorithm = \"HS256\"\n{long}")),
            "has no algorithm",
        ),
        (
            key("use = \"api\"\npublic_key = \"x\""),
            "an API key is a secret",
        ),
    ] {
        assert!(shown.contains(want), "{want}: {shown}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let many: Vec<String> = (0..65)
        .map(|n| format!("{{ id = \"k{n}\", public_key_file = \"p256.pem\" }}"))
        .collect();
    let shown = refused(&format!("public_keys = [{}]", many.join(", ")));
    assert!(shown.contains("at most 64 keys of tokens"), "{shown}");
    let twice = "public_keys = [{ id = \"demo.main\", public_key_file = \"p256.pem\" }]";
    assert!(refused(twice).contains("two keys with the id `demo.main`"));
}
