//! GB6 itself: one that runs already, `gb6 dev`, or a mesh of a process for each role, so that the
//! edge's figures are the edge's alone.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use gb6_core_wire::client::Dialect;
use serde::Deserialize;

use super::{Running, Speech, Subject, Tokens, Workspace, free_port, free_udp_port};
use crate::codec::Method;
use crate::payload::Random;
use crate::process::Watched;
use crate::secure::{Carrier, SecureTarget};
use crate::swarm::{Target, Transport};

/// Rooms of the two instances of a mesh that was started for a run.
const NAMESPACE: &str = "room";

/// What `--ready-json` prints.
#[derive(Deserialize)]
pub(crate) struct ReadyLine {
    /// The WebSocket's URL.
    pub(crate) ws: String,
    /// The address of its QUIC listener.
    #[serde(default)]
    pub(crate) quic: Option<String>,
    /// The server's process.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// The instance's secret.
    #[serde(default)]
    pub(crate) hmac_secret: Option<String>,
    /// Tokens by user.
    #[serde(default)]
    pub(crate) tokens: std::collections::BTreeMap<String, String>,
}

impl ReadyLine {
    /// Reads the line.
    ///
    /// # Errors
    /// It is not that line.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line.trim())
            .with_context(|| format!("this is no line of --ready-json: {}", line.trim()))
    }

    /// The tokens of its connections.
    ///
    /// # Errors
    /// It has neither secret nor tokens.
    pub(crate) fn tokens(&self) -> Result<Tokens> {
        match (&self.hmac_secret, self.tokens.values().next()) {
            (Some(secret), _) => Ok(Tokens::Signed {
                secret: secret.clone(),
                key_id: None,
            }),
            (None, Some(token)) => Ok(Tokens::Given(token.clone())),
            (None, None) => bail!("the line of --ready-json has neither hmac_secret nor tokens"),
        }
    }
}

/// Address, host and path of a `ws://` URL, spoken to in Protobuf.
///
/// # Errors
/// It is no such URL, or its host has no address.
pub(crate) fn websocket_target(url: &str) -> Result<Target> {
    if url.starts_with("wss://") {
        bail!(
            "`{url}`: TLS (wss://) is not spoken here, so that its cost is in no figure: name the \
             server's own ws:// address, behind what terminates TLS"
        );
    }
    let rest = url.strip_prefix("ws://").with_context(|| {
        format!("`{url}` is no URL of the form ws://host:port/connection/websocket")
    })?;
    let (host, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash..]),
        None => (rest, "/connection/websocket"),
    };
    let with_port = if host
        .rsplit_once(':')
        .is_some_and(|(_, p)| p.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let addr = with_port
        .to_socket_addrs()
        .with_context(|| format!("finding the address of {with_port}"))?
        .next()
        .with_context(|| format!("{with_port} has no address"))?;
    Ok(Target {
        addr,
        transport: Transport::WebSocket {
            host: host.to_owned(),
            path: path.to_owned(),
            subprotocol: Some(Dialect::Protobuf.subprotocol().to_owned()),
        },
    })
}

/// A server that runs already.
///
/// # Errors
/// The URL is none.
pub(crate) fn running(
    url: &str,
    tokens: Tokens,
    method: Method,
    watched: Vec<Watched>,
) -> Result<Subject> {
    let target = websocket_target(url)?;
    Ok(Subject::new(
        url,
        target,
        Speech::Gb6(tokens, method),
        watched,
        Vec::new(),
    ))
}

/// `gb6 dev` with a fresh data directory.
///
/// # Errors
/// It does not start.
pub(crate) fn dev(workspace: &Workspace, method: Method) -> Result<Subject> {
    let dir = workspace.fresh("dev")?;
    let data = dir.join("data");
    let arguments = ["dev", "--http", "127.0.0.1:0", "--ready-json", "--data-dir"];
    let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    arguments.push(data.as_os_str());
    let mut running = Running::start(
        "gb6-dev",
        &workspace.gb6,
        &arguments,
        &dir,
        workspace.pinning,
    )?;
    let ready = ReadyLine::parse(&running.first_line()?)?;
    Ok(Subject::new(
        "gb6 dev",
        websocket_target(&ready.ws)?,
        Speech::Gb6(ready.tokens()?, method),
        vec![Watched::process("gb6", running.pid())],
        vec![running],
    ))
}

/// `gb6 dev` with TLS and QUIC.
///
/// # Errors
/// It does not start.
pub(crate) fn secure(workspace: &Workspace, carrier: Carrier) -> Result<(Subject, SecureTarget)> {
    let dir = workspace.fresh("secure")?;
    let data = dir.join("data");
    let any = "127.0.0.1:0";
    let arguments = [
        "dev",
        "--http",
        any,
        "--quic",
        any,
        "--tls",
        "--ready-json",
        "--data-dir",
    ];
    let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    arguments.push(data.as_os_str());
    let (gb6, pinning) = (&workspace.gb6, workspace.pinning);
    let mut running = Running::start("gb6-dev", gb6, &arguments, &dir, pinning)?;
    let ready = ReadyLine::parse(&running.first_line()?)?;
    let tokens = ready.tokens()?;
    // The scheme is all that differs from what is spoken without TLS.
    let target = websocket_target(&ready.ws.replacen("wss://", "ws://", 1))?;
    let addr = match (carrier, &ready.quic) {
        (Carrier::Tls, _) => target.addr,
        (Carrier::Quic, Some(quic)) => quic
            .parse()
            .with_context(|| format!("`{quic}` is no address of a QUIC listener"))?,
        (Carrier::Quic, None) => bail!("the line of --ready-json has no quic"),
    };
    let watched = vec![Watched::process("gb6", running.pid())];
    let speech = Speech::Gb6(tokens, Method::Publish);
    let subject = Subject::new("gb6 dev", target, speech, watched, vec![running]);
    let bare = false;
    Ok((
        subject,
        SecureTarget {
            addr,
            carrier,
            bare,
        },
    ))
}

/// Geo, a region and an edge, each a process, with two instances. The subject signs in to the
/// first; the second answer are the tokens of the other.
///
/// # Errors
/// One does not start.
pub(crate) fn mesh(workspace: &Workspace, method: Method) -> Result<(Subject, Tokens)> {
    let dir = workspace.fresh("mesh")?;
    let gb6 = &workspace.gb6;
    let certificates = dir.join("certs");
    run(gb6, &["cert", "ca", &text(&certificates)], &dir, workspace)?;
    let nodes = [("geo", "g1"), ("region", "r1"), ("edge", "e1")];
    for (role, name) in nodes {
        let ca = text(&certificates);
        let arguments = ["cert", "node", "--ca", &ca, "--role", role, "--name", name];
        run(gb6, &arguments, &dir, workspace)?;
    }
    let (geo_port, region_port) = (free_udp_port()?, free_udp_port()?);
    let secrets = [secret(), secret()];
    let snapshot = dir.join("snapshot.toml");
    std::fs::write(&snapshot, snapshot_text(&secrets, geo_port, region_port))
        .with_context(|| format!("writing {}", snapshot.display()))?;

    let mut running = Vec::new();
    let mut watched = Vec::new();
    let mut edge = None;
    for (role, name) in nodes {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut config = format!(
            "name = {name:?}\nhttp = \"{http}\"\ndata_dir = {:?}\n",
            text(&dir.join(name))
        );
        let listen = match role {
            "geo" => {
                config.push_str(&format!("snapshot = {:?}\n", text(&snapshot)));
                Some(geo_port)
            }
            "edge" => {
                config.push_str("default_instance = \"bench\"\n");
                None
            }
            _ => Some(region_port),
        };
        config.push_str("[mesh]\n");
        if let Some(port) = listen {
            config.push_str(&format!("listen = \"127.0.0.1:{port}\"\n"));
        }
        if role != "geo" {
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
        let mut node = Running::start(role, gb6, &arguments, &dir, workspace.pinning)?;
        node.wait_http(http)?;
        if role == "edge" {
            edge = Some(http);
        }
        if role != "geo" {
            watched.push(Watched::process(role, node.pid()));
        }
        running.push(node);
    }
    // Edges end first.
    running.reverse();
    watched.reverse();
    let edge = edge.context("the mesh has no edge")?;
    let [first, second] = secrets;
    let signed = |secret, instance: &str| Tokens::Signed {
        secret,
        key_id: Some(format!("{instance}.main")),
    };
    let subject = Subject::new(
        "gb6 mesh",
        websocket_target(&format!("ws://{edge}/connection/websocket"))?,
        Speech::Gb6(signed(first, "bench"), method),
        watched,
        running,
    );
    Ok((subject, signed(second, "flood")))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &Path, arguments: &[&str], dir: &Path, workspace: &Workspace) -> Result<()> {
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

fn snapshot_text(secrets: &[String; 2], geo_port: u16, region_port: u16) -> String {
    let mut out = String::new();
    for (instance, secret) in ["bench", "flood"].iter().zip(secrets) {
        out.push_str(&format!(
            "[instances.{instance}]\nregion = \"eu\"\ncommand_rate = \"unlimited\"\n\
             [[instances.{instance}.keys]]\nid = \"{instance}.main\"\nsecret = \"{secret}\"\n\
             [instances.{instance}.namespaces.{NAMESPACE}]\n"
        ));
    }
    out.push_str(&format!(
        "[regions.eu]\nshards = 4\nowners = [\"r1\"]\n\
         [nodes.g1]\nroles = [\"geo\"]\nmesh = \"127.0.0.1:{geo_port}\"\n\
         [nodes.r1]\nroles = [\"region\"]\nmesh = \"127.0.0.1:{region_port}\"\nregion = \"eu\"\n\
         [nodes.e1]\nroles = [\"edge\"]\n"
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = websocket_target("ws://127.0.0.1:8080/connection/websocket?x=1").unwrap();
        assert_eq!(target.addr, "127.0.0.1:8080".parse().unwrap());
        let Transport::WebSocket { host, path, .. } = target.transport else {
            panic!("no WebSocket")
        };
        assert_eq!(
            (host.as_str(), path.as_str()),
            ("127.0.0.1:8080", "/connection/websocket?x=1")
        );
        let bare = websocket_target("ws://127.0.0.1").unwrap();
        assert_eq!(bare.addr.port(), 80);
        let told = websocket_target("wss://x/").unwrap_err().to_string();
        assert!(told.contains("TLS"), "{told}");
        for wrong in ["http://127.0.0.1:1/", "wss://x/", "127.0.0.1:8080"] {
            assert!(websocket_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_ready_line_gives_url_pid_and_tokens() {
        let line = r#"{"ready":true,"version":"0.1.0","pid":7,"instance":"demo",
            "http":"http://127.0.0.1:8080","ws":"ws://127.0.0.1:8080/connection/websocket",
            "hmac_secret":"s","tokens":{"alice":"A","bob":"B"},"data_dir":"x"}"#;
        let ready = ReadyLine::parse(line).unwrap();
        assert_eq!(ready.pid, Some(7));
        assert!(matches!(ready.tokens().unwrap(), Tokens::Signed { .. }));
        let ready = ReadyLine::parse(r#"{"ws":"ws://x","tokens":{"alice":"A"}}"#).unwrap();
        assert_eq!(ready.tokens().unwrap().of(1, "room:"), "A");
        assert!(ReadyLine::parse("Listening on 127.0.0.1:8080").is_err());
        assert!(
            ReadyLine::parse(r#"{"ws":"ws://x"}"#)
                .unwrap()
                .tokens()
                .is_err()
        );
    }
}
