//! `gb6 dev`, `gb6 edge`, `gb6 region`, `gb6 geo`: what runs until it is told to stop.

use std::future::Future;

use clap::Args;
use clap::builder::BoolishValueParser;
use gb6_core_ports::Check;

use super::config::RoleArgs;
use super::exit::{Failure, print};
use crate::assemble::{
    DevConfig, Source, Stop, check_geo, check_region, run, run_dev, run_edge, run_geo, run_region,
};
use crate::config::{DevFile, DevSetup, EdgeFile, GeoFile, LogTable, RegionFile, RoleFile};

#[derive(Args, Debug)]
pub(crate) struct Dev {
    #[command(flatten)]
    args: RoleArgs<DevFile>,
    /// Print one line of JSON on standard output when ready, for programs
    #[arg(long, env = "GB6_READY_JSON", value_parser = BoolishValueParser::new())]
    ready_json: bool,
}

impl Dev {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (path, overrides) = self.args.parts();
        let setup = DevSetup::load(path.as_deref(), &overrides).map_err(Failure::usage)?;
        let log = setup.file.log.clone();
        let config = DevConfig {
            setup,
            path,
            overrides,
            ready_json: self.ready_json,
        };
        Ok(run(log.format.format(), &log.filter, |stop| {
            run_dev(config, stop)
        })?)
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
        let (path, overrides) = self.args.parts();
        let source = Source { path, overrides };
        start(&file.log.clone(), |stop| {
            run_edge(file, source, self.ready_json, stop)
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Region {
    #[command(flatten)]
    run: RoleRun<RegionFile>,
    /// Start nothing: connect to every engine that the configuration names, look at versions,
    /// permissions and settings, and say what is wrong
    #[arg(long)]
    check: bool,
}

impl Region {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = self.run.args.load()?;
        if self.check {
            return tell(&check_region(&file)?);
        }
        let (path, overrides) = self.run.args.parts();
        let source = Source { path, overrides };
        start(&file.log.clone(), |stop| {
            run_region(file, source, self.run.ready_json, stop)
        })
    }
}

/// Prints what each engine says about itself.
fn tell(checks: &[Check]) -> Result<(), Failure> {
    let mut text = String::new();
    for check in checks {
        let line = match &check.found {
            Ok(found) => format!("ok    {}: {found}\n", check.what),
            Err(advice) => format!("FAIL  {}: {advice}\n", check.what),
        };
        text.push_str(&line);
    }
    print(&text)?;
    match checks.iter().filter(|check| !check.is_good()).count() {
        0 => Ok(()),
        bad => Err(anyhow::anyhow!(
            "{bad} of {} checks found something that must be mended first",
            checks.len()
        )
        .into()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct Geo {
    #[command(flatten)]
    run: RoleRun<GeoFile>,
    /// Start nothing: connect to the databases of the directory, look at versions, permissions and
    /// settings, and say what is wrong
    #[arg(long)]
    check: bool,
}

impl Geo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let file = self.run.args.load()?;
        if self.check {
            return tell(&check_geo(&file)?);
        }
        let (path, overrides) = self.run.args.parts();
        let source = Source { path, overrides };
        start(&file.log.clone(), |stop| {
            run_geo(file, source, self.run.ready_json, stop)
        })
    }
}

fn start<F: Future<Output = anyhow::Result<()>>>(
    log: &LogTable,
    node: impl FnOnce(Stop) -> F,
) -> Result<(), Failure> {
    Ok(run(log.format.format(), &log.filter, node)?)
}
