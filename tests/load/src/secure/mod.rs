//! Connections over TLS and QUIC: what accepting one costs the server in processor time, and
//! keeping it in memory, beside bare servers that do the handshake and nothing else.

mod client;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use server::serve;

use crate::clock::now_ns;
use crate::load::figures::{IdleFigures, cpu_shares, idle_memory};
use crate::load::run_name;
use crate::process::raise_file_limit;
use crate::subject::Subject;
use client::{Greeting, Kept};

/// Handshakes under way at any time.
const AT_ONCE: usize = 64;
/// How long one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// What carries the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Carrier {
    /// TLS 1.3 over TCP; with GB6 a WebSocket in it.
    Tls,
    /// QUIC, one bidirectional stream for each connection.
    Quic,
}

impl Carrier {
    /// Its name in reports and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Carrier::Tls => "tls",
            Carrier::Quic => "quic",
        }
    }
}

/// Where such a server listens.
#[derive(Clone, Debug)]
pub(crate) struct SecureTarget {
    /// The address: TCP for TLS, UDP for QUIC.
    pub(crate) addr: SocketAddr,
    /// What carries the connections.
    pub(crate) carrier: Carrier,
    /// Whether it is a bare server, which answers one byte with one byte.
    pub(crate) bare: bool,
}

/// Connections to be opened and kept.
#[derive(Clone, Debug)]
pub(crate) struct SecurePlan {
    /// Connections.
    pub(crate) connections: usize,
    /// Rooms that they are spread over.
    pub(crate) rooms: usize,
    /// How long they are left alone before memory is read.
    pub(crate) settle: Duration,
}

/// Opens the connections, each with a full handshake, and measures the server.
///
/// # Errors
/// A connection fails, or the server's process is not known.
pub(crate) fn run(
    subject: &Subject,
    target: &SecureTarget,
    plan: &SecurePlan,
) -> Result<IdleFigures> {
    if subject.watched.is_empty() {
        bail!("the server's process is not known");
    }
    raise_file_limit(plan.connections)?;
    let run = run_name();
    let rooms = plan.rooms.max(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the load's runtime")?;
    let greeting = |n: usize| match (target.bare, target.carrier) {
        (true, _) => Greeting::Byte,
        (false, Carrier::Tls) => Greeting::WebSocket(subject.codec(&run, n)),
        (false, Carrier::Quic) => Greeting::Framed(subject.codec(&run, n)),
    };
    let before = subject.memory()?;
    let cpu_before = subject.cpu()?;
    let start = now_ns();
    let kept: Vec<Kept> = runtime.block_on(async {
        let client = client::Client::new(target)?;
        client
            .open_all(plan.connections, AT_ONCE, CONNECT_TIMEOUT, |n| {
                (greeting(n), subject.room(&run, n % rooms))
            })
            .await
    })?;
    let took = now_ns() - start;
    let cpu_open = subject.cpu()?;
    // Acknowledgements, timers and pings of QUIC go on while memory is looked at.
    let rest = |time: Duration| runtime.block_on(async { tokio::time::sleep(time).await });
    rest(Duration::from_millis(500));
    let (idle, cpu_idle) = (now_ns(), subject.cpu()?);
    rest(plan.settle);
    let (cpu_settled, after) = (subject.cpu()?, subject.memory()?);
    let seconds = (now_ns() - idle) as f64 / 1e9;
    let closed = runtime.block_on(async { kept.iter().filter(|k| k.is_gone()).count() as u64 });
    let count = plan.connections.max(1);
    let memory = idle_memory(&subject.watched, &before, &after, count);
    Ok(IdleFigures {
        side: format!("{} over {}", subject.name, target.carrier.name()),
        connections: plan.connections,
        rooms,
        memory,
        cpu: cpu_shares(
            &subject.watched,
            &cpu_idle,
            &cpu_settled,
            (count as f64 * seconds) as u64,
            seconds,
        ),
        connect_us: took as f64 / 1000.0 / count as f64,
        connect_cpu: cpu_shares(
            &subject.watched,
            &cpu_before,
            &cpu_open,
            count as u64,
            took as f64 / 1e9,
        ),
        closed,
    })
}
