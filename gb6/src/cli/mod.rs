//! The command line: what can be asked of `gb6`, and who answers it.

mod cert;
mod config;
mod ctl;
mod ctl_list;
mod directory;
mod doctor;
mod exit;
mod log;
mod serve;
mod token;
mod token_claims;
mod token_show;

use clap::{Parser, Subcommand};

pub(crate) use exit::Failure;

use crate::config::EdgeFile;

/// GB6: durable real-time messaging, from one laptop to a mesh of nodes.
#[derive(Parser, Debug)]
#[command(
    name = "gb6",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "To try it: gb6 dev, then open the address that it prints.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run everything in one process, to try it and to develop against it
    Dev(serve::Dev),
    /// Run an edge: serves clients, forwards to regions
    Edge(serve::RoleRun<EdgeFile>),
    /// Run a region: owns shards, makes every message durable
    Region(serve::Region),
    /// Run geo: serves the snapshot to every node
    Geo(serve::Geo),
    /// Make the mesh's certificates
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Print examples of configuration files, and check them
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make tokens for clients
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Look at a running region and move its shards; change customers, instances and keys
    #[command(subcommand)]
    Ctl(ctl::CtlCommand),
    /// Look at the logs of a data directory, without a server
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Look at this machine: file limits, ports, clock, disk
    Doctor(doctor::Doctor),
    /// Measure a server, a peer, or what the machine can do at best
    #[command(subcommand)]
    Bench(Box<gb6_tests_load::Bench>),
    /// Print the version
    Version,
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, for the person who asked.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Dev(dev) => dev.run(),
            Command::Bench(bench) => gb6_tests_load::run(*bench).map_err(Failure::from),
            Command::Edge(edge) => edge.run(),
            Command::Region(region) => region.run(),
            Command::Geo(geo) => geo.run(),
            Command::Cert(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Token(command) => command.run(),
            Command::Ctl(command) => command.run(),
            Command::Log(command) => command.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Version => exit::print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
        }
    }
}
