//! What connections over TLS and QUIC have cost.

use std::fmt;

use serde::Serialize;

use crate::histogram::Latency;
use crate::load::figures::{CpuShare, IdleMemory, show_cpu, show_memory};

/// Of connections over TLS or QUIC.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct SecureFigures {
    /// The server.
    pub side: String,
    /// Connections.
    pub connections: usize,
    /// Rooms that they are subscribed to, one each.
    pub rooms: usize,
    /// Resident memory of each process before, and with the connections idle.
    pub memory: Vec<IdleMemory>,
    /// From the first packet until the server had accepted the connection.
    pub accept: Latency,
    /// Processor time of the server to accept one.
    pub accept_cpu: Vec<CpuShare>,
    /// What sessions took beside that; `None`: the server has none.
    pub session: Option<SessionShare>,
    /// Processor time of the server while they were idle, for each connection and second.
    pub cpu: Vec<CpuShare>,
    /// Connections that the server ended.
    pub closed: u64,
}

/// What it took to begin a session with one subscription.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct SessionShare {
    /// From the connect command until the subscription was answered.
    pub latency: Latency,
    /// Processor time of the server for each.
    pub cpu: Vec<CpuShare>,
}

impl fmt::Display for SecureFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} idle connections in {} rooms",
            self.side, self.connections, self.rooms
        )?;
        show_memory(f, &self.memory)?;
        writeln!(f, "  accepted: {}", self.accept)?;
        show_cpu(f, &self.accept_cpu, "connection accepted")?;
        if let Some(session) = &self.session {
            writeln!(f, "  connected and subscribed: {}", session.latency)?;
            show_cpu(f, &session.cpu, "session begun")?;
        }
        show_cpu(f, &self.cpu, "connection and second idle")?;
        write!(f, "  ended by the server: {}", self.closed)
    }
}
