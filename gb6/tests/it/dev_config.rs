//! `gb6 dev` with a configuration file: several instances in one process, and what happens when
//! the file changes.

use std::fs;
use std::path::Path;
use std::process::Command;

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{ClientError, Session, Target};

use crate::{Node, block_on, eventually, gb6, get, printed, refused};

/// Two instances, each with a key of its own and a host name.
const TWO: &str = r#"
data_dir = "data"
http = "127.0.0.1:0"
default_instance = "acme"

[instances.acme]
hosts = ["chat.acme.example"]
keys = [{ id = "main", secret = "acme acme acme acme acme acme acme" }]
[instances.acme.namespaces.room]
presence = true

[instances.shop]
keys = [{ id = "main", secret = "shop shop shop shop shop shop shop" }]
[instances.shop.namespaces.order]
"#;

fn write(dir: &Path, text: &str) {
    fs::write(dir.join("dev.toml"), text).unwrap();
}

fn dev(dir: &Path) -> Command {
    let mut command = gb6(dir);
    command.args(["dev", "--config", "dev.toml"]);
    command
}

/// A token of `instance`, signed with the key `key` of the file.
fn token(dir: &Path, instance: &str, key: &str) -> String {
    let args = ["token", "create", "--config", "dev.toml", "--user", "alice"];
    let which = ["--instance", instance, "--key", key];
    printed(dir, &[&args[..], &which].concat())
        .trim()
        .to_owned()
}

fn publish(node: &Node, token: &str, room: &str) -> Result<u64, ClientError> {
    block_on(async {
        let target = Target::new(node.text("ws"), token, Dialect::Json);
        let (session, _pushes) = Session::connect(&target).await?;
        Ok(session.room_publish(room, None, "{}").await?.offset)
    })
}

/// Tells the process to read its file again, and waits until it has.
fn reload(node: &Node, metric: &str) {
    let count = || get(node.http(), "/metrics").1.lines().any(|l| l == metric);
    assert!(!count(), "{metric} already");
    node.signal("-HUP");
    eventually(metric, count);
}

#[test]
fn instances_of_a_file_are_served_apart_and_follow_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, TWO);
    let node = Node::start(dev(dir));
    assert_eq!(node.text("instance"), "acme");
    assert!(node.text("data_dir").ends_with("/data"));
    let alice = node.ready["tokens"]["alice"].as_str().unwrap();
    assert_eq!(publish(&node, alice, "room:a").unwrap(), 1);

    // The listener's own instance decides for a key id that names none.
    let acme = token(dir, "acme", "main");
    let shop = token(dir, "shop", "main");
    assert_eq!(publish(&node, &acme, "room:a").unwrap(), 2);
    assert_eq!(
        publish(&node, &shop, "order:a").unwrap_err().close_code(),
        Some(3500)
    );
    // One that gb6 dev made names its instance.
    let args = ["token", "create", "--data-dir", "data", "--user", "bob"];
    let own = printed(dir, &[&args[..], &["--instance", "shop"]].concat());
    assert_eq!(publish(&node, own.trim(), "order:a").unwrap(), 1);
    assert_eq!(
        publish(&node, own.trim(), "room:a").unwrap_err().code(),
        102
    );

    // A mistake changes nothing, whatever else the file says.
    write(
        dir,
        &TWO.replace("presence = true", "presense = true\nhistory_size = 1"),
    );
    reload(&node, "gb6_config_file_good 0");
    assert_eq!(publish(&node, &acme, "room:a").unwrap(), 3);

    // Another instance, with records of its own, and a room more for one that was there.
    let more = "[instances.acme.namespaces.news]\n[instances.third]\n\
                [instances.third.namespaces.room]\n";
    write(
        dir,
        &TWO.replace("[instances.shop]\n", &format!("{more}[instances.shop]\n")),
    );
    reload(&node, "gb6_config_revision 2");
    eventually("the new namespace", || {
        publish(&node, &acme, "news:a").is_ok()
    });
    let third = printed(dir, &[&args[..], &["--instance", "third"]].concat());
    eventually("the new instance", || {
        publish(&node, third.trim(), "room:a").is_ok()
    });
    let keys = fs::read_to_string(dir.join("data/record-keys.json")).unwrap();
    for instance in ["acme", "shop", "third"] {
        assert!(keys.contains(&format!("\"{instance}\"")), "{instance}");
    }

    // What needs a restart is said, and the rest is taken over.
    write(dir, &TWO.replace("data_dir", "drain = \"2s\"\ndata_dir"));
    reload(&node, "gb6_config_revision 3");
    eventually("the namespace to be gone", || {
        publish(&node, &acme, "news:a").is_err_and(|error| error.code() == 102)
    });
    let (status, _, said) = node.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    for words in [
        "unknown key `presense` (did you mean `presence`?)",
        "what is in force stays",
        "used from the next start on",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(!said.contains("acme acme"), "a secret is told: {said}");

    // The rooms are there at the next start.
    let node = Node::start(dev(dir));
    assert_eq!(publish(&node, &acme, "room:a").unwrap(), 4);
}

#[test]
fn a_file_is_checked_without_being_served() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, TWO);
    let args = ["config", "check", "dev", "--config", "dev.toml"];
    let shown = printed(dir, &[&args[..], &["--drain", "7s"]].concat());
    assert!(
        shown.contains("drain = \"7s\"") && shown.contains("[clients]"),
        "{shown}"
    );
    assert!(!shown.contains("acme acme"), "{shown}");

    write(
        dir,
        &TWO.replace(
            "[instances.shop]",
            "[instances.shop]\nregion = \"eu\"\nhost = []",
        ),
    );
    for args in [&args[..], &["dev", "--config", "dev.toml"]] {
        let said = refused(dir, args, 2);
        assert!(
            said.contains("dev.toml: line 14: unknown key `host` (did you mean `hosts`?)"),
            "{said}"
        );
    }
    let example = printed(dir, &["config", "example", "dev"]);
    write(dir, &example);
    assert!(printed(dir, &args).contains("data_dir = \"gb6-data\""));
    // With the instance that it shows.
    fs::write(dir.join("acme.secret"), "s".repeat(40)).unwrap();
    write(
        dir,
        &example
            .replace("# [", "[")
            .replace("# hosts", "hosts")
            .replace("# keys", "keys"),
    );
    printed(dir, &args);
    assert!(refused(dir, &["dev", "--config", "none.toml"], 2).contains("none.toml"));
}
