//! The directory: the databases that keep customers, and the key that seals what is secret there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use gb6_core_obs::Metrics;
use gb6_core_ports::directory::DirectoryError;
use gb6_core_ports::{Check, Directory, Sealer};
use gb6_geo_config_node::OpenDirectory;
use gb6_region_stores_sql::{Config, Holds, SqlDirectory, check};
use tokio::runtime::Handle;

use super::sealing::load_sealer;
use crate::config::{GeoStoresTable, StoreUri};

/// What the key file seals.
const SECRETS: &str = "the secrets of customers, the same wherever the directory is used";

/// The databases of a directory, as a configuration or a command names them.
#[derive(Clone, Debug)]
pub(crate) struct Databases {
    configs: Vec<Config>,
    key_file: PathBuf,
}

/// Each behind the one before; no password is shown.
impl fmt::Display for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, config) in self.configs.iter().enumerate() {
            let between = if n == 0 { "" } else { ", " };
            write!(f, "{between}{config}")?;
        }
        Ok(())
    }
}

impl Databases {
    /// Those of a table; `None`: there are none.
    ///
    /// # Errors
    /// What is wrong: key and words.
    pub(crate) fn of(table: &GeoStoresTable) -> Result<Option<Self>, Vec<(&'static str, String)>> {
        let uris = &table.directory.0;
        let key_file = &table.directory_key_file;
        if uris.is_empty() {
            return match key_file.is_empty() {
                true => Ok(None),
                false => Err(vec![(
                    "stores.directory_key_file",
                    "without stores.directory it is of no use".to_owned(),
                )]),
            };
        }
        let mut problems = Vec::new();
        let databases = Self::parse(uris, Path::new(key_file))
            .map_err(|why| problems.push(("stores.directory", why)));
        if key_file.is_empty() {
            let why = "it is needed where there is a directory: make the file with `openssl rand -hex 32`";
            problems.push(("stores.directory_key_file", why.to_owned()));
        }
        match databases {
            Ok(databases) if problems.is_empty() => Ok(Some(databases)),
            _ => Err(problems),
        }
    }

    /// These ones.
    ///
    /// # Errors
    /// What is wrong with the first that can not be one.
    pub(crate) fn parse(uris: &[StoreUri], key_file: &Path) -> Result<Self, String> {
        let configs = uris.iter().map(config).collect::<Result<_, _>>()?;
        Ok(Self {
            configs,
            key_file: key_file.to_path_buf(),
        })
    }

    /// Opens the directory, and makes files that are missing where `make` says so. Blocks, on a thread that
    /// is not a runtime's; calls do their work on `runtime`.
    ///
    /// # Errors
    /// The key file is none; a database does not answer, or is not fit.
    pub(crate) fn open(
        &self,
        make: bool,
        runtime: Handle,
        metrics: &Metrics,
    ) -> anyhow::Result<SqlDirectory> {
        let sealer = self.sealer()?;
        if !make {
            all_there(&self.configs)?;
        }
        SqlDirectory::open(&self.configs, sealer, runtime, metrics)
            .with_context(|| format!("the directory {self} can not be opened"))
    }

    /// What opens it, each time that it is called, from threads that are not a runtime's. Within a runtime.
    ///
    /// # Errors
    /// The key file is none.
    pub(super) fn opener(&self, metrics: &Metrics) -> anyhow::Result<OpenDirectory> {
        let (configs, sealer) = (self.configs.clone(), self.sealer()?);
        let (runtime, metrics) = (Handle::current(), metrics.clone());
        Ok(Box::new(move || {
            // An empty one in the place of one that was moved away would have no instances.
            all_there(&configs)?;
            let opened = SqlDirectory::open(&configs, sealer.clone(), runtime.clone(), &metrics)?;
            Ok::<Arc<dyn Directory>, DirectoryError>(Arc::new(opened))
        }))
    }

    /// What the databases and the key file say about themselves. Blocks.
    pub(super) fn check(&self, runtime: &Handle) -> Vec<Check> {
        let mut checks = Vec::new();
        for config in &self.configs {
            match all_there(std::slice::from_ref(config)) {
                Ok(()) => checks.extend(check(config, Holds::Directory, runtime.clone())),
                Err(error) => checks.push(Check::bad(config.to_string(), error.to_string())),
            }
        }
        let what = format!("directory key {}", self.key_file.display());
        checks.push(match self.sealer() {
            Ok(_) => Check::good(what, "it is one"),
            Err(error) => Check::bad(what, format!("{error:#}")),
        });
        checks
    }

    fn sealer(&self) -> anyhow::Result<Sealer> {
        load_sealer(&self.key_file, SECRETS)
    }
}

/// Whether every file is there.
fn all_there(configs: &[Config]) -> Result<(), DirectoryError> {
    match configs.iter().find_map(Config::missing_file) {
        None => Ok(()),
        Some(path) => Err(DirectoryError::Unavailable {
            cause: format!(
                "there is no file {}: the first `gb6 ctl org add` makes it",
                path.display()
            ),
        }),
    }
}

fn config(uri: &StoreUri) -> Result<Config, String> {
    match uri.scheme() {
        "sqlite" => Config::parse(&uri.0),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Config::parse(&uri.0),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(super::stores::missing("PostgreSQL", "postgres")),
        _ => Err(format!(
            "there is no directory {uri}: write sqlite:PATH, or postgres://USER@HOST/DATABASE"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreUris;

    #[test]
    fn a_directory_has_a_key_file_and_databases_that_are_some() {
        let table = |uris: &[&str], key: &str| GeoStoresTable {
            directory: StoreUris(uris.iter().map(|uri| StoreUri::from(*uri)).collect()),
            directory_key_file: key.into(),
        };
        let wrong = |uris: &[&str], key: &str| {
            let problems = Databases::of(&table(uris, key)).unwrap_err();
            problems.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert!(Databases::of(&table(&[], "")).unwrap().is_none());
        let good = Databases::of(&table(&["sqlite:a", "sqlite:b?shard=b"], "key"));
        assert_eq!(good.unwrap().unwrap().to_string(), "sqlite:a, sqlite:b");
        assert_eq!(wrong(&[], "key"), ["stores.directory_key_file"]);
        assert_eq!(wrong(&["sqlite:a"], ""), ["stores.directory_key_file"]);
        assert_eq!(wrong(&["mysql://a:hush@h/b"], "key"), ["stores.directory"]);
        let both = ["stores.directory", "stores.directory_key_file"];
        assert_eq!(wrong(&["sqlite:"], ""), both);
        let said = Databases::of(&table(&["mysql://a:hush@h/b"], "key")).unwrap_err();
        assert!(!said[0].1.contains("hush"), "{said:?}");
    }
}
