//! Customers in a directory on SQLite: `gb6 ctl` changes them, geo serves them, clients feel it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, Target};
use gb6_tests_harness::process::{hs256, member};
use serde_json::Value;

use crate::mesh::Mesh;
use crate::{Node, block_on, eventually, gb6, get};

/// A directory beside other things.
struct Customers<'a> {
    dir: &'a Path,
}

impl<'a> Customers<'a> {
    fn new(dir: &'a Path) -> Self {
        fs::write(dir.join("directory.key"), "7".repeat(64)).unwrap();
        Self { dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = gb6(self.dir);
        command.arg("ctl").args(args);
        command.args(["--directory", "sqlite:customers.db"]);
        command.args(["--directory-key-file", "directory.key"]);
        command
    }

    /// Runs a command to its end.
    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it printed, having succeeded.
    fn ctl(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON that it printed.
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["--json"]].concat())).unwrap()
    }

    /// What it said, having failed with `code`.
    fn refused(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    /// What it said, having read `input`.
    fn with_input(&self, args: &[&str], input: &str) -> (Option<i32>, String) {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let all = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(all).unwrap())
    }

    /// A customer with the instance acme in the region eu.
    fn acme(&self) -> String {
        let org = self.ctl(&["org", "add", "Acme, Inc."]).trim().to_owned();
        fs::write(
            self.dir.join("acme.toml"),
            "subscriptions_max = 7\n[namespaces.room]\npresence = true\n",
        )
        .unwrap();
        self.ctl(&[
            "instance",
            "add",
            "acme",
            "--org",
            &org,
            "--region",
            "eu",
            "--settings",
            "acme.toml",
        ]);
        org
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let found = value[key].as_str();
    found.unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Whether a client is let in with a token of this key.
fn connects(edge: &Node, key: &Value) -> bool {
    let token = hs256(
        text(key, "secret").as_bytes(),
        text(key, "key"),
        &member("alice"),
    );
    let target = Target::new(edge.text("ws"), &token, Dialect::Json);
    block_on(async {
        match Session::connect(&target).await {
            Ok((session, _pushes)) => {
                let published = session.room_publish("room:one", None, "{}").await;
                // The region may hear of an instance after the edge.
                published.is_ok()
            }
            Err(_) => false,
        }
    })
}

/// The status of a request to the server API.
fn api(addr: SocketAddr, key: &Value) -> u16 {
    let mut tcp = TcpStream::connect(addr).unwrap();
    let (key, body) = (
        text(key, "secret"),
        "{\"channel\":\"room:one\",\"data\":{}}",
    );
    write!(
        tcp,
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn geo(mesh: &Mesh) -> Command {
    let mut geo = mesh.command("geo");
    geo.args(["--stores-directory", "sqlite:customers.db"]);
    geo.args(["--stores-directory-key-file", "directory.key"]);
    geo
}

#[test]
fn clients_of_an_instance_in_the_directory_come_and_go_with_its_keys() {
    let mesh = Mesh::new();
    let customers = Customers::new(mesh.path());
    let check = |code| {
        let mut geo = geo(&mesh);
        let output = geo.arg("--check").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(1);
    assert!(
        said.contains("FAIL  sqlite:customers.db: unavailable: there is no file"),
        "{said}"
    );
    customers.acme();
    let said = check(0);
    assert!(
        said.contains("ok    directory key directory.key: it is one"),
        "{said}"
    );
    let (one, two) = (
        customers.json(&["key", "add", "acme"]),
        customers.json(&["key", "add", "acme", "--use", "api"]),
    );
    let node = Node::start(geo(&mesh));
    let (region, edge) = (
        Node::start(mesh.command("region")),
        Node::start(mesh.command("edge")),
    );
    eventually("a client", || connects(&edge, &one));
    assert_eq!(api(edge.metrics(), &two), 200);
    let metrics = |node: &Node| get(node.metrics(), "/metrics").1;
    assert!(metrics(&node).contains("gb6_geo_directory_up 1"));

    // A key that is added, and one that is revoked.
    let three = customers.json(&["key", "add", "acme"]);
    eventually("the new key", || connects(&edge, &three));
    customers.ctl(&["key", "revoke", "acme", text(&one, "key")]);
    eventually("the revoked key to be refused", || !connects(&edge, &one));
    assert!(connects(&edge, &three));

    // Suspended, nobody is let in; resumed, it is as before.
    customers.ctl(&["instance", "suspend", "acme"]);
    // Region and edge hear of it each by itself.
    eventually("nobody to be let in", || {
        !connects(&edge, &three) && api(edge.metrics(), &two) == 401
    });
    customers.ctl(&["instance", "resume", "acme"]);
    eventually("everybody to be back", || connects(&edge, &three));

    // Geo starts without its directory, by what it kept; traffic knows nothing of it.
    assert!(node.stop().0.success());
    let moved = mesh.path().join("away");
    fs::create_dir(&moved).unwrap();
    let files: Vec<_> = fs::read_dir(mesh.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("customers.db"))
        .collect();
    for name in &files {
        fs::rename(mesh.path().join(name), moved.join(name)).unwrap();
    }
    let node = Node::start(geo(&mesh));
    assert!(metrics(&node).contains("gb6_geo_directory_up 0"));
    let (status, body) = get(node.http(), "/readyz");
    assert!(
        status == 200 && body.contains("there is no file customers.db"),
        "{body}"
    );
    assert!(!mesh.path().join("customers.db").exists());
    assert!(connects(&edge, &three));
    for name in &files {
        fs::rename(moved.join(name), mesh.path().join(name)).unwrap();
    }
    customers.ctl(&["instance", "remove", "acme"]);
    eventually("the removal", || !connects(&edge, &three));
    eventually("geo to be well", || {
        get(node.http(), "/readyz").1 == "{\"ready\":true}"
    });
    let (status, _, said) = node.stop();
    assert!(status.success(), "{said}");
    assert!(said.contains("the directory can be read again"), "{said}");
    assert!(!said.contains(text(&three, "secret")), "{said}");
    drop((region, edge));
}

#[test]
fn an_instance_in_the_file_too_is_told_and_changes_nothing() {
    let mesh = Mesh::new();
    let customers = Customers::new(mesh.path());
    let org = customers.acme();
    let node = Node::start(geo(&mesh));
    let shows = |line: &str| get(node.http(), "/metrics").1.lines().any(|l| l == line);
    assert!(shows("gb6_geo_snapshot_revision 1"));
    customers.ctl(&["instance", "add", "demo", "--org", &org, "--region", "eu"]);
    eventually("the mistake", || shows("gb6_geo_snapshot_file_good 0"));
    assert!(shows("gb6_geo_snapshot_revision 1"));
    customers.ctl(&["instance", "remove", "demo"]);
    eventually("its end", || shows("gb6_geo_snapshot_file_good 1"));
    let (_, _, said) = node.stop();
    assert!(
        said.contains("instances.demo: the instance is in the snapshot file and in the directory"),
        "{said}"
    );
}

#[test]
fn customers_are_changed_with_an_audit() {
    let dir = tempfile::tempdir().unwrap();
    let customers = Customers::new(dir.path());
    let said = customers.refused(&["org", "list"], 1);
    assert!(
        said.contains("the first `gb6 ctl org add` makes it"),
        "{said}"
    );
    let org = customers.acme();
    let part = customers.json(&["org", "add", "Sales", "--parent", &org]);
    assert_eq!(
        (text(&part, "slug"), text(&part, "customer")),
        ("sales", org.as_str())
    );
    assert!(
        customers
            .ctl(&["org", "list"])
            .contains("Acme, Inc. (acme-inc)")
    );

    // Settings are shown as they are set.
    let shown = customers.ctl(&["instance", "show", "acme"]);
    assert!(
        shown.contains("subscriptions_max = 7") && shown.contains("region eu, active"),
        "{shown}"
    );
    let set = ["instance", "set", "acme", "--settings", "-"];
    let (code, said) = customers.with_input(&set, &shown.replace("= 7", "= 0"));
    assert_eq!(code, Some(2));
    assert!(
        said.contains("-: line 2: instances.acme.subscriptions_max: 0 is out of range"),
        "{said}"
    );
    let (code, _) = customers.with_input(&set, &shown.replace("= 7", "= 8"));
    assert_eq!(code, Some(0));
    let shown = customers.json(&["instance", "show", "acme"]);
    assert_eq!(
        (&shown["settings"]["subscriptions_max"], &shown["version"]),
        (&8.into(), &2.into())
    );

    // A secret is shown once, and named by settings.
    let hook = customers.json(&["key", "add", "acme", "--use", "secret", "--id", "hooks"]);
    let webhooks = "[webhooks]\nurl = \"https://acme.example/hook\"\nsecret_file = \"hooks\"\n";
    let (code, said) = customers.with_input(&set, webhooks);
    assert_eq!(code, Some(0), "{said}");
    let said = customers.refused(&["key", "revoke", "acme", "hooks"], 1);
    assert!(said.contains("change them first"), "{said}");
    let list = customers.ctl(&["key", "list", "acme"]);
    assert!(
        list.contains("hooks") && !list.contains(text(&hook, "secret")),
        "{list}"
    );
    let (code, said) = customers.with_input(
        &[
            "key",
            "add",
            "acme",
            "--secret-file",
            "-",
            "--id",
            "acme.short",
        ],
        "too-short\n",
    );
    assert_eq!(code, Some(2));
    assert!(
        said.contains("the secret has 9 bytes") && !said.contains("too-short"),
        "{said}"
    );
    for _ in 0..2 {
        customers.ctl(&["key", "add", "acme", "--use", "api"]);
    }
    let said = customers.refused(&["key", "add", "acme", "--use", "api"], 1);
    assert!(said.contains("has 2 keys of this use already"), "{said}");

    // What is not there, or of another kind, is named.
    for (args, code, want) in [
        (
            &["instance", "show", "nobody"][..],
            1,
            "there is no instance nobody",
        ),
        (&["key", "revoke", "acme", "k"], 1, "acme has no key k"),
        (
            &["key", "add", "acme", "--use", "x"],
            2,
            "write client, api or secret",
        ),
        (&["org", "suspend", "acme"], 2, "gb6 ctl org list"),
        (
            &["instance", "add", "acme", "--org", &org, "--region", "eu"],
            1,
            "exists already",
        ),
        (
            &["instance", "add", "Acme", "--org", &org, "--region", "eu"],
            2,
            "no name of an instance",
        ),
        (
            &["org", "suspend", text(&part, "id")],
            1,
            "name that one with --customer",
        ),
    ] {
        let said = customers.refused(args, code);
        assert!(said.contains(want), "{args:?}: {said}");
    }

    // The audit has all of it, and is whole.
    customers.ctl(&[
        "org", "suspend", &org, "--actor", "ops@acme", "--reason", "unpaid",
    ]);
    let audit = customers.json(&["audit", "list", &org]);
    let entries = audit.as_array().unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| text(entry, "action")).collect();
    assert_eq!(
        &actions[..3],
        ["organization.create", "instance.create", "instance.update"]
    );
    let last = entries.last().unwrap();
    let words = ["action", "target", "actor", "detail"].map(|key| text(last, key));
    let target = format!("organization {org}");
    assert_eq!(
        words,
        [
            "organization.update",
            &target,
            "ops@acme",
            "gb6 ctl: unpaid"
        ]
    );
    let said = customers.ctl(&["audit", "verify", &org]);
    let head = said.lines().last().unwrap();
    assert!(
        said.contains("is whole") && head.starts_with(&format!("{}:", entries.len())),
        "{said}"
    );
    customers.ctl(&["org", "resume", &org]);
    customers.ctl(&["audit", "verify", &org, "--head", head]);
    let other = format!("{}:{}", entries.len(), "0".repeat(64));
    let said = customers.refused(&["audit", "verify", &org, "--head", &other], 1);
    assert!(said.contains("its end was cut off"), "{said}");
    // SQLite has no months, and the present one is nobody's to take.
    let detach = |before| ["audit", "detach", "--before", before];
    let said = customers.refused(&detach("2026-01"), 1);
    assert!(
        said.contains("customers.db is SQLite, which keeps no months apart"),
        "{said}"
    );
    for (before, want) in [
        ("2099-12", "in the future"),
        ("2026-1", "write one as in 2026-01"),
    ] {
        let said = customers.refused(&detach(before), 2);
        assert!(said.contains(want), "{said}");
    }

    // Who may be told something older is told the same: SQLite has no standby.
    for list in [
        &["org", "list"][..],
        &["key", "list", "acme"],
        &["audit", "verify", &org],
    ] {
        let stale = [list, &["--stale", "30s"]].concat();
        assert_eq!(customers.ctl(&stale), customers.ctl(list));
    }
    for (age, want) in [("5", "a number without a unit"), ("10ms", "write 1s to 1d")] {
        let said = customers.refused(&["org", "list", "--stale", age], 2);
        assert!(said.contains(want), "{said}");
    }

    // Another sealing key: the old one is behind it until all is written anew.
    let (old, new) = ("7".repeat(64), "8".repeat(64));
    let key_file = dir.path().join("directory.key");
    fs::write(&key_file, &new).unwrap();
    let said = customers.refused(&["key", "list", "acme"], 1);
    assert!(
        said.contains("sealed with a key that was not given"),
        "{said}"
    );
    fs::write(&key_file, format!("{new}\n{old}\n")).unwrap();
    assert_eq!(customers.json(&["key", "reseal"])["sealed"], 3);
    fs::write(&key_file, &new).unwrap();
    assert_eq!(
        customers
            .json(&["key", "list", "acme"])
            .as_array()
            .unwrap()
            .len(),
        3
    );
}
