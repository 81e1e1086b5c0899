//! Connections over TLS and QUIC: what accepting one costs the server in processor time, what its
//! session costs beside that, and keeping it in memory, beside bare servers that do the handshake
//! and nothing else.
//!
//! *Accepted* is a connection when the server has done what it does before it knows who is there:
//! the handshake, and with TLS the upgrade to a WebSocket, with QUIC the stream's first byte. The
//! bare servers answer one byte with one byte instead. A *session* is what comes behind that: a
//! connect command with a token, and a subscription.

mod client;
mod figures;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use server::serve;

pub(crate) use figures::SecureFigures;

use crate::clock::now_ns;
use crate::histogram::Histogram;
use crate::load::figures::{CpuShare, cpu_shares, idle_memory};
use crate::load::run_name;
use crate::process::raise_file_limit;
use crate::subject::Subject;
use client::{Accepted, Greeting, Kept};
use figures::SessionShare;

/// Bytes asked for as buffers of UDP sockets; the system may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Connections that are accepted before the first of their sessions begins: a server drops those
/// whose sessions begin too late.
const AT_A_TIME: usize = 1_000;
/// How long the server may still work for the last connection that was accepted.
const LAST_WORK: Duration = Duration::from_millis(200);

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

/// Opens the connections, each with a full handshake, and measures the server: first what it takes
/// to accept them, then, where there are sessions, what those take, then what it takes to keep all
/// of that.
///
/// # Errors
/// A connection fails, or the server's process is not known.
pub(crate) fn run(
    subject: &Subject,
    target: &SecureTarget,
    plan: &SecurePlan,
) -> Result<SecureFigures> {
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
    let rest = |time: Duration| runtime.block_on(async { tokio::time::sleep(time).await });
    let before = subject.memory()?;
    let client = runtime.block_on(async { client::Client::new(target) })?;
    let mut kept: Vec<Kept> = Vec::with_capacity(plan.connections);
    let (mut accepting, mut beginning) = (Spent::of(subject), Spent::of(subject));
    while kept.len() < plan.connections {
        let some = kept.len()..plan.connections.min(kept.len() + AT_A_TIME);
        let greetings = some.clone().map(greeting).collect();
        accepting.starts(subject)?;
        let took = &mut accepting.took;
        let accepted = runtime.block_on(client.accept_all(greetings, took))?;
        // What a client takes for the end of a handshake is not quite that of the server's work.
        rest(LAST_WORK);
        accepting.ends(subject)?;
        let with_rooms = accepted
            .into_iter()
            .zip(some)
            .map(|(one, n)| (one, subject.room(&run, n % rooms)))
            .collect();
        beginning.starts(subject)?;
        let took = &mut beginning.took;
        kept.extend(runtime.block_on(Accepted::begin_all(with_rooms, took))?);
        beginning.ends(subject)?;
    }
    // Acknowledgements, timers and pings of QUIC go on while memory is looked at.
    rest(Duration::from_millis(500));
    let (idle, cpu_idle) = (now_ns(), subject.cpu()?);
    rest(plan.settle);
    let (cpu_settled, after) = (subject.cpu()?, subject.memory()?);
    let seconds = (now_ns() - idle) as f64 / 1e9;
    let closed = runtime.block_on(async { kept.iter().filter(|k| k.is_gone()).count() as u64 });
    let count = plan.connections.max(1);
    Ok(SecureFigures {
        side: format!("{} over {}", subject.name, target.carrier.name()),
        connections: plan.connections,
        rooms,
        memory: idle_memory(&subject.watched, &before, &after, count),
        accept: accepting.took.summary(),
        accept_cpu: accepting.shares(subject, count),
        session: (!target.bare).then(|| SessionShare {
            latency: beginning.took.summary(),
            cpu: beginning.shares(subject, count),
        }),
        cpu: cpu_shares(
            &subject.watched,
            &cpu_idle,
            &cpu_settled,
            (count as f64 * seconds) as u64,
            seconds,
        ),
        closed,
    })
}

/// What one step of all connections has cost so far.
struct Spent {
    took: Histogram,
    /// Processor time of each process at the last beginning.
    at: Vec<u64>,
    /// Processor time of each process in nanoseconds.
    ns: Vec<u64>,
    started: u64,
    seconds: f64,
}

impl Spent {
    fn of(subject: &Subject) -> Self {
        Spent {
            took: Histogram::default(),
            at: Vec::new(),
            ns: vec![0; subject.watched.len()],
            started: 0,
            seconds: 0.0,
        }
    }

    fn starts(&mut self, subject: &Subject) -> Result<()> {
        (self.at, self.started) = (subject.cpu()?, now_ns());
        Ok(())
    }

    fn ends(&mut self, subject: &Subject) -> Result<()> {
        for (sum, (before, after)) in self.ns.iter_mut().zip(self.at.iter().zip(subject.cpu()?)) {
            *sum += after.saturating_sub(*before);
        }
        self.seconds += (now_ns() - self.started) as f64 / 1e9;
        Ok(())
    }

    fn shares(&self, subject: &Subject, count: usize) -> Vec<CpuShare> {
        let zero = vec![0; self.ns.len()];
        let (watched, count) = (&subject.watched, count as u64);
        cpu_shares(watched, &zero, &self.ns, count, self.seconds)
    }
}
