//! The placement of `gb6 dev`, and how it follows the configuration file: read again at SIGHUP,
//! checked before it is used, and the last good one kept where it has a mistake.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use gb6_core_model::snapshot::{Instance, Snapshot};
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_obs::{Gauge, Metrics};
use gb6_geo_config_plan::{DEMO_INSTANCE, DevMesh, demo_instance, dev_snapshot};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::dev_keys::DevKeys;
use super::process::Stop;
use super::reload::{FileSeen, changed_keys};
use crate::config::{DevFile, DevSetup, Overrides};

/// What the placement is made of besides the instances of the file.
#[derive(Debug)]
pub(super) struct DevPlan {
    pub(super) data_dir: PathBuf,
    pub(super) keys: DevKeys,
    pub(super) region_node: NodeId,
    pub(super) edge_node: NodeId,
}

impl DevPlan {
    /// The placement with these instances, or else with the instance demo: each also with the keys
    /// that `gb6 dev` keeps for it, which come first. Blocks on the disk.
    ///
    /// # Errors
    /// A new instance's key can not be kept, or nodes can not work by the placement.
    pub(super) fn snapshot(
        &mut self,
        revision: u64,
        instances: Option<&BTreeMap<InstanceId, Instance>>,
    ) -> anyhow::Result<Snapshot> {
        let mut instances = match instances {
            Some(instances) => instances.clone(),
            None => BTreeMap::from([(DEMO_INSTANCE.into(), demo_instance())]),
        };
        self.keys.cover(&self.data_dir, instances.keys())?;
        for (id, instance) in &mut instances {
            let (token, api) = (
                self.keys.token_key(id.as_str()),
                self.keys.api_key(id.as_str()),
            );
            instance.keys.splice(0..0, token.into_iter().chain(api));
        }
        let mesh = DevMesh {
            region_node: &self.region_node,
            edge_node: &self.edge_node,
        };
        let snapshot = dev_snapshot(revision, instances, &mesh);
        snapshot.check()?;
        Ok(snapshot)
    }
}

/// Takes over what changes in the file.
pub(super) struct Reloader {
    file: (PathBuf, Overrides<DevFile>),
    /// What the process was started with: its own keys can not change while it runs.
    running: DevSetup,
    /// The instances in force.
    instances: Option<BTreeMap<InstanceId, Instance>>,
    plan: DevPlan,
    placement: watch::Sender<Arc<Snapshot>>,
    hangup: Signal,
    seen: FileSeen,
    revision: Gauge,
}

/// What a reading of the file came to.
#[derive(PartialEq, Eq, Debug)]
enum Outcome {
    /// Its instances are in force, under this revision.
    Taken(u64),
    /// It says what is in force already.
    Same,
}

impl Reloader {
    /// One that listens for SIGHUP from now on.
    ///
    /// # Errors
    /// Signals can not be listened to.
    pub(super) fn new(
        file: (PathBuf, Overrides<DevFile>),
        running: DevSetup,
        plan: DevPlan,
        placement: watch::Sender<Arc<Snapshot>>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            file,
            instances: running.instances.clone(),
            running,
            plan,
            placement,
            hangup: signal(SignalKind::hangup()).context("signals can not be listened to")?,
            seen: FileSeen::new(metrics),
            revision: {
                let revision = metrics.gauge(
                    "gb6_config_revision",
                    "How often the instances of the configuration file have changed, from 1.",
                );
                revision.set(1);
                revision
            },
        })
    }

    /// Follows the file until the process is to stop.
    pub(super) async fn run(mut self, stop: &Stop) {
        while let Some(asked) = stop.or(self.hangup.recv()).await {
            if asked.is_none() {
                // No signal can come any more.
                return stop.asked().await;
            }
            // Read outside the runtime's threads: the disk may be slow.
            let reading = tokio::task::spawn_blocking(move || {
                let outcome = self.reload();
                (self, outcome)
            });
            match reading.await {
                Ok((reloader, outcome)) => {
                    self = reloader;
                    self.tell(outcome);
                }
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
    }

    fn reload(&mut self) -> anyhow::Result<Outcome> {
        let (path, overrides) = &self.file;
        let setup = DevSetup::load(Some(path), overrides)?;
        for key in fixed_that_changed(&self.running, &setup)? {
            tracing::warn!(
                key,
                "this key has changed in the configuration and is used from the next start on"
            );
        }
        if setup.instances == self.instances {
            return Ok(Outcome::Same);
        }
        let revision = self.placement.borrow().revision + 1;
        let snapshot = self.plan.snapshot(revision, setup.instances.as_ref())?;
        self.instances = setup.instances;
        self.placement.send_replace(Arc::new(snapshot));
        Ok(Outcome::Taken(revision))
    }

    fn tell(&self, outcome: anyhow::Result<Outcome>) {
        let file = self.file.0.display();
        let revision = self.placement.borrow().revision;
        self.seen.took(outcome.is_ok());
        self.revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
        match outcome {
            Ok(Outcome::Taken(revision)) => {
                eprintln!(
                    "{file} was read again: its instances are in force (revision {revision})."
                );
            }
            Ok(Outcome::Same) => {
                eprintln!("{file} was read again: its instances are as before.");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                revision,
                "the configuration is not taken over: what is in force stays"
            ),
        }
    }
}

/// The keys of the process, and its default instance, in which two setups differ.
fn fixed_that_changed(running: &DevSetup, now: &DevSetup) -> anyhow::Result<Vec<String>> {
    let mut keys = changed_keys(&running.file, &now.file)?;
    if running.default_instance() != now.default_instance() {
        keys.push("default_instance".to_owned());
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::{Key, KeyAlgorithm, KeyUse};

    #[test]
    fn each_instance_has_the_keys_of_gb6_dev_before_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = DevPlan {
            data_dir: dir.path().to_path_buf(),
            keys: DevKeys::load_or_create(dir.path()).unwrap(),
            region_node: "n".into(),
            edge_node: "n".into(),
        };
        let own = Key {
            id: "k".into(),
            usage: KeyUse::Client,
            algorithm: KeyAlgorithm::HS256,
            secret: "s".repeat(32),
            ..Key::default()
        };
        let acme = Instance {
            keys: vec![own.clone()],
            ..demo_instance()
        };
        let acme = BTreeMap::from([(InstanceId::from("acme"), acme)]);
        let snapshot = plan.snapshot(2, Some(&acme)).unwrap();
        let keys = &snapshot.instances["acme"].keys;
        assert_eq!(keys.len(), 3);
        assert!(keys[0].id.starts_with("acme."));
        assert_eq!(
            (keys[0].usage, keys[1].usage),
            (KeyUse::Client, KeyUse::Api)
        );
        assert_eq!(keys[2], own);
        let demo = plan.snapshot(3, None).unwrap();
        assert_eq!(demo.instances.len(), 1);
        assert!(demo.instances["demo"].keys[0].id.starts_with("demo."));
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let running = DevSetup {
            file: DevFile::default(),
            instances: None,
        };
        let mut now = running.clone();
        assert!(fixed_that_changed(&running, &now).unwrap().is_empty());
        now.file.clients.ping = gb6_geo_config_plan::Millis(5_000);
        now.file.data_dir = "elsewhere".into();
        now.instances = Some(BTreeMap::from([("acme".into(), Instance::default())]));
        assert_eq!(
            fixed_that_changed(&running, &now).unwrap(),
            ["clients.ping", "data_dir", "default_instance"]
        );
    }
}
