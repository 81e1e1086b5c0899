//! The command line of benches that start what they measure themselves, and of the floors.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{FanoutArgs, PublishArgs, StartArgs, seconds};
use crate::secure::Carrier;

/// Connections over TLS or QUIC.
#[derive(Clone, Debug, Args)]
pub struct SecureArgs {
    /// What carries them.
    #[arg(long, value_enum, default_value_t = Carrier::Tls)]
    pub over: Carrier,
    /// Connections.
    #[arg(long, default_value_t = 5_000)]
    pub connections: usize,
    /// Rooms that they are spread over.
    #[arg(long, default_value_t = 64)]
    pub rooms: usize,
    /// Seconds that they are left alone before memory is read.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub settle: Duration,
    /// How servers are started, and the figures shown.
    #[command(flatten)]
    pub start: StartArgs,
}

/// A user who is blocked.
#[derive(Clone, Debug, Args)]
pub struct RevokeArgs {
    /// Connections of the user, at all edges by turns.
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Connections of other users, which stay.
    #[arg(long, default_value_t = 500)]
    pub others: usize,
    /// Edges of the mesh.
    #[arg(long, default_value_t = 2, value_parser = edges)]
    pub edges: usize,
    /// How servers are started, and the figures shown.
    #[command(flatten)]
    pub start: StartArgs,
}

/// Deltas.
#[derive(Clone, Debug, Args)]
pub struct DeltaArgs {
    /// Publications.
    #[arg(long, default_value_t = 20_000)]
    pub publications: usize,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A floor.
#[derive(Clone, Debug, Subcommand)]
pub enum Floor {
    /// A bare fan-out server: epoll, one send for all that came in one wake-up.
    Epoll(Box<FanoutArgs>),
    /// Records written to a preallocated file, one fdatasync for each batch.
    Append(AppendArgs),
    /// A bare server that writes and syncs all that came in one wake-up, then acknowledges it.
    Publish(Box<PublishArgs>),
    /// A bare tokio-rustls server: TLS handshakes, and connections that are kept.
    Tls(SecureArgs),
    /// A bare quinn server with small windows: QUIC handshakes, and connections that are kept.
    Quinn(SecureArgs),
    /// A bare server alone; it prints its address.
    #[command(hide = true)]
    Serve {
        /// The file that is synced before anything is acknowledged; without one: fan-out.
        #[arg(long)]
        log: Option<PathBuf>,
        /// Handshakes over this instead.
        #[arg(long, conflicts_with = "log")]
        over: Option<Carrier>,
    },
}

/// The append floor.
#[derive(Clone, Debug, Args)]
pub struct AppendArgs {
    /// Records for one sync.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Bytes of a record.
    #[arg(long, default_value_t = 300)]
    pub size: usize,
    /// Seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub duration: Duration,
    /// The directory, on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub work_dir: PathBuf,
    /// Print the figures as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Edges of a mesh on one machine.
fn edges(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=8) => Ok(count),
        _ => Err(format!("`{text}` is no number from 1 to 8")),
    }
}
