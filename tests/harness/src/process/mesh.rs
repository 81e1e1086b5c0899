//! A mesh on one machine: geo, a region and edges, each a process of its own with its own
//! certificate, configuration and data, all in one directory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use toml::{Table, Value};

use super::{
    Claims, PATIENCE, Process, ProcessError, Scratch, drain, free_port, gb6_binary, hs256, http_get,
};

/// How often a node is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The secret of the demo instance.
const SECRET: &str = "a secret of tests only, 32 bytes and more";
/// The id of the demo instance's key.
const KEY: &str = "demo.main";

/// Changes a snapshot.
pub type ChangeSnapshot = Box<dyn Fn(&mut Table) + Send>;
/// Changes the configuration of the node with this name.
pub type ChangeNode = Box<dyn Fn(&str, &mut Table) + Send>;

/// How to start a mesh.
pub struct MeshOptions {
    /// Its name in directories.
    pub name: String,
    /// How many edges: e1, e2, …
    pub edges: usize,
    /// How many nodes the region has: r1, r2, … More than one need stores that they share.
    pub regions: usize,
    /// Where the region's data is; `None`: beside the rest.
    pub region_data: Option<PathBuf>,
    /// Changes the snapshot before it is written.
    pub snapshot: ChangeSnapshot,
    /// Changes a node's configuration before it is written.
    pub node: ChangeNode,
}

impl MeshOptions {
    /// The same for clients over QUIC: its edges show the certificates that they have in the mesh, to
    /// clients over TCP too.
    pub fn quic(name: &str) -> Self {
        let node = |name: &str, config: &mut Table| {
            if config.contains_key("admin") {
                let (cert, key) = (format!("certs/{name}.pem"), format!("certs/{name}.key"));
                config.insert("tls_cert".into(), Value::String(cert));
                config.insert("tls_key".into(), Value::String(key));
                // UDP, of the same number.
                let quic = config["http"].clone();
                config.insert("quic".into(), quic);
            }
        };
        Self {
            node: Box::new(node),
            ..Self::new(name)
        }
    }

    /// Two edges and one region.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            edges: 2,
            regions: 1,
            region_data: None,
            snapshot: Box::new(|_| {}),
            node: Box::new(|_, _| {}),
        }
    }
}

/// One node of the mesh.
#[derive(Debug)]
pub struct Node {
    role: &'static str,
    program: Vec<String>,
    directory: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    /// Where its metrics are.
    metrics: SocketAddr,
    process: Option<Process>,
}

/// A running mesh; its processes are killed when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    nodes: BTreeMap<String, Node>,
    // After the nodes, which have files in it.
    scratch: Scratch,
}

impl Mesh {
    /// Makes certificates and configuration, starts every node, and waits until all are ready.
    ///
    /// # Errors
    /// A node does not get ready in time.
    pub async fn start(options: MeshOptions) -> Result<Self, ProcessError> {
        let binary = gb6_binary()?;
        let scratch = Scratch::new(&options.name)?;
        let dir = scratch.path().to_owned();
        let mut names = vec![("g1".to_owned(), "geo")];
        names.extend((1..=options.regions).map(|n| (format!("r{n}"), "region")));
        names.extend((1..=options.edges).map(|n| (format!("e{n}"), "edge")));
        let mut ports = BTreeMap::new();
        for (name, _) in &names {
            let port = free_port().and_then(|http| Ok((http, free_port()?)));
            let port = port.map_err(ProcessError::io("no port is free"))?;
            ports.insert(name.clone(), port);
        }
        write_snapshot(&binary, &dir, &names, &ports, &options.snapshot)?;
        run(&binary, &dir, &["cert", "ca", "certs"])?;
        let mut nodes = BTreeMap::new();
        for (name, role) in &names {
            let cert = [
                "cert", "node", "--ca", "certs", "--role", role, "--name", name,
            ];
            run(&binary, &dir, &cert)?;
            let http = SocketAddr::from(([127, 0, 0, 1], ports[name].0));
            // An edge has no address of its own in the mesh, so that port is free for it.
            let metrics = match *role {
                "edge" => SocketAddr::from(([127, 0, 0, 1], ports[name].1)),
                _ => http,
            };
            let mut config = config(name, role, &ports);
            if let (Some(data), "region") = (&options.region_data, *role) {
                let data = Value::String(data.display().to_string());
                config.insert("data_dir".into(), data);
            }
            (options.node)(name, &mut config);
            let file = format!("{name}.toml");
            write(&dir.join(&file), &config.to_string())?;
            let node = Node {
                role,
                program: vec![
                    binary.display().to_string(),
                    (*role).into(),
                    "--config".into(),
                    file,
                ],
                directory: dir.clone(),
                log: dir.join(format!("{name}.log")),
                http,
                metrics,
                process: None,
            };
            nodes.insert(name.clone(), node);
        }
        let mut mesh = Mesh { nodes, scratch };
        for (name, _) in &names {
            mesh.node(name).start()?;
        }
        for (name, _) in &names {
            mesh.node(name).ready(PATIENCE).await?;
        }
        Ok(mesh)
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The node with this name.
    ///
    /// # Panics
    /// There is none: the test is wrong.
    pub fn node(&mut self, name: &str) -> &mut Node {
        match self.nodes.get_mut(name) {
            Some(node) => node,
            None => panic!("the mesh has no node {name}"),
        }
    }

    /// Every node's name, and where it serves metrics.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.nodes
            .iter()
            .map(|(name, node)| (name.as_str(), node.metrics))
    }

    /// The WebSocket of an edge.
    ///
    /// # Panics
    /// There is no such edge: the test is wrong.
    pub fn ws(&self, edge: &str) -> String {
        match self.nodes.get(edge) {
            Some(node) => format!("ws://{}/connection/websocket", node.http),
            None => panic!("the mesh has no edge {edge}"),
        }
    }

    /// Where clients reach an edge, `host:port`; over QUIC by the same number.
    ///
    /// # Panics
    /// There is no such edge: the test is wrong.
    pub fn clients(&self, edge: &str) -> String {
        match self.nodes.get(edge) {
            Some(node) => node.http.to_string(),
            None => panic!("the mesh has no edge {edge}"),
        }
    }

    /// The file with the authority of its certificates (PEM).
    pub fn ca(&self) -> PathBuf {
        self.scratch.path().join("certs/ca.pem")
    }

    /// A token of the demo instance.
    pub fn token(&self, claims: &Claims) -> String {
        hs256(SECRET.as_bytes(), KEY, claims)
    }
}

impl Node {
    /// Starts the process; [`Node::ready`] waits for it.
    ///
    /// # Errors
    /// It can not be started.
    pub fn start(&mut self) -> Result<(), ProcessError> {
        let name = self
            .log
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let (process, stdout) = Process::spawn(&name, &self.program, &self.directory, &self.log)?;
        drain(stdout);
        self.process = Some(process);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// It does not in time, or the process ends.
    pub async fn ready(&mut self, patience: Duration) -> Result<(), ProcessError> {
        let start = Instant::now();
        loop {
            // Not where clients are: there it may be TLS that is spoken.
            let answer = http_get(self.metrics, "/readyz", Duration::from_secs(2)).await;
            // First of all: whoever answers on its port is not it if it ended.
            let process = self.running();
            if let Some(error) = process.ended() {
                return Err(error);
            }
            if answer.as_ref().is_ok_and(|a| a.status == 200) {
                return Ok(());
            }
            if start.elapsed() > patience {
                let seen = match answer {
                    Ok(answer) => {
                        format!("readiness (last answer {} {})", answer.status, answer.body)
                    }
                    Err(e) => format!("readiness ({e})"),
                };
                return Err(process.late(&seen, patience));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The running process.
    ///
    /// # Panics
    /// It was never started: the test is wrong.
    pub fn running(&mut self) -> &mut Process {
        match &mut self.process {
            Some(process) => process,
            None => panic!("{} was not started", self.log.display()),
        }
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone in time.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        self.running().kill().await
    }

    /// Where it serves health; an edge serves clients there too.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it serves metrics; an edge the server API too.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Its role.
    pub fn role(&self) -> &'static str {
        self.role
    }
}

fn write(path: &Path, text: &str) -> Result<(), ProcessError> {
    let what = format!("can not write {}", path.display());
    std::fs::write(path, text).map_err(ProcessError::io(what))
}

/// Runs a command of `gb6` to its end and returns what it printed.
fn run(binary: &Path, dir: &Path, arguments: &[&str]) -> Result<String, ProcessError> {
    let name = format!("gb6 {}", arguments.join(" "));
    let output = std::process::Command::new(binary)
        .args(arguments)
        .current_dir(dir)
        .output()
        .map_err(ProcessError::io(format!("can not run {name}")))?;
    if !output.status.success() {
        return Err(ProcessError::Ended {
            name,
            status: output.status.to_string(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

type Ports = BTreeMap<String, (u16, u16)>;

/// The example snapshot with this mesh's nodes, addresses and secret.
fn write_snapshot(
    binary: &Path,
    dir: &Path,
    names: &[(String, &str)],
    ports: &Ports,
    change: &dyn Fn(&mut Table),
) -> Result<(), ProcessError> {
    let text = run(binary, dir, &["config", "example", "snapshot"])?;
    let mut snapshot: Table = toml::from_str(&text).map_err(|e| ProcessError::Answer {
        name: "gb6 config example snapshot".into(),
        answer: e.to_string(),
        wanted: "TOML".into(),
    })?;
    let mut nodes = Table::new();
    for (name, role) in names {
        let mut node = Table::new();
        node.insert(
            "roles".into(),
            Value::Array(vec![Value::String((*role).into())]),
        );
        if *role != "edge" {
            let address = format!("127.0.0.1:{}", ports[name].1);
            node.insert("mesh".into(), Value::String(address));
        }
        if *role == "region" {
            node.insert("region".into(), Value::String("eu".into()));
        }
        nodes.insert(name.clone(), Value::Table(node));
    }
    snapshot.insert("nodes".into(), Value::Table(nodes));
    change(&mut snapshot);
    write(&dir.join("demo.secret"), SECRET)?;
    write(&dir.join("snapshot.toml"), &snapshot.to_string())
}

fn config(name: &str, role: &str, ports: &Ports) -> Table {
    let text = |s: String| Value::String(s);
    let mut config = Table::new();
    config.insert("name".into(), text(name.into()));
    config.insert("data_dir".into(), text(name.into()));
    config.insert("http".into(), text(format!("127.0.0.1:{}", ports[name].0)));
    let mut mesh = Table::new();
    mesh.insert("ca".into(), text("certs/ca.pem".into()));
    mesh.insert("cert".into(), text(format!("certs/{name}.pem")));
    mesh.insert("key".into(), text(format!("certs/{name}.key")));
    if role != "edge" {
        mesh.insert(
            "listen".into(),
            text(format!("127.0.0.1:{}", ports[name].1)),
        );
    }
    if role == "geo" {
        config.insert("snapshot".into(), text("snapshot.toml".into()));
    } else {
        let geo = text(format!("g1@127.0.0.1:{}", ports["g1"].1));
        mesh.insert("geo".into(), Value::Array(vec![geo]));
    }
    if role == "edge" {
        config.insert("admin".into(), text(format!("127.0.0.1:{}", ports[name].1)));
        config.insert("dev_tokens".into(), Value::Boolean(true));
        // Tests stop edges often; nobody is spread over ten seconds.
        config.insert("drain".into(), text("1s".into()));
    }
    config.insert("mesh".into(), Value::Table(mesh));
    config
}
