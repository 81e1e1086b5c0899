//! The bare servers as subjects: a process of their own where they are to be measured.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Running, Speech, Subject, Workspace};
use crate::process::Watched;
use crate::secure::{Carrier, SecureTarget};
use crate::swarm::{Target, Transport};

/// Starts this program again as the bare fan-out server.
///
/// # Errors
/// It does not start.
pub(crate) fn epoll_floor(workspace: &Workspace) -> Result<Subject> {
    let dir = workspace.fresh("floor")?;
    start(workspace, &dir, "floor epoll", Speech::Echo, &[])
}

/// Starts this program again as the bare server that syncs what it is sent before it acknowledges.
///
/// # Errors
/// It does not start.
pub(crate) fn durable_floor(workspace: &Workspace) -> Result<Subject> {
    let dir = workspace.fresh("floor")?;
    let log = dir.join("publish.floor");
    let arguments = [OsStr::new("--log"), log.as_os_str()];
    let speech = Speech::EchoAcknowledged;
    start(workspace, &dir, "floor publish", speech, &arguments)
}

/// Starts this program again as the bare server of a carrier.
///
/// # Errors
/// It does not start.
pub(crate) fn secure_floor(
    workspace: &Workspace,
    carrier: Carrier,
) -> Result<(Subject, SecureTarget)> {
    let dir = workspace.fresh("floor")?;
    let name = match carrier {
        Carrier::Tls => "floor tls",
        Carrier::Quic => "floor quinn",
    };
    let arguments = [OsStr::new("--over"), OsStr::new(carrier.name())];
    let subject = start(workspace, &dir, name, Speech::Echo, &arguments)?;
    let target = SecureTarget {
        addr: subject.target.addr,
        carrier,
        bare: true,
    };
    Ok((subject, target))
}

fn start(
    workspace: &Workspace,
    dir: &Path,
    name: &str,
    speech: Speech,
    more: &[&OsStr],
) -> Result<Subject> {
    let program = std::env::current_exe().context("finding the program that runs")?;
    let mut arguments = ["bench", "floor", "serve"].map(OsStr::new).to_vec();
    arguments.extend(more);
    let mut running = Running::start("floor", &program, &arguments, dir, workspace.pinning)?;
    let line = running.first_line()?;
    let addr: SocketAddr = line
        .trim()
        .parse()
        .with_context(|| format!("the floor's server names no address but `{}`", line.trim()))?;
    let watched = vec![Watched::process("floor", running.pid())];
    Ok(Subject::new(
        name,
        target(addr),
        speech,
        watched,
        vec![running],
    ))
}

/// How the floor's server is reached.
pub(crate) fn target(addr: SocketAddr) -> Target {
    Target {
        addr,
        transport: Transport::WebSocket {
            host: addr.to_string(),
            path: "/".to_owned(),
            subprotocol: None,
        },
    }
}
