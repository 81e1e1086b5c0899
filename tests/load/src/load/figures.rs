//! What the loads measure, as it is printed and written to files.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::histogram::Latency;
use crate::process::{Memory, Watched};

/// Processor time of one process for each operation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct CpuShare {
    /// The process.
    pub name: String,
    /// Nanoseconds of user and system time for each operation.
    pub ns_per_op: f64,
    /// Cores that it kept busy.
    pub cores: f64,
}

/// The processor time between two readings, shared out over operations.
pub(crate) fn cpu_shares(
    watched: &[Watched],
    before: &[u64],
    after: &[u64],
    operations: u64,
    seconds: f64,
) -> Vec<CpuShare> {
    watched
        .iter()
        .zip(before.iter().zip(after))
        .map(|(who, (before, after))| {
            let ns = after.saturating_sub(*before) as f64;
            CpuShare {
                name: who.name.clone(),
                ns_per_op: ns / operations.max(1) as f64,
                cores: ns / 1e9 / seconds.max(1e-9),
            }
        })
        .collect()
}

/// The sum over the processes named, or over all.
pub(crate) fn cpu_ns(shares: &[CpuShare], only: Option<&str>) -> f64 {
    shares
        .iter()
        .filter(|share| only.is_none_or(|name| share.name == name))
        .map(|share| share.ns_per_op)
        .sum()
}

/// Writes processor time for each operation, a line for each process.
pub(crate) fn show_cpu(
    f: &mut fmt::Formatter<'_>,
    shares: &[CpuShare],
    operation: &str,
) -> fmt::Result {
    for share in shares {
        writeln!(
            f,
            "  CPU of {}: {:.2} us per {operation} ({:.2} cores)",
            share.name,
            share.ns_per_op / 1000.0,
            share.cores
        )?;
    }
    if shares.is_empty() {
        writeln!(
            f,
            "  CPU: not measured; name the server's process with --server-pid"
        )?;
    }
    Ok(())
}

/// Of a publish load.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct PublishFigures {
    /// The server.
    pub side: String,
    /// Publishes unanswered at any time; 0 where they were paced.
    pub in_flight: usize,
    /// Acknowledged while it was measured.
    pub acked: u64,
    /// Acknowledged a second.
    pub per_s: f64,
    /// From sending (or, paced, from when it should have been sent) to the acknowledgement.
    pub latency: Latency,
    /// Processor time of the server.
    pub cpu: Vec<CpuShare>,
    /// Cores that the load generator used.
    pub load_cores: f64,
    /// Refused publishes by reason.
    pub failed: BTreeMap<String, u64>,
    /// Publishes without an answer 5 s after the end.
    pub unanswered: u64,
    /// Connections that the server ended.
    pub closed: u64,
}

impl fmt::Display for PublishFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} acknowledged/s; {}",
            self.side, self.per_s, self.latency
        )?;
        show_cpu(f, &self.cpu, "publish")?;
        write!(f, "  load generator: {:.2} cores", self.load_cores)?;
        for (why, count) in &self.failed {
            write!(f, "\n  failed: {count} times {why}")?;
        }
        if self.unanswered > 0 {
            write!(f, "\n  unanswered: {}", self.unanswered)?;
        }
        if self.closed > 0 {
            write!(f, "\n  connections ended by the server: {}", self.closed)?;
        }
        Ok(())
    }
}

/// Of a fan-out load.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct FanoutFigures {
    /// The server.
    pub side: String,
    /// Subscribers of the one room.
    pub subscribers: usize,
    /// Publications unfinished at any time; 0 where they were paced.
    pub in_flight: usize,
    /// Publications a second.
    pub publications_per_s: f64,
    /// Deliveries while it was measured.
    pub delivered: u64,
    /// Deliveries a second.
    pub per_s: f64,
    /// From sending to a subscriber.
    pub latency: Latency,
    /// From sending to the last subscriber.
    pub to_last: Latency,
    /// Processor time of the server.
    pub cpu: Vec<CpuShare>,
    /// Cores that the load generator used.
    pub load_cores: f64,
    /// Deliveries for each read of the load generator: how much the server coalesced.
    pub per_read: f64,
    /// Deliveries later than 1.5 s after the end of the load.
    pub late: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Connections that the server ended.
    pub closed: u64,
    /// Mean time to set up one connection in microseconds, wall clock.
    pub connect_us: f64,
}

impl fmt::Display for FanoutFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: 1 to {}: {:.0} deliveries/s, {:.1} for each read; {}",
            self.side, self.subscribers, self.per_s, self.per_read, self.latency
        )?;
        writeln!(f, "  to the last subscriber: {}", self.to_last)?;
        show_cpu(f, &self.cpu, "delivery")?;
        write!(
            f,
            "  load generator: {:.2} cores; {:.0} us for each connection; late {}, lost {}, ended by the server {}",
            self.load_cores, self.connect_us, self.late, self.lost, self.closed
        )
    }
}

/// Of idle connections.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct IdleFigures {
    /// The server.
    pub side: String,
    /// Connections.
    pub connections: usize,
    /// Rooms that they are subscribed to, one each.
    pub rooms: usize,
    /// Resident memory of each process before, and with the connections idle.
    pub memory: Vec<IdleMemory>,
    /// Processor time of the server while they were idle, for each connection and second.
    pub cpu: Vec<CpuShare>,
    /// Mean time to set up one connection in microseconds, wall clock.
    pub connect_us: f64,
    /// Processor time of the server to set one up.
    pub connect_cpu: Vec<CpuShare>,
    /// Connections that the server ended.
    pub closed: u64,
}

/// Memory of one process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct IdleMemory {
    /// The process.
    pub name: String,
    /// Resident bytes before the first connection.
    pub before: u64,
    /// Resident bytes with all of them idle.
    pub after: u64,
    /// The difference for each connection, in bytes.
    pub per_connection: f64,
}

/// The memory of each process between two readings, shared out over so many connections.
pub(crate) fn idle_memory(
    watched: &[Watched],
    before: &[Memory],
    after: &[Memory],
    connections: usize,
) -> Vec<IdleMemory> {
    let readings = before.iter().zip(after);
    watched
        .iter()
        .zip(readings)
        .map(|(who, (before, after))| IdleMemory {
            name: who.name.clone(),
            before: before.resident,
            after: after.resident,
            per_connection: (after.resident as f64 - before.resident as f64)
                / connections.max(1) as f64,
        })
        .collect()
}

/// Writes memory for each connection, a line for each process.
pub(crate) fn show_memory(f: &mut fmt::Formatter<'_>, memory: &[IdleMemory]) -> fmt::Result {
    for memory in memory {
        writeln!(
            f,
            "  resident in {}: {:.2} kB for each connection ({:.1} MB, then {:.1} MB)",
            memory.name,
            memory.per_connection / 1000.0,
            memory.before as f64 / 1e6,
            memory.after as f64 / 1e6
        )?;
    }
    Ok(())
}

impl fmt::Display for IdleFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} idle connections in {} rooms, {:.0} us to set up each",
            self.side, self.connections, self.rooms, self.connect_us
        )?;
        show_memory(f, &self.memory)?;
        show_cpu(f, &self.connect_cpu, "connection set up")?;
        show_cpu(f, &self.cpu, "connection and second idle")?;
        write!(f, "  ended by the server: {}", self.closed)
    }
}

/// Of a reconnect storm.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct ReconnectFigures {
    /// The server.
    pub side: String,
    /// Clients.
    pub clients: usize,
    /// Rooms.
    pub rooms: usize,
    /// Rooms that each client is subscribed to.
    pub each: usize,
    /// Publications that each client missed, before those of the storm itself.
    pub missed_each: u64,
    /// Clients that came back.
    pub back: usize,
    /// Subscriptions whose recovery the server refused.
    pub unrecovered: usize,
    /// Until the last was back, in seconds.
    pub all_back_s: f64,
    /// From the first attempt of a client until it had all its subscriptions.
    pub latency: Latency,
    /// Attempts that failed and were repeated.
    pub retries: u64,
    /// Publications acknowledged in all.
    pub acked: u64,
    /// Deliveries that never came: a client was told a later offset, or the room has a later one.
    pub lost: u64,
    /// Deliveries that came twice.
    pub doubled: u64,
    /// Memory of each process before the storm, and at its peak.
    pub memory: Vec<StormMemory>,
    /// Processor time of the server for each client.
    pub cpu: Vec<CpuShare>,
    /// Why the first failed attempt failed.
    pub first_failure: Option<String>,
}

/// Memory of one process in a storm.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct StormMemory {
    /// The process.
    pub name: String,
    /// Before it.
    pub before: Memory,
    /// The most that was resident in it, in bytes.
    pub peak: u64,
}

/// Writes the peak of each process, a line for each.
fn show_peaks(f: &mut fmt::Formatter<'_>, memory: &[StormMemory]) -> fmt::Result {
    for (n, memory) in memory.iter().enumerate() {
        if n > 0 {
            writeln!(f)?;
        }
        write!(
            f,
            "  resident in {}: {:.1} MB before, {:.1} MB at most",
            memory.name,
            memory.before.resident as f64 / 1e6,
            memory.peak as f64 / 1e6
        )?;
    }
    Ok(())
}

/// The peak of each process since the readings `before`.
pub(crate) fn peaks(watched: &[Watched], before: &[Memory], after: &[Memory]) -> Vec<StormMemory> {
    let readings = before.iter().zip(after);
    watched
        .iter()
        .zip(readings)
        .map(|(who, (before, after))| StormMemory {
            name: who.name.clone(),
            before: *before,
            peak: after.peak.max(after.resident),
        })
        .collect()
}

impl fmt::Display for ReconnectFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} of {} clients back in {:.2} s, each in {} of {} rooms, {} publications missed by each",
            self.side,
            self.back,
            self.clients,
            self.all_back_s,
            self.each,
            self.rooms,
            self.missed_each
        )?;
        writeln!(f, "  from attempt to subscribed: {}", self.latency)?;
        writeln!(
            f,
            "  lost {}, doubled {}, not recovered {}, repeated attempts {}",
            self.lost, self.doubled, self.unrecovered, self.retries
        )?;
        if let Some(why) = &self.first_failure {
            writeln!(f, "  the first failed attempt: {why}")?;
        }
        show_cpu(f, &self.cpu, "client")?;
        show_peaks(f, &self.memory)
    }
}

/// Of a user who was blocked.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct RevokeFigures {
    /// The server.
    pub side: String,
    /// Edges.
    pub edges: usize,
    /// Connections of the user.
    pub connections: usize,
    /// Those that were cut off.
    pub cut: usize,
    /// Those among them that were told another reason than that their token is not valid.
    pub otherwise: usize,
    /// Connections of other users that ended.
    pub others_cut: usize,
    /// The answer of the server API, in milliseconds.
    pub answered_ms: f64,
    /// From that answer to the last end, in seconds; 0 where that came before the answer.
    pub last_s: f64,
    /// From the request to each end.
    pub ends: Latency,
    /// Processor time for each connection that was cut off.
    pub cpu: Vec<CpuShare>,
    /// Memory of each process before, and at its peak.
    pub memory: Vec<StormMemory>,
}

impl fmt::Display for RevokeFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} of {} connections on {} edges cut off, the last {:.3} s after the answer to \
             block_user, which took {:.1} ms",
            self.side, self.cut, self.connections, self.edges, self.last_s, self.answered_ms
        )?;
        writeln!(f, "  from the request to the end: {}", self.ends)?;
        writeln!(
            f,
            "  for another reason {}, of others {}",
            self.otherwise, self.others_cut
        )?;
        show_cpu(f, &self.cpu, "connection cut off")?;
        show_peaks(f, &self.memory)
    }
}

/// Of one instance beside a flooding one.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct FairnessFigures {
    /// Without the flood.
    pub alone: PublishFigures,
    /// With it.
    pub flooded: PublishFigures,
    /// Acknowledged publishes a second of the flood.
    pub flood_per_s: f64,
    /// Cores that the flood kept busy in the server, beyond those without it.
    pub flood_cores: f64,
    /// p99 with the flood by p99 without.
    pub ratio: f64,
}

impl fmt::Display for FairnessFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "alone: {}", self.alone)?;
        writeln!(f, "beside a flood: {}", self.flooded)?;
        write!(
            f,
            "the flood: {:.0} publishes/s, {:.2} cores of the server; p99 {:.2} times that alone",
            self.flood_per_s, self.flood_cores, self.ratio
        )
    }
}

/// Of the append floor.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct AppendFigures {
    /// Records for each sync.
    pub batch: usize,
    /// Bytes of a record.
    pub size: usize,
    /// Records a second.
    pub records_per_s: f64,
    /// Syncs a second.
    pub syncs_per_s: f64,
    /// Of one write and its sync.
    pub latency: Latency,
    /// Processor time of one.
    pub cpu_us_per_sync: f64,
}

impl fmt::Display for AppendFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "floor append: {} records of {} B for each fdatasync: {:.0} records/s; {}; CPU {:.0} us for each",
            self.batch, self.size, self.records_per_s, self.latency, self.cpu_us_per_sync
        )
    }
}
