//! Geo, a region and an edge as processes of one mesh.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use crate::{Node, gb6, get, printed, refused};

/// A mesh in a directory: certificates, snapshot, and ports that were free a moment ago.
struct Mesh {
    dir: tempfile::TempDir,
    geo: String,
    region: String,
}

impl Mesh {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("mesh-data");
        printed(dir.path(), &["cert", "ca", "mesh-data/certs"]);
        for (role, name) in [("geo", "g1"), ("region", "r1"), ("edge", "e1")] {
            printed(
                dir.path(),
                &[
                    "cert",
                    "node",
                    "--ca",
                    "mesh-data/certs",
                    "--role",
                    role,
                    "--name",
                    name,
                ],
            );
        }
        // Held together, so that they differ.
        let free = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [geo, region] = free.map(|socket| socket.local_addr().unwrap().to_string());
        fs::write(data.join("demo.secret"), "0123456789abcdef".repeat(4)).unwrap();
        let snapshot = printed(dir.path(), &["config", "example", "snapshot"])
            .replace("127.0.0.1:7700", &geo)
            .replace("127.0.0.1:7600", &region);
        fs::write(data.join("snapshot.toml"), snapshot).unwrap();
        Self { dir, geo, region }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, role: &str) -> Command {
        let mut command = gb6(self.path());
        command.args([role, "--http", "127.0.0.1:0", "--log-filter", "info"]);
        match role {
            "geo" => command.args(["--mesh-listen", &self.geo]),
            "region" => command.args(["--mesh-listen", &self.region]),
            _ => command.args(["--drain", "1s"]),
        };
        if role != "geo" {
            command.args(["--mesh-geo", &format!("g1@{}", self.geo)]);
        }
        command
    }
}

#[test]
fn a_mesh_of_processes_starts_in_any_order_works_without_geo_and_drains() {
    let mesh = Mesh::new();
    // The edge knows nothing yet, and waits.
    let mut edge = Node::start_unready(mesh.command("edge").arg("--ready-json"));
    let geo = Node::start(mesh.command("geo"));
    let region = Node::start(mesh.command("region"));
    edge.wait_ready();
    for node in [&geo, &region, &edge] {
        assert_eq!(
            get(node.http(), "/readyz"),
            (200, "{\"ready\":true}".into()),
            "{}",
            node.ready
        );
        let metrics = get(node.http(), "/metrics").1;
        assert!(metrics.contains("gb6_mesh_links_up_total{"), "{metrics}");
    }
    assert_eq!(edge.text("role"), "edge");
    assert_eq!(region.text("node"), "r1");
    assert!(
        get(region.http(), "/metrics")
            .1
            .contains("gb6_snapshot_revision 1")
    );

    // The keys stay with the edge.
    let kept = |node: &str| {
        fs::read_to_string(
            mesh.path()
                .join("mesh-data")
                .join(node)
                .join("snapshot.json"),
        )
        .unwrap()
    };
    assert!(kept("e1").contains("0123456789abcdef"));
    assert!(!kept("r1").contains("0123456789abcdef"));
    printed(
        mesh.path(),
        &[
            "token",
            "create",
            "--data-dir",
            "mesh-data/e1",
            "--user",
            "alice",
        ],
    );

    // A second process on the same logs is refused before it says a word to anybody.
    let said = refused(
        mesh.path(),
        &[
            "region",
            "--http",
            "127.0.0.1:0",
            "--mesh-listen",
            "127.0.0.1:0",
        ],
        1,
    );
    assert!(
        said.contains(&format!("process {}", region.pid())),
        "{said}"
    );

    let stop = |node: Node| {
        let name = node.text("node").to_owned();
        let (status, more, said) = node.stop();
        assert_eq!(status.code(), Some(0), "{name}: {said}");
        assert!(more.is_empty(), "{name}: {more:?}");
    };
    stop(edge);
    stop(geo);
    let edge = Node::start(mesh.command("edge"));
    assert_eq!(
        get(edge.http(), "/readyz").0,
        200,
        "it works by what it kept"
    );
    stop(edge);
    stop(region);
}

#[test]
fn a_node_with_anothers_certificate_does_not_start() {
    let mesh = Mesh::new();
    let wrong = |args: &[&str]| refused(mesh.path(), args, 1);
    let said = wrong(&["edge", "--name", "e2"]);
    assert!(
        said.contains("gb6 cert node --role edge --name e2"),
        "{said}"
    );
    let said = wrong(&[
        "edge",
        "--name",
        "e2",
        "--mesh-cert",
        "mesh-data/certs/e1.pem",
        "--mesh-key",
        "mesh-data/certs/e1.key",
    ]);
    assert!(
        said.contains("is of node e1, but this node is e2"),
        "{said}"
    );
    let said = wrong(&["geo", "--name", "e1"]);
    assert!(said.contains("does not carry the role geo"), "{said}");
}
