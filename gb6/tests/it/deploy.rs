//! The configuration in `deploy/`, as `gb6` reads it. What a region's engines need is not there when it is
//! checked, so that the keys of its file are held against the documentation instead (`scripts/lint.sh
//! deploy`).

use std::fs;
use std::path::{Path, PathBuf};

use gb6_tests_harness::process::workspace;

use crate::gb6;

/// Where the files are, and the name that an edge has there.
fn places() -> [(PathBuf, &'static str, &'static str); 2] {
    let deploy = workspace().join("deploy");
    [
        (deploy.join("compose"), "g1", "e1"),
        (deploy.join("kubernetes/config"), "geo-0", "edge-0"),
    ]
}

fn check(dir: &Path, name: &str, args: &[&str]) -> String {
    let output = gb6(dir).env("GB6_NAME", name).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{}: {args:?}: {said}",
        dir.display()
    );
    said + &String::from_utf8(output.stdout).unwrap()
}

#[test]
fn geo_and_edges_start_on_what_stands_in_deploy() {
    for (dir, geo, edge) in places() {
        for (role, name) in [("geo", geo), ("edge", edge)] {
            let file = format!("{role}.toml");
            let shown = check(&dir, name, &["config", "check", role, "--config", &file]);
            assert!(shown.contains(&format!("name = \"{name}\"")), "{shown}");
            assert!(shown.contains(&format!("/{name}.pem\"")), "{shown}");
        }
    }
}

#[test]
fn the_snapshots_in_deploy_are_good() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("demo.secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    for (dir, geo, edge) in places() {
        let text = fs::read_to_string(dir.join("snapshot.toml")).unwrap();
        let (before, rest) = text.split_once("secret_file = \"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        let text = format!("{before}secret_file = \"{}\"{after}", secret.display());
        for node in [geo, edge] {
            assert!(text.contains(&format!("[nodes.{node}]")), "{text}");
        }
        let file = scratch.path().join("snapshot.toml");
        fs::write(&file, text).unwrap();
        let said = check(
            scratch.path(),
            geo,
            &["config", "check", "snapshot", "snapshot.toml"],
        );
        assert!(said.contains("is good: 1 instances, 1 regions"), "{said}");
    }
}
