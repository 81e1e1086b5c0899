//! Geo, a region and an edge as processes of one mesh.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, Target, read_log};
use gb6_tests_harness::history::Recorder;
use gb6_tests_harness::process::free_port;

use crate::{Node, PATIENCE, block_on, eventually, gb6, get, printed, refused};

/// A mesh in a directory: certificates, snapshot, and ports that were free a moment ago.
pub(crate) struct Mesh {
    dir: tempfile::TempDir,
    geo: String,
    region: String,
}

impl Mesh {
    pub(crate) fn new() -> Self {
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
        let [geo, region] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port().unwrap()));
        fs::write(data.join("demo.secret"), "0123456789abcdef".repeat(4)).unwrap();
        let snapshot = printed(dir.path(), &["config", "example", "snapshot"])
            .replace("127.0.0.1:7700", &geo)
            .replace("127.0.0.1:7600", &region);
        fs::write(data.join("snapshot.toml"), snapshot).unwrap();
        Self { dir, geo, region }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn command(&self, role: &str) -> Command {
        self.command_at(role, "127.0.0.1:0", "127.0.0.1:0")
    }

    fn command_at(&self, role: &str, http: &str, admin: &str) -> Command {
        let mut command = self.quiet_command_at(role, http, admin);
        command.args(["--log-filter", "info"]);
        command
    }

    /// An edge that logs everything that can be logged.
    pub(crate) fn talkative_edge(&self, name: &str) -> Command {
        let mut command = self.quiet_command_at("edge", "127.0.0.1:0", "127.0.0.1:0");
        command.args(["--name", name, "--log-filter", "trace"]);
        command
    }

    fn quiet_command_at(&self, role: &str, http: &str, admin: &str) -> Command {
        let mut command = gb6(self.path());
        command.args([role, "--http", http]);
        match role {
            "geo" => command.args(["--mesh-listen", &self.geo]),
            "region" => command.args(["--mesh-listen", &self.region]),
            _ => command.args(["--drain", "1s", "--admin", admin]),
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
        let metrics = get(node.metrics(), "/metrics").1;
        assert!(metrics.contains("gb6_mesh_links_up_total{"), "{metrics}");
    }
    // Clients reach neither metrics nor the server API.
    for path in ["/metrics", "/api/openapi.json"] {
        assert_eq!(get(edge.http(), path).0, 404);
        assert_eq!(get(edge.metrics(), path).0, 200);
    }
    assert_eq!(get(edge.metrics(), "/readyz").0, 200);
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

/// The status line of the answer to an upgrade.
fn upgrade(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET /connection/websocket HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn an_edge_without_a_placement_answers_for_its_health_and_serves_nobody() {
    let mesh = Mesh::new();
    let free = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let (addr, admin) = (free(), free());
    let start = || {
        let (addr_text, admin) = (addr.to_string(), admin.to_string());
        let mut command = mesh.command_at("edge", &addr_text, &admin);
        let edge = Node::start_unready(command.arg("--ready-json"));
        eventually("it listens", || TcpStream::connect(addr).is_ok());
        edge
    };
    let edge = start();
    assert_eq!(get(addr, "/healthz").0, 200);
    eventually("it says what is missing", || {
        let (status, body) = get(addr, "/readyz");
        assert_eq!(status, 503, "{body}");
        body.contains("placement") && body.contains("geo has not been reached")
    });
    assert_eq!(upgrade(addr), "HTTP/1.1 503 Service Unavailable");
    assert!(
        get(admin, "/metrics")
            .1
            .contains("gb6_edge_upgrades_refused_total{why=\"placement\"} 1")
    );
    let (status, lines, said) = edge.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(lines.is_empty(), "it was never ready: {lines:?}");

    let mut edge = start();
    let _nodes = (
        Node::start(mesh.command("geo")),
        Node::start(mesh.command("region")),
    );
    edge.wait_ready();
    assert_eq!(get(addr, "/readyz").0, 200);
    assert_eq!(upgrade(addr), "HTTP/1.1 101 Switching Protocols");
}

#[test]
fn a_busy_mesh_port_names_who_holds_it_and_the_flag() {
    let mesh = Mesh::new();
    let geo = Node::start(mesh.command("geo"));
    let holder = format!("process {}", geo.pid());
    for role in ["geo", "region"] {
        let said = refused(
            mesh.path(),
            &[
                role,
                "--http",
                "127.0.0.1:0",
                "--mesh-listen",
                &mesh.geo,
                "--data-dir",
                "other-data",
            ],
            1,
        );
        for words in [&mesh.geo, &holder, "--mesh-listen"] {
            assert!(said.contains(words), "{role}: {words:?} is not in {said}");
        }
    }
    let (status, _, said) = geo.stop();
    assert!(status.success(), "{said}");
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

/// Whether any segment of the region holds `words`.
fn in_the_log(mesh: &Mesh, words: &str) -> bool {
    let shards = fs::read_dir(mesh.path().join("mesh-data/r1/shards")).unwrap();
    let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    let segments = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"));
    segments.into_iter().any(|path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(words.len()).any(|w| w == words.as_bytes())
    })
}

#[test]
fn an_instance_that_is_added_to_a_running_mesh_is_encrypted_from_its_first_message_on() {
    const WORDS: &str = "words that nobody may read on the disk";
    let mesh = Mesh::new();
    let data = mesh.path().join("mesh-data");
    let geo = Node::start(mesh.command("geo"));
    let region = Node::start(mesh.command("region"));
    let edge = Node::start(mesh.command("edge"));

    let snapshot = fs::read_to_string(data.join("snapshot.toml")).unwrap();
    let (start, end) = (
        snapshot.find("[instances.demo]").unwrap(),
        snapshot.find("[regions.eu]").unwrap(),
    );
    let acme = snapshot[start..end].replace("demo", "acme");
    fs::write(data.join("acme.secret"), "fedcba9876543210".repeat(4)).unwrap();
    fs::write(data.join("snapshot.toml"), format!("{snapshot}\n{acme}")).unwrap();
    geo.signal("-HUP");

    let kept = data.join("e1/snapshot.json");
    eventually("the edge has the new instance", || {
        fs::read_to_string(&kept).unwrap().contains("acme")
    });
    let create = [
        "token",
        "create",
        "--data-dir",
        "mesh-data/e1",
        "--instance",
        "acme",
        "--user",
        "alice",
    ];
    let token = printed(mesh.path(), &create);
    let target = Target::new(edge.text("ws"), token.trim(), Dialect::Json);
    // What the edge has kept is in force a moment later.
    eventually("the edge lets her in", || {
        block_on(Session::connect(&target)).is_ok()
    });
    let published = block_on(async {
        let (session, _pushes) = Session::connect(&target).await.unwrap();
        let data = format!("{{\"text\":\"{WORDS}\"}}");
        let began = Instant::now();
        loop {
            match session.room_publish("room:secret", Some("1"), &data).await {
                Ok(published) => break published,
                // The region hears of the instance by itself, perhaps later.
                Err(e) if e.code() > 1000 && began.elapsed() < PATIENCE => {}
                Err(e) => panic!("{e}"),
            }
        }
    });
    assert_eq!(published.offset, 1);
    assert!(in_the_log(&mesh, "room:secret"));
    assert!(!in_the_log(&mesh, WORDS));

    // The key outlives the region.
    assert!(region.stop().0.success());
    let region = Node::start(mesh.command("region"));
    let content = block_on(async {
        let (session, _pushes) = Session::connect(&target).await.unwrap();
        read_log(&session, "alice", "room:secret", false, &Recorder::new()).await
    });
    assert_eq!(content.unwrap().publications.len(), 1);
    drop((edge, region, geo));
}

#[test]
fn nodes_read_their_files_again_and_keep_the_last_good_one() {
    let mesh = Mesh::new();
    let shows = |address, metric: &str| get(address, "/metrics").1.lines().any(|l| l == metric);
    let good = "gb6_config_file_good 1";

    let file = mesh.path().join("geo.toml");
    fs::write(&file, "[log]\nfilter = \"warn\"\n").unwrap();
    let mut command = mesh.quiet_command_at("geo", "127.0.0.1:0", "");
    command.args(["--config", "geo.toml"]);
    let geo = Node::start(command);
    fs::write(&file, "[log]\nfiltre = \"warn\"\n").unwrap();
    geo.signal("-HUP");
    eventually("the mistake", || {
        shows(geo.http(), "gb6_config_refused_total 1")
    });
    assert!(!shows(geo.http(), good));
    fs::write(&file, "[log]\nfilter = \"info\"\n").unwrap();
    geo.signal("-HUP");
    eventually("the other file", || shows(geo.http(), good));

    let region = Node::start(mesh.command("region"));
    let file = mesh.path().join("edge.toml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    write("[log]\nfilter = \"warn\"\n");
    let mut command = mesh.quiet_command_at("edge", "127.0.0.1:0", "127.0.0.1:0");
    command.args(["--config", "edge.toml"]);
    let edge = Node::start(command);
    let admin: SocketAddr = edge
        .text("admin")
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    assert!(shows(admin, good));

    write("[clients]\nconnects_per_secnd = 1\n");
    edge.signal("-HUP");
    eventually("the mistake", || shows(admin, "gb6_config_refused_total 1"));
    assert!(!shows(admin, good));
    assert_eq!(upgrade(edge.http()), "HTTP/1.1 101 Switching Protocols");

    write(
        "[clients]\nconnects_per_second = 1\nconnect_wait = \"0s\"\nconnections_max = 77\n\
         [log]\nfilter = \"info\"\n",
    );
    edge.signal("-HUP");
    eventually("the other file", || shows(admin, good));
    eventually("sessions to begin more slowly", || {
        upgrade(edge.http()) == "HTTP/1.1 503 Service Unavailable"
    });
    let (status, _, said) = edge.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(
        said.contains("edge.toml") && said.contains("connects_per_second"),
        "{said}"
    );
    let next_start: Vec<&str> = said
        .lines()
        .filter(|l| l.contains("from the next start on"))
        .collect();
    assert_eq!(next_start.len(), 1, "{said}");
    assert!(next_start[0].contains("clients.connections_max"), "{said}");
    assert!(said.contains("edge drains"), "at level info: {said}");

    // Without a file there is nothing to be read, and no reason to end.
    region.signal("-HUP");
    let http = region.http();
    eventually("it lives", || get(http, "/readyz").0 == 200);
    let (status, _, said) = region.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("there is no configuration file"), "{said}");

    let (status, _, said) = geo.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    let line_with = |words: [&str; 2]| said.lines().any(|l| words.iter().all(|w| l.contains(w)));
    assert!(line_with(["geo.toml", "filtre"]), "{said}");
    assert!(line_with(["log.filter", "is in force"]), "{said}");
}
