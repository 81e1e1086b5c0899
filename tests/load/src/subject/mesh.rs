//! GB6 as a mesh of a process for each role, so that the edge's figures are the edge's alone.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};

use super::gb6::websocket_target;
use super::{Running, Speech, Subject, Tokens, Workspace, free_port, free_udp_port};
use crate::codec::Method;
use crate::payload::Random;
use crate::process::Watched;
use crate::swarm::Target;

/// Rooms of the two instances.
const NAMESPACE: &str = "room";

/// A mesh that was started for a run.
pub(crate) struct Mesh {
    /// Its first edge, signed in to its first instance, with the processes of all.
    pub(crate) subject: Subject,
    /// Tokens of its second instance.
    pub(crate) second: Tokens,
    /// Where clients reach each edge.
    pub(crate) edges: Vec<Target>,
    /// Where the server API of the first edge is, and the first instance's key for it.
    pub(crate) api: SocketAddr,
    pub(crate) api_key: String,
}

/// Geo, a region and an edge, each a process, with two instances.
///
/// # Errors
/// One does not start.
pub(crate) fn mesh(workspace: &Workspace, method: Method) -> Result<Mesh> {
    mesh_of(workspace, method, 1)
}

/// The same with several edges; processor time and memory are told by the names `edge`, `edge-2`
/// and so on.
///
/// # Errors
/// One does not start.
pub(crate) fn mesh_of(workspace: &Workspace, method: Method, edges: usize) -> Result<Mesh> {
    let dir = workspace.fresh("mesh")?;
    let gb6 = &workspace.gb6;
    let certificates = dir.join("certs");
    make(gb6, &["cert", "ca", &text(&certificates)], &dir, workspace)?;
    let mut nodes = vec![("geo", "g1".to_owned()), ("region", "r1".to_owned())];
    nodes.extend((1..=edges).map(|n| ("edge", format!("e{n}"))));
    for (role, name) in &nodes {
        let ca = text(&certificates);
        let arguments = ["cert", "node", "--ca", &ca, "--role", role, "--name", name];
        make(gb6, &arguments, &dir, workspace)?;
    }
    let (geo_port, region_port) = (free_udp_port()?, free_udp_port()?);
    let secrets = [secret(), secret()];
    let api_key = format!("gb6_bench_{}", secret());
    let snapshot = dir.join("snapshot.toml");
    std::fs::write(
        &snapshot,
        snapshot_text(&secrets, &api_key, geo_port, region_port, edges),
    )
    .with_context(|| format!("writing {}", snapshot.display()))?;

    let mut running = Vec::new();
    let mut watched = Vec::new();
    let mut targets = Vec::new();
    let mut api = None;
    for (role, name) in &nodes {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut config = format!(
            "name = {name:?}\nhttp = \"{http}\"\ndata_dir = {:?}\n",
            text(&dir.join(name))
        );
        let listen = match *role {
            "geo" => {
                config.push_str(&format!("snapshot = {:?}\n", text(&snapshot)));
                Some(geo_port)
            }
            "edge" => {
                let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
                config.push_str(&format!(
                    "default_instance = \"bench\"\nadmin = \"{admin}\"\n"
                ));
                api.get_or_insert(admin);
                None
            }
            _ => Some(region_port),
        };
        config.push_str("[mesh]\n");
        if let Some(port) = listen {
            config.push_str(&format!("listen = \"127.0.0.1:{port}\"\n"));
        }
        if *role != "geo" {
            config.push_str(&format!("geo = [\"g1@127.0.0.1:{geo_port}\"]\n"));
        }
        for (key, file) in [
            ("ca", "ca.pem"),
            ("cert", &format!("{name}.pem")),
            ("key", &format!("{name}.key")),
        ] {
            config.push_str(&format!("{key} = {:?}\n", text(&certificates.join(file))));
        }
        let file = dir.join(format!("{name}.toml"));
        std::fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let arguments = [OsStr::new(role), OsStr::new("--config"), file.as_os_str()];
        let mut node = Running::start(name, gb6, &arguments, &dir, workspace.pinning)?;
        node.wait_http(http)?;
        if *role == "edge" {
            let url = format!("ws://{http}/connection/websocket");
            targets.push(websocket_target(&url)?);
        }
        if *role != "geo" {
            let shown = match targets.len() {
                0 | 1 => (*role).to_owned(),
                nth => format!("{role}-{nth}"),
            };
            watched.push(Watched::process(&shown, node.pid()));
        }
        running.push(node);
    }
    // Edges end first.
    running.reverse();
    watched.reverse();
    let first = targets.first().context("the mesh has no edge")?.clone();
    let [ours, other] = secrets;
    let signed = |secret, instance: &str| Tokens::Signed {
        secret,
        key_id: Some(format!("{instance}.main")),
    };
    let speech = Speech::Gb6(signed(ours, "bench"), method);
    Ok(Mesh {
        subject: Subject::new("gb6 mesh", first, speech, watched, running),
        second: signed(other, "flood"),
        edges: targets,
        api: api.context("the mesh has no edge")?,
        api_key,
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn make(program: &Path, arguments: &[&str], dir: &Path, workspace: &Workspace) -> Result<()> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    Running::start("gb6-cert", program, &arguments, dir, workspace.pinning)?.finish()
}

/// A secret for a mesh that lives as long as the run, on loopback.
fn secret() -> String {
    let mut seed = [0; 8];
    let rng = ring::rand::SystemRandom::new();
    // Without the system's randomness the secret is weak, and a bench on loopback still runs.
    let _ = ring::rand::SecureRandom::fill(&rng, &mut seed);
    let mut random = Random::new(u64::from_ne_bytes(seed));
    (0..4).map(|_| format!("{:016x}", random.next())).collect()
}

fn snapshot_text(
    secrets: &[String; 2],
    api_key: &str,
    geo_port: u16,
    region_port: u16,
    edges: usize,
) -> String {
    let mut out = String::new();
    for (instance, secret) in ["bench", "flood"].iter().zip(secrets) {
        out.push_str(&format!(
            "[instances.{instance}]\nregion = \"eu\"\ncommand_rate = \"unlimited\"\n"
        ));
        if *instance == "bench" {
            out.push_str(&format!("api_keys = [\"{api_key}\"]\n"));
        }
        out.push_str(&format!(
            "[[instances.{instance}.keys]]\nid = \"{instance}.main\"\nsecret = \"{secret}\"\n\
             [instances.{instance}.namespaces.{NAMESPACE}]\n"
        ));
    }
    out.push_str(&format!(
        "[regions.eu]\nshards = 4\nowners = [\"r1\"]\n\
         [nodes.g1]\nroles = [\"geo\"]\nmesh = \"127.0.0.1:{geo_port}\"\n\
         [nodes.r1]\nroles = [\"region\"]\nmesh = \"127.0.0.1:{region_port}\"\nregion = \"eu\"\n"
    ));
    for n in 1..=edges {
        out.push_str(&format!("[nodes.e{n}]\nroles = [\"edge\"]\n"));
    }
    out
}
