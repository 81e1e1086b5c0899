//! The commands that end by themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{gb6, printed, refused, run};

fn snapshot(dir: &Path) {
    fs::write(
        dir.join("demo.secret"),
        "0123456789abcdef0123456789abcdef\n",
    )
    .unwrap();
    fs::write(
        dir.join("s.toml"),
        printed(dir, &["config", "example", "snapshot"]),
    )
    .unwrap();
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = "drain = \"1s\"\nhttp = \"127.0.0.1:1\"\n[log]\nfilter = \"warn\"\n";
    fs::write(dir.path().join("e.toml"), file).unwrap();
    let check = |variables: &[(&str, &str)], flags: &[&str]| -> toml::Table {
        let output = gb6(dir.path())
            .args(["config", "check", "edge", "--config", "e.toml"])
            .args(flags)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        toml::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
    };
    let http = |table: &toml::Table| table["http"].as_str().unwrap().to_owned();
    assert_eq!(http(&check(&[], &[])), "127.0.0.1:1");
    let variables = [("GB6_HTTP", "127.0.0.1:2"), ("GB6_LOG_FILTER", "debug")];
    let table = check(&variables, &[]);
    assert_eq!(http(&table), "127.0.0.1:2");
    assert_eq!(table["log"]["filter"].as_str(), Some("debug"));
    assert_eq!(table["drain"].as_str(), Some("1s"));
    let table = check(&variables, &["--http", "127.0.0.1:3"]);
    assert_eq!(http(&table), "127.0.0.1:3");
    assert_eq!(table["log"]["filter"].as_str(), Some("debug"));

    // An empty file is the defaults, which the example says.
    fs::write(dir.path().join("empty.toml"), "").unwrap();
    fs::write(
        dir.path().join("ex.toml"),
        printed(dir.path(), &["config", "example", "edge"]),
    )
    .unwrap();
    let checked = |file| printed(dir.path(), &["config", "check", "edge", "--config", file]);
    assert_eq!(checked("empty.toml"), checked("ex.toml"));
}

#[test]
fn mistakes_say_where_and_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("g.toml"),
        "name = \"g1\"\nsnapshott = \"x\"\n",
    )
    .unwrap();
    let said = refused(
        dir.path(),
        &["config", "check", "geo", "--config", "g.toml"],
        2,
    );
    assert!(
        said.contains("g.toml: line 2: unknown key `snapshott` (did you mean `snapshot`?)"),
        "{said}"
    );
    let said = refused(dir.path(), &["geo", "--config", "g.toml"], 2);
    assert!(said.contains("g.toml: line 2"), "{said}");

    let output = gb6(dir.path())
        .args(["config", "check", "region"])
        .env("GB6_MESH_LISTEN", "here")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("GB6_MESH_LISTEN: `here` is no address"),
        "{said}"
    );

    snapshot(dir.path());
    let good = run(dir.path(), &["config", "check", "snapshot", "s.toml"]);
    assert!(good.status.success());
    let text = fs::read_to_string(dir.path().join("s.toml")).unwrap();
    fs::write(
        dir.path().join("s.toml"),
        text.replace("owners = [\"r1\"]", "owners = [\"e1\"]"),
    )
    .unwrap();
    let said = refused(dir.path(), &["config", "check", "snapshot", "s.toml"], 2);
    assert!(
        said.contains("s.toml: line ") && said.contains("`e1` has not the role region"),
        "{said}"
    );
}

#[test]
fn certificates_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(printed(dir.path(), &["cert", "ca", "certs"]), "");
    let node = [
        "cert", "node", "--ca", "certs", "--role", "edge", "--name", "e1",
    ];
    assert_eq!(printed(dir.path(), &node), "");
    for file in ["ca.key", "e1.key"] {
        let mode = fs::metadata(dir.path().join("certs").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let said = refused(dir.path(), &node, 1);
    assert!(said.contains("exists already"), "{said}");
    let said = refused(
        dir.path(),
        &[
            "cert", "node", "--ca", "certs", "--role", "king", "--name", "e2",
        ],
        2,
    );
    assert!(said.contains("edge, region and geo"), "{said}");
    let said = refused(
        dir.path(),
        &[
            "cert", "node", "--ca", "certs", "--role", "geo", "--name", "E 2",
        ],
        2,
    );
    assert!(said.contains("no name of a node"), "{said}");
    let said = refused(
        dir.path(),
        &[
            "cert", "node", "--ca", "none", "--role", "geo", "--name", "g1",
        ],
        1,
    );
    assert!(said.contains("gb6 cert ca"), "{said}");
    let out = [&node[..], &["--out", "elsewhere"]].concat();
    printed(dir.path(), &out);
    assert!(dir.path().join("elsewhere/e1.pem").exists());
}

/// The claims of a token, not verified.
fn claims(token: &str) -> serde_json::Value {
    let part = token.trim_end().split('.').nth(1).unwrap();
    let sixes: Vec<u32> = part
        .bytes()
        .map(|b| match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            other => panic!("{other} is not base64url"),
        })
        .map(u32::from)
        .collect();
    let bytes: Vec<u8> = sixes
        .chunks(4)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0, |bits, six| bits << 6 | six) << (6 * (4 - chunk.len()));
            bits.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn tokens_say_what_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    snapshot(dir.path());
    let create = ["token", "create", "--config", "s.toml", "--user", "alice"];
    let token = printed(
        dir.path(),
        &[
            &create[..],
            &[
                "--channels",
                "room:*,news:x",
                "--allow",
                "sub,hst",
                "--ttl",
                "2h",
            ],
        ]
        .concat(),
    );
    assert_eq!(token.lines().count(), 1, "only the token is printed");
    let said = claims(&token);
    assert_eq!(said["sub"], "alice");
    assert_eq!(
        said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(),
        7200
    );
    let caps = serde_json::json!([{"channels": ["room:*", "news:x"], "match": "wildcard", "allow": ["sub", "hst"]}]);
    assert_eq!(said["caps"], caps);
    assert!(claims(&printed(dir.path(), &create)).get("caps").is_none());

    for (more, code, words) in [
        (
            &["--allow", "fly", "--channels", "x"][..],
            2,
            "pub (publish)",
        ),
        (&["--channels", "x"][..], 2, "--allow"),
        (&["--ttl", "soon"][..], 2, "10s"),
        (&["--ttl", "1ms"][..], 2, "at least a second"),
        (
            &["--instance", "acme"][..],
            1,
            "there is no instance acme; there are: demo",
        ),
        (
            &["--key", "demo.other"][..],
            1,
            "no key demo.other; there are: demo.main",
        ),
    ] {
        let said = refused(dir.path(), &[&create[..], more].concat(), code);
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let said = refused(dir.path(), &["token", "create", "--user", "a"], 1);
    assert!(said.contains("there are no keys in gb6-data"), "{said}");
}

#[test]
fn tokens_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    snapshot(dir.path());
    fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let start = ["token", "create", "--config", "s.toml", "--user", "alice"];
        [&start[..], more].concat()
    }
    let said = claims(&printed(
        dir.path(),
        &create(&[
            "--channel",
            "$room:1",
            "--client",
            "c1",
            "--info",
            "{\"a\":1}",
            "--data",
            "[1]",
        ]),
    ));
    assert_eq!(said["channel"], "$room:1");
    assert_eq!(said["client"], "c1");
    assert_eq!(said["info"], serde_json::json!({"a": 1}));
    assert_eq!(said["data"], serde_json::json!([1]));
    let said = claims(&printed(
        dir.path(),
        &create(&[
            "--subs",
            "news,room:1",
            "--meta",
            "{}",
            "--jti",
            "t1",
            "--aud",
            "chat",
            "--iss",
            "x",
        ]),
    ));
    assert_eq!(said["channels"], serde_json::json!(["news", "room:1"]));
    assert_eq!(
        (&said["jti"], &said["aud"], &said["iss"]),
        (&"t1".into(), &"chat".into(), &"x".into())
    );
    let subs = r#"{"room:1":{"data":{"a":1}}}"#;
    let said = claims(&printed(dir.path(), &create(&["--subs", subs])));
    assert_eq!(said["subs"]["room:1"]["data"]["a"], 1);

    // A private key stands for those of the instance.
    let key = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../edge/node/tests/keys/p256.pem"
    );
    let token = printed(
        dir.path(),
        &create(&["--private-key", key, "--key", "backend"]),
    );
    let shown = printed(dir.path(), &["token", "show", token.trim()]);
    for line in [
        "algorithm  ES256",
        "key        backend",
        "user       alice",
        "expires    in",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let signature = token.trim().rsplit('.').next().unwrap();
    assert!(!shown.contains(signature), "{shown}");
    for (more, code, words) in [
        (&["--info", "{"][..], 2, "no JSON"),
        (&["--channel", "a b"][..], 2, "printable ASCII"),
        (
            &["--channel", "a", "--subs", "b"][..],
            2,
            "cannot be used with",
        ),
        (&["--client", "c"][..], 2, "--channel"),
        (
            &["--private-key", "nowhere"][..],
            1,
            "nowhere can not be read",
        ),
        (
            &["--private-key", "s.toml"][..],
            1,
            "no private key that can sign",
        ),
        (
            &["--private-key", key, "--algorithm", "ES384"][..],
            1,
            "could not be signed",
        ),
        (
            &["--private-key", key, "--algorithm", "HS256"][..],
            2,
            "RS256",
        ),
    ] {
        let said = refused(dir.path(), &create(more), code);
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let said = refused(dir.path(), &["token", "show", "a.b"], 2);
    assert!(said.contains("three parts"), "{said}");
}

#[test]
fn the_doctor_looks_at_everything() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap().to_string();
    let output = run(
        dir.path(),
        &["doctor", "--data-dir", "data", "--http", &addr],
    );
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{found}");
    for subject in ["files", "tcp", "buffer", "clock", "space", "disk"] {
        assert!(
            found
                .lines()
                .any(|l| l.get(6..).is_some_and(|l| l.starts_with(subject))),
            "{subject}: {found}"
        );
    }
    let me = format!("process {}", std::process::id());
    assert!(found.contains(&me) && found.contains("--http"), "{found}");
    assert!(!dir.path().join("data").exists(), "looking changes nothing");
}

#[test]
fn versions_and_usage() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        printed(dir.path(), &["version"]),
        concat!(env!("CARGO_PKG_VERSION"), "\n")
    );
    assert!(refused(dir.path(), &["regoin"], 2).contains("'region'"));
    assert!(refused(dir.path(), &["dev", "--http", "8080"], 2).contains("--http"));
}
