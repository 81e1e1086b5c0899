//! `gb6 dev`, `gb6 edge`, `gb6 region`, `gb6 geo`: what runs until it is told to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::config::RoleArgs;
use super::exit::Failure;
use crate::assemble::{DevConfig, Stop, run, run_dev, run_edge, run_geo, run_region};
use crate::config::{EdgeFile, GeoFile, LogTable, RegionFile, RoleFile};

/// What is logged unless GB6_LOG says otherwise: `gb6 dev` tells in words what people need.
const DEV_LOG_FILTER: &str = "warn";

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Where everything is kept; made if absent
    #[arg(
        long,
        value_name = "DIR",
        env = "GB6_DATA_DIR",
        default_value = "gb6-data"
    )]
    data_dir: PathBuf,
    /// The address for clients and the console; port 0: any free one
    #[arg(
        long,
        value_name = "ADDR",
        env = "GB6_HTTP",
        default_value = "127.0.0.1:8080"
    )]
    http: SocketAddr,
    /// Print one line of JSON on standard output when ready, for programs
    #[arg(long, env = "GB6_READY_JSON", value_parser = BoolishValueParser::new())]
    ready_json: bool,
}

impl Dev {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let config = DevConfig {
            data_dir: self.data_dir,
            http: self.http,
            ready_json: self.ready_json,
        };
        let format = gb6_core_obs::logs::Format::Human;
        Ok(run(format, DEV_LOG_FILTER, |stop| run_dev(config, stop))?)
    }
}

/// What a role takes besides its configuration.
#[derive(Args, Debug)]
pub(crate) struct RoleRun<F: RoleFile + Clone + std::fmt::Debug + Send + Sync + 'static> {
    #[command(flatten)]
    args: RoleArgs<F>,
    /// Print one line of JSON on standard output when ready, for programs
    #[arg(long, env = "GB6_READY_JSON", value_parser = BoolishValueParser::new())]
    ready_json: bool,
}

impl RoleRun<EdgeFile> {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = self.args.load()?;
        start(&file.log.clone(), |stop| {
            run_edge(file, self.ready_json, stop)
        })
    }
}

impl RoleRun<RegionFile> {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = self.args.load()?;
        start(&file.log.clone(), |stop| {
            run_region(file, self.ready_json, stop)
        })
    }
}

impl RoleRun<GeoFile> {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = self.args.load()?;
        start(&file.log.clone(), |stop| {
            run_geo(file, self.ready_json, stop)
        })
    }
}

fn start<F: Future<Output = anyhow::Result<()>>>(
    log: &LogTable,
    node: impl FnOnce(Stop) -> F,
) -> Result<(), Failure> {
    Ok(run(log.format.format(), &log.filter, node)?)
}
