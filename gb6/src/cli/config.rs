//! `gb6 config`: examples of configuration files, and what is wrong with yours.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use gb6_geo_config_plan::{EXAMPLE, read_snapshot};

use super::exit::{Failure, print};
use crate::config::{
    DevFile, DevSetup, EdgeFile, GeoFile, Overrides, RegionFile, RoleFile, example, load, markdown,
};

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Print a commented file with every key at its default
    Example {
        /// Which file
        file: FileKind,
    },
    /// Check a file, and print what it comes to with variables and flags over it
    #[command(subcommand)]
    Check(CheckCommand),
    /// Print the tables of all keys, in Markdown
    #[command(hide = true)]
    Reference,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FileKind {
    /// The file of `gb6 dev`
    Dev,
    /// The file of `gb6 edge`
    Edge,
    /// The file of `gb6 region`
    Region,
    /// The file of `gb6 geo`
    Geo,
    /// The snapshot that geo serves: instances, regions, nodes
    Snapshot,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CheckCommand {
    /// The file of `gb6 dev` with the secret files that it names
    Dev(RoleArgs<DevFile>),
    /// The file of `gb6 edge`
    Edge(RoleArgs<EdgeFile>),
    /// The file of `gb6 region`
    Region(RoleArgs<RegionFile>),
    /// The file of `gb6 geo`
    Geo(RoleArgs<GeoFile>),
    /// A snapshot file with the secret files that it names
    Snapshot {
        /// The file
        file: PathBuf,
    },
}

/// What a role takes on the command line.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoleArgs<F: RoleFile + Clone + std::fmt::Debug + Send + Sync + 'static> {
    /// The configuration file; `gb6 config example` prints one
    #[arg(long, env = "GB6_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides<F>,
}

impl<F: RoleFile + Clone + std::fmt::Debug + Send + Sync + 'static> RoleArgs<F> {
    /// The configuration that they come to.
    pub(crate) fn load(&self) -> Result<F, Failure> {
        load(self.config.as_deref(), &self.overrides).map_err(Failure::usage)
    }

    /// What is said of `file` and over it.
    pub(crate) fn parts(self) -> (Option<PathBuf>, Overrides<F>) {
        (self.config, self.overrides)
    }

    fn show(&self) -> Result<(), Failure> {
        let text = toml::to_string(&self.load()?.shown())?;
        print(&text)
    }
}

impl ConfigCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            ConfigCommand::Example { file } => print(&match file {
                FileKind::Dev => dev_example(),
                FileKind::Edge => example::<EdgeFile>(),
                FileKind::Region => example::<RegionFile>(),
                FileKind::Geo => example::<GeoFile>(),
                FileKind::Snapshot => EXAMPLE.to_owned(),
            }),
            ConfigCommand::Check(CheckCommand::Dev(args)) => check_dev(args),
            ConfigCommand::Check(CheckCommand::Edge(args)) => args.show(),
            ConfigCommand::Check(CheckCommand::Region(args)) => args.show(),
            ConfigCommand::Check(CheckCommand::Geo(args)) => args.show(),
            ConfigCommand::Check(CheckCommand::Snapshot { file }) => {
                let snapshot = read_snapshot_file(&file)?;
                eprintln!(
                    "{} is good: {} instances, {} regions, {} nodes.",
                    file.display(),
                    snapshot.instances.len(),
                    snapshot.regions.len(),
                    snapshot.nodes.len()
                );
                Ok(())
            }
            ConfigCommand::Reference => print(&reference()),
        }
    }
}

/// The example of `gb6 dev`'s file: its own keys, and a word about the instances.
fn dev_example() -> String {
    let about = "\n# Instances stand here as in a snapshot file, without region: all are in one \
        place. `gb6 config\n# example snapshot` prints their keys. Without any there is the instance \
        demo, with room:… and no\n# rate limit. gb6 dev reads the file again at SIGHUP; a mistake in it \
        changes nothing.\n#\n\
        # [instances.acme]\n# hosts = [\"chat.acme.example\"]\n\
        # keys = [{ id = \"acme.main\", secret_file = \"acme.secret\" }]\n\
        # [instances.acme.namespaces.room]\n# presence = true\n";
    example::<DevFile>() + about
}

fn check_dev(args: RoleArgs<DevFile>) -> Result<(), Failure> {
    let (path, overrides) = args.parts();
    let setup = DevSetup::load(path.as_deref(), &overrides).map_err(Failure::usage)?;
    eprintln!(
        "Good: {} in it; a connection that names none is of {}.",
        match setup.instances.as_ref().map(|instances| instances.len()) {
            None => "no instances".to_owned(),
            Some(1) => "1 instance".to_owned(),
            Some(n) => format!("{n} instances"),
        },
        setup.default_instance()
    );
    print(&toml::to_string(&setup.file.shown())?)
}

/// The tables of all keys.
fn reference() -> String {
    [
        markdown::<DevFile>(),
        markdown::<EdgeFile>(),
        markdown::<RegionFile>(),
        markdown::<GeoFile>(),
    ]
    .join("\n")
}

/// The snapshot of a file and the secret files beside it.
pub(crate) fn read_snapshot_file(
    file: &Path,
) -> Result<gb6_core_model::snapshot::Snapshot, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| anyhow::anyhow!("{} can not be read: {e}", file.display()))?;
    let dir = file.parent().unwrap_or(Path::new(""));
    let secret = |path: &str| std::fs::read_to_string(dir.join(path)).map_err(|e| e.to_string());
    read_snapshot(&text, 1, secret).map_err(|problems| {
        let lines: Vec<String> = problems
            .0
            .iter()
            .map(|p| format!("{}: {p}", file.display()))
            .collect();
        Failure::Usage(anyhow::anyhow!(lines.join("\n")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_key_as_it_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let docs = std::fs::read_to_string(path).unwrap();
        assert!(
            docs.contains(&reference()),
            "docs/configuration.md is behind the code: put the output of `gb6 config reference` \
             between its markers"
        );
        assert!(
            docs.contains(EXAMPLE),
            "docs/configuration.md has another example of a snapshot"
        );
    }
}
