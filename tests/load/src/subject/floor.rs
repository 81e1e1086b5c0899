//! The bare fan-out server as a subject: a process of its own where it is to be measured.

use std::ffi::OsStr;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Running, Speech, Subject, Workspace};
use crate::process::Watched;
use crate::swarm::{Target, Transport};

/// Starts this program again as the bare fan-out server.
///
/// # Errors
/// It does not start.
pub(crate) fn epoll_floor(workspace: &Workspace) -> Result<Subject> {
    let dir = workspace.fresh("floor")?;
    let program = std::env::current_exe().context("finding the program that runs")?;
    let arguments = ["bench", "floor", "serve"].map(OsStr::new);
    let mut running = Running::start("floor", &program, &arguments, &dir, workspace.pinning)?;
    let line = running.first_line()?;
    let addr: SocketAddr = line
        .trim()
        .parse()
        .with_context(|| format!("the floor's server names no address but `{}`", line.trim()))?;
    let watched = vec![Watched::process("floor", running.pid())];
    Ok(Subject::new(
        "floor epoll",
        target(addr),
        Speech::Echo,
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
