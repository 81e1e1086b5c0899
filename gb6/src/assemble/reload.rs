//! The file of a node that runs, read again at SIGHUP: checked before it is used, and the last good one
//! kept where it has a mistake. What can change while the node runs is applied; what can not is named.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use gb6_core_obs::{Counter, Gauge, Metrics, logs};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::process::Stop;
use crate::config::{Overrides, RoleFile, load};

/// Where a node's configuration comes from.
#[derive(Clone, Debug)]
pub(crate) struct Source<F> {
    /// The file; `None`: there is none.
    pub(crate) path: Option<PathBuf>,
    /// What goes over it.
    pub(crate) overrides: Overrides<F>,
}

/// The logs' filter: applied for every role.
const FILTER: &str = "log.filter";

/// Follows the file of one node.
pub(super) struct NodeReload<F> {
    source: Source<F>,
    /// What is in force, except for keys that only count at a start.
    running: F,
    hangup: Signal,
    seen: FileSeen,
}

impl<F: RoleFile + Clone + Send + 'static> NodeReload<F> {
    /// One that listens for SIGHUP from now on: before that, the signal ends a process.
    ///
    /// # Errors
    /// Signals can not be listened to.
    pub(super) fn new(source: Source<F>, running: F, metrics: &Metrics) -> anyhow::Result<Self> {
        Ok(Self {
            source,
            running,
            hangup: signal(SignalKind::hangup()).context("signals can not be listened to")?,
            seen: FileSeen::new(metrics),
        })
    }

    /// Follows the file until the process is to stop; what is in force then. `apply` puts the keys in
    /// force that are named in `applied`, beside `log.filter`.
    pub(super) async fn run(
        mut self,
        stop: &Stop,
        applied: &[&str],
        mut apply: impl FnMut(&F),
    ) -> F {
        while let Some(asked) = stop.or(self.hangup.recv()).await {
            if asked.is_none() {
                // No signal can come any more.
                stop.asked().await;
                break;
            }
            let Some(path) = self.source.path.clone() else {
                tracing::warn!("there is no configuration file to be read again");
                continue;
            };
            // Read outside the runtime's threads: the disk may be slow.
            let source = self.source.clone();
            let reading = move || load(source.path.as_deref(), &source.overrides);
            let read = match tokio::task::spawn_blocking(reading).await {
                Ok(read) => read,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            let taken = read
                .map_err(anyhow::Error::from)
                .and_then(|file| self.take(file, applied));
            self.seen.took(taken.is_ok());
            match taken {
                Ok(changed) => {
                    if changed {
                        apply(&self.running);
                    }
                    eprintln!("{} was read again.", path.display());
                }
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration is not taken over: what is in force stays"
                ),
            }
        }
        self.running
    }

    /// Takes over what a good file says. `true`: one of the keys in `applied` has changed.
    fn take(&mut self, file: F, applied: &[&str]) -> anyhow::Result<bool> {
        let changed = changed_keys(&self.running, &file)?;
        if changed.iter().any(|key| key == FILTER) {
            let filter = flat(&file)?.remove(FILTER);
            let filter = filter
                .as_ref()
                .and_then(toml::Value::as_str)
                .unwrap_or_default();
            if !logs::set_filter(filter)? {
                let variable = logs::FILTER_VARIABLE;
                tracing::warn!(
                    variable,
                    "log.filter has changed, and the variable goes before it"
                );
            }
        }
        let mut any = false;
        for key in changed {
            let is_applied = applied.contains(&key.as_str());
            any |= is_applied;
            match is_applied || key == FILTER {
                true => tracing::info!(
                    key,
                    "this key has changed in the configuration and is in force"
                ),
                false => tracing::warn!(
                    key,
                    "this key has changed in the configuration and is used from the next start on"
                ),
            }
        }
        self.running = file;
        Ok(any)
    }
}

/// The keys in which two files differ, by their paths.
pub(super) fn changed_keys<F: Serialize>(old: &F, new: &F) -> anyhow::Result<Vec<String>> {
    let (old, new) = (flat(old)?, flat(new)?);
    let changed = old
        .iter()
        .filter(|(key, value)| new.get(*key) != Some(value));
    Ok(changed.map(|(key, _)| key.clone()).collect())
}

/// Every key of a file by its path.
fn flat<F: Serialize>(file: &F) -> anyhow::Result<BTreeMap<String, toml::Value>> {
    let mut flat = BTreeMap::new();
    for (key, value) in toml::Table::try_from(file)? {
        match value {
            toml::Value::Table(table) => {
                flat.extend(table.into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => {
                flat.insert(key, value);
            }
        }
    }
    Ok(flat)
}

/// What metrics show of readings of a file.
pub(super) struct FileSeen {
    good: Gauge,
    refused: Counter,
}

impl FileSeen {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let seen = Self {
            good: metrics.gauge(
                "gb6_config_file_good",
                "Whether the configuration file was good when it was read last (1) or had a mistake (0).",
            ),
            refused: metrics.counter(
                "gb6_config_refused_total",
                "Readings of the configuration file that were not taken over.",
            ),
        };
        seen.took(true);
        seen
    }

    /// The file was read, and taken over or not.
    pub(super) fn took(&self, good: bool) {
        self.good.set(i64::from(good));
        if !good {
            self.refused.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EdgeFile;

    #[test]
    fn keys_that_differ_are_named_by_their_paths() {
        let old = EdgeFile::default();
        assert!(changed_keys(&old, &old).unwrap().is_empty());
        let mut new = old.clone();
        new.drain = gb6_geo_config_plan::Millis(1);
        new.clients.connections_max = 7;
        new.log.filter = "debug".into();
        assert_eq!(
            changed_keys(&old, &new).unwrap(),
            ["clients.connections_max", "drain", "log.filter"]
        );
    }
}
