//! The peer: nats-server, started on loopback with a configuration and a store of its own.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Running, Speech, Subject, Workspace};
use crate::codec::Nats;
use crate::process::Watched;
use crate::swarm::{Target, Transport};

/// Where Debian and others put it, besides `PATH`.
const PLACES: [&str; 3] = ["/usr/sbin", "/usr/local/bin", "/usr/bin"];

/// A NATS server reached over WebSocket.
///
/// # Errors
/// It is not installed or does not start.
pub(crate) fn nats_websocket(workspace: &Workspace) -> Result<Subject> {
    let (running, ports) = start(workspace, false)?;
    let addr = loopback(ports.websocket.first())?;
    let target = Target {
        addr,
        transport: Transport::WebSocket {
            host: addr.to_string(),
            path: "/".to_owned(),
            subprotocol: None,
        },
    };
    let watched = vec![Watched::process("nats-server", running.pid())];
    Ok(Subject::new(
        "nats-ws",
        target,
        Speech::Nats,
        watched,
        vec![running],
    ))
}

/// A JetStream stream with file storage and one replica, reached over TCP. Its acknowledgement
/// does not wait for the disk, by default.
///
/// # Errors
/// It is not installed, does not start or refuses the stream.
pub(crate) fn jetstream(workspace: &Workspace) -> Result<Subject> {
    let (running, ports) = start(workspace, true)?;
    let addr = loopback(ports.nats.first())?;
    create_stream(addr).context("creating the JetStream stream")?;
    let target = Target {
        addr,
        transport: Transport::Tcp,
    };
    let watched = vec![Watched::process("nats-server", running.pid())];
    Ok(Subject::new(
        "jetstream",
        target,
        Speech::JetStream,
        watched,
        vec![running],
    ))
}

/// What nats-server writes about its ports.
#[derive(Deserialize)]
struct Ports {
    #[serde(default)]
    nats: Vec<String>,
    #[serde(default)]
    websocket: Vec<String>,
}

fn start(workspace: &Workspace, jetstream: bool) -> Result<(Running, Ports)> {
    let dir = workspace.fresh("nats")?;
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let mut config = format!(
        "host: \"127.0.0.1\"\nport: -1\nports_file_dir: {}\n\
         websocket {{ host: \"127.0.0.1\", port: -1, no_tls: true }}\n",
        quoted(&dir)
    );
    if jetstream {
        config.push_str(&format!(
            "jetstream {{ store_dir: {}, max_file_store: 16GB }}\n",
            quoted(&dir.join("store"))
        ));
    }
    let file = dir.join("nats.conf");
    std::fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
    let program = find_program()?;
    let arguments = [OsStr::new("-c"), file.as_os_str()];
    let mut running = Running::start("nats-server", &program, &arguments, &dir, workspace.pinning)?;
    let name = program
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let file = dir.join(format!("{name}_{}.ports", running.pid()));
    let ports = running.wait_for(|| {
        let text = std::fs::read(&file).ok()?;
        // It may be half written.
        serde_json::from_slice::<Ports>(&text).ok()
    })?;
    Ok((running, ports))
}

fn find_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.iter().map(PathBuf::from))
        .map(|dir| dir.join("nats-server"))
        .find(|program| program.is_file())
        .context("nats-server is not installed: sudo apt-get install -y nats-server")
}

/// The address of `nats://127.0.0.1:4222`.
fn loopback(url: Option<&String>) -> Result<SocketAddr> {
    let port = url
        .and_then(|url| url.trim_end_matches('/').rsplit_once(':'))
        .and_then(|(_, port)| port.parse().ok())
        .context("nats-server names no port for this transport")?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn create_stream(addr: SocketAddr) -> Result<()> {
    let limit = Duration::from_secs(10);
    let stream = serde_json::json!({
        "name": "BENCH",
        "subjects": [crate::codec::STREAM_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "discard": "old",
    })
    .to_string();
    let mut socket = TcpStream::connect_timeout(&addr, limit)?;
    socket.set_read_timeout(Some(limit))?;
    let mut out = Vec::new();
    let mut codec = crate::codec::Codec::Nats(Nats::plain());
    codec.hello(&mut out);
    write!(
        out,
        "SUB _INBOX.create 1\r\nPUB $JS.API.STREAM.CREATE.BENCH _INBOX.create {}\r\n{stream}\r\n",
        stream.len()
    )?;
    socket.write_all(&out)?;
    let mut answer = None;
    let mut buffer = [0; 16 * 1024];
    while answer.is_none() {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            bail!("nats-server closed the connection");
        }
        codec.read(&buffer[..n], &mut Vec::new(), &mut |event| {
            if let crate::codec::Event::Delivered { data, .. } = event {
                answer = Some(String::from_utf8_lossy(data).into_owned());
            }
        })?;
    }
    match answer {
        Some(text) if !text.contains("\"error\"") => Ok(()),
        other => bail!("nats-server refused it: {}", other.unwrap_or_default()),
    }
}
