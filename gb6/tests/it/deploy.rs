//! The configuration in `deploy/`, as `gb6` reads it. What a region's engines need is not there when it is
//! checked, so that the keys of its file are held against the documentation instead (`scripts/lint.sh
//! deploy`).

use std::fs;
use std::path::{Path, PathBuf};

use gb6_core_model::snapshot::{Assigned, Node};
use gb6_geo_config_plan::read_snapshot;
use gb6_tests_harness::process::workspace;

use crate::gb6;

/// The content of every secret's file.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

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
    fs::write(&secret, SECRET).unwrap();
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

/// What the files beside them say of nodes that die, are drained or are added is true of regions that
/// decide themselves who owns what, by a store that their nodes share.
#[test]
fn the_regions_in_deploy_take_over_from_nodes_that_die() {
    for (dir, ..) in places() {
        let text = fs::read_to_string(dir.join("snapshot.toml")).unwrap();
        let snapshot = read_snapshot(&text, 1, |_| Ok(SECRET.to_owned())).unwrap();
        assert!(!snapshot.regions.is_empty(), "{text}");
        for (name, region) in &snapshot.regions {
            assert_eq!(region.assigned, Assigned::Region, "{name}: {text}");
            let of_region = |node: &&Node| node.region.as_ref() == Some(name);
            let nodes = snapshot.nodes.values().filter(of_region).count();
            assert!(nodes > 1, "{name} has {nodes} node to take over: {text}");
        }
        let text = fs::read_to_string(dir.join("region.toml")).unwrap();
        let stores = text.parse::<toml::Table>().unwrap()["stores"].clone();
        for (key, shared) in [("map", "postgres://"), ("log", "kafka://")] {
            let uri = stores[key].as_str().unwrap();
            assert!(uri.starts_with(shared), "{}: {key} = {uri}", dir.display());
        }
    }
}
