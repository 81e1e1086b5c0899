//! The load generator without a server in it: what `gb6 bench` does, for servers elsewhere.

use clap::Parser;
use gb6_tests_load::Bench;

/// Load generator for GB6 and its peers.
#[derive(Parser)]
#[command(name = "gb6-load", version)]
enum Commands {
    /// Measure a server, a peer or a floor.
    #[command(subcommand)]
    Bench(Bench),
}

fn main() -> anyhow::Result<()> {
    let Commands::Bench(bench) = Commands::parse();
    gb6_tests_load::run(bench)
}
