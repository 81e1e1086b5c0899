//! `gb6 bench` against a real server, two seconds each: figures come out, and nothing is dropped.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::dev::dev;
use crate::{Node, printed, refused};

/// The figures of a bench with `arguments`.
fn figures(dir: &Path, arguments: &str) -> Value {
    let mut all = vec!["bench"];
    all.extend(arguments.split(' '));
    all.push("--json");
    serde_json::from_str(&printed(dir, &all)).unwrap()
}

/// Asserts that nothing was counted under `keys`.
fn none(figures: &Value, keys: &[&str]) {
    for key in keys {
        assert_eq!(figures[key].as_u64(), Some(0), "{key} of {figures:#}");
    }
}

fn more_than(figures: &Value, key: &str, least: u64) {
    let figure = figures[key].as_f64().unwrap();
    assert!(figure > least as f64, "{key} of {figures:#}");
}

#[test]
fn a_server_that_runs_is_measured_and_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    fs::write(dir.path().join("ready"), node.ready.to_string()).unwrap();
    let server = "--ready-file ready --no-pin";
    let briefly = "--duration 2 --warm-up 0.2";

    for load in ["--in-flight 1", "--in-flight 32 --method rpc", "--pace 200"] {
        let command = format!("publish {server} {briefly} --connections 8 --rooms 4 {load}");
        let found = figures(dir.path(), &command);
        more_than(&found, "acked", 20);
        more_than(&found["latency"], "p50_us", 0);
        assert_eq!(found["failed"], serde_json::json!({}), "{found:#}");
        assert_eq!(found["cpu"][0]["name"], "gb6", "{found:#}");
        none(&found, &["unanswered", "closed"]);
    }
    for load in [
        "--in-flight 4",
        "--pace 2000",
        "--in-flight 4 --protocol json",
    ] {
        let command = format!("fanout {server} {briefly} --subscribers 50 {load}");
        let found = figures(dir.path(), &command);
        more_than(&found, "delivered", 500);
        none(&found, &["late", "lost", "closed"]);
    }
    let command = format!("idle {server} --connections 100 --rooms 10 --settle 1");
    let found = figures(dir.path(), &command);
    more_than(&found["memory"][0], "after", 0);
    none(&found, &["closed"]);
    for each in ["1", "7"] {
        let command = format!(
            "reconnect {server} --clients 100 --rooms 10 --each {each} --missed 5 --storm-rate 5"
        );
        let found = figures(dir.path(), &command);
        assert_eq!(found["back"].as_u64(), Some(100), "{found:#}");
        more_than(&found, "acked", 50);
        none(&found, &["lost", "doubled", "unrecovered"]);
    }
    assert!(node.stop().0.success());
}

#[test]
fn connections_over_tls_and_quic_are_weighed_beside_bare_ones() {
    let dir = tempfile::tempdir().unwrap();
    let small = "--connections 40 --rooms 4 --settle 0.2 --no-pin";
    for carrier in ["tls", "quic"] {
        let ours = figures(dir.path(), &format!("secure --over {carrier} {small}"));
        let floor = if carrier == "tls" { "tls" } else { "quinn" };
        let bare = figures(dir.path(), &format!("floor {floor} {small}"));
        for found in [&ours, &bare] {
            assert_eq!(found["accept"]["count"].as_u64(), Some(40), "{found:#}");
            none(found, &["closed"]);
        }
        let session = &ours["session"]["latency"]["count"];
        assert_eq!(session.as_u64(), Some(40), "{ours:#}");
        assert!(bare["session"].is_null(), "{bare:#}");
    }
}

#[test]
fn a_user_at_two_edges_is_blocked_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let found = figures(dir.path(), "revoke --connections 60 --others 20 --no-pin");
    assert_eq!(found["cut"].as_u64(), Some(60), "{found:#}");
    assert_eq!(found["ends"]["count"].as_u64(), Some(60), "{found:#}");
    more_than(&found, "answered_ms", 0);
    none(&found, &["otherwise", "others_cut"]);
    let names = found["cpu"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|share| share["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["edge-2", "edge", "region"], "{found:#}");
}

#[test]
fn deltas_are_measured_in_both_encodings() {
    let dir = tempfile::tempdir().unwrap();
    let said = printed(dir.path(), &["bench", "delta", "--publications", "100"]);
    assert!(
        said.contains("delta, json:") && said.contains("delta, protobuf:"),
        "{said}"
    );
}

#[test]
fn any_server_that_speaks_the_protocol_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    let (url, token) = (
        node.text("ws"),
        node.ready["tokens"]["alice"].as_str().unwrap(),
    );
    let publish = [
        "bench",
        "publish",
        "--connections",
        "2",
        "--duration",
        "0.2",
        "--warm-up",
        "0",
    ];
    let with = |more: &[&'static str], url: &str| {
        let mut all: Vec<String> = publish
            .iter()
            .chain(more)
            .map(|a| (*a).to_owned())
            .collect();
        all.extend(["--url".to_owned(), url.to_owned()]);
        all
    };
    let refused_with = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused(dir.path(), &arguments, 1)
    };
    let given = [
        with(&["--room-prefix", "room:other."], url),
        vec!["--token".into(), token.into()],
    ]
    .concat();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let said = printed(dir.path(), &given);
    assert!(
        said.contains("acknowledged/s") && !said.contains("failed"),
        "{said}"
    );

    // A namespace that the server has not.
    let other = [
        with(&["--room-prefix", ""], url),
        vec!["--token".into(), token.into()],
    ]
    .concat();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let said = printed(dir.path(), &other);
    assert!(said.contains("times 102 unknown channel"), "{said}");

    let said = refused_with(&with(&[], url));
    assert!(said.contains("--token") && said.contains("3501"), "{said}");
    let said = refused_with(&with(&[], &url.replace("ws://", "wss://")));
    assert!(said.contains("TLS (wss://) is not spoken"), "{said}");
}
