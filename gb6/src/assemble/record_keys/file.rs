//! The keys of a region of one node: in a file of its data directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use gb6_core_model::snapshot::{Assigned, Snapshot};
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_ports::StoreError;
use gb6_region_node::{KeySource, RecordKeys};
use serde::{Deserialize, Serialize};

use super::{Cover, Keys, decode, encode_bytes, random_key};
use crate::assemble::files::{read_json, replace_json};

/// The file in a region's data directory, mode 0600.
const FILE: &str = "record-keys.json";

/// What stands in the file: instance → key id → key, 64 hexadecimal digits. The highest id of an
/// instance seals what is written; older ones still open what they sealed.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    instances: BTreeMap<String, BTreeMap<u32, String>>,
}

/// The keys of a region, in its file and in memory.
pub(in crate::assemble) struct KeyFile {
    path: PathBuf,
    node: NodeId,
    /// What is in the file; `None`: there is none yet.
    kept: Option<Ring>,
    keys: RecordKeys,
}

impl KeyFile {
    /// The keys in `data_dir`.
    ///
    /// # Errors
    /// The file can not be read, is damaged, or is gone although there are logs, which is asked only then.
    pub(in crate::assemble) fn open(
        data_dir: &Path,
        node: &NodeId,
        has_logs: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE);
        let kept: Option<Ring> = read_json(&path)?;
        if kept.is_none() && has_logs()? {
            bail!(
                "{} is gone, and without it the messages in {} can not be read: restore it, or \
                 move the directory away to start anew",
                path.display(),
                data_dir.display()
            );
        }
        let keys = RecordKeys::of(Arc::new(KnownHere));
        for (instance, by_id) in decoded(&path, kept.as_ref())? {
            for (id, key) in by_id {
                keys.add(&instance, id, key);
            }
        }
        Ok(Self {
            path,
            node: node.clone(),
            kept,
            keys,
        })
    }
}

/// Nobody else makes keys: those of the file are known, and there are no others.
struct KnownHere;

impl KeySource for KnownHere {
    fn key(&self, _: &str, _: u32) -> Result<Option<[u8; 32]>, StoreError> {
        Ok(None)
    }
}

/// The keys that a file of `data_dir` has, by instance; empty where there is none.
///
/// # Errors
/// It can not be read, or a key in it is damaged.
pub(in crate::assemble) fn kept_keys(data_dir: &Path) -> anyhow::Result<BTreeMap<String, Keys>> {
    let path = data_dir.join(FILE);
    let kept: Option<Ring> = read_json(&path)?;
    decoded(&path, kept.as_ref())
}

fn decoded(path: &Path, ring: Option<&Ring>) -> anyhow::Result<BTreeMap<String, Keys>> {
    let mut all = BTreeMap::<String, Keys>::new();
    for (instance, by_id) in ring.iter().flat_map(|ring| &ring.instances) {
        for (id, text) in by_id {
            let key = decode(text).with_context(|| {
                format!(
                    "{}: key {id} of instance {instance} is damaged: restore it from a backup",
                    path.display()
                )
            })?;
            all.entry(instance.clone()).or_default().insert(*id, key);
        }
    }
    Ok(all)
}

impl Cover for KeyFile {
    fn keys(&self) -> RecordKeys {
        self.keys.clone()
    }

    fn cover(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let mut ring = self.kept.clone().unwrap_or_default();
        let mut made = Vec::new();
        for id in served(snapshot, &self.node) {
            if !ring.instances.contains_key(id.as_str()) {
                let key = random_key()?;
                let text = encode_bytes(&key);
                ring.instances
                    .insert(id.to_string(), BTreeMap::from([(1, text)]));
                made.push((id, key));
            }
        }
        if self.kept.as_ref() != Some(&ring) {
            replace_json(&self.path, &ring)?;
        }
        for (id, key) in made {
            self.keys.add(id.as_str(), 1, key);
        }
        // Last: whatever ends this before, the next call makes anew.
        self.kept = Some(ring);
        Ok(())
    }
}

/// The instances that `node` owns shards of, or may own where the region decides that itself.
fn served<'a>(
    snapshot: &'a Snapshot,
    node: &'a NodeId,
) -> impl Iterator<Item = &'a InstanceId> + 'a {
    snapshot.instances.iter().filter_map(move |(id, instance)| {
        let region = snapshot.regions.get(&instance.region)?;
        let may_own = match region.assigned {
            Assigned::Placement => region.owners.contains(node),
            Assigned::Region => {
                let of = snapshot.nodes.get(node)?.region.as_ref();
                of == Some(&instance.region)
            }
        };
        may_own.then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble::record_keys::follow;
    use gb6_core_wire::record::KeyRing;
    use gb6_geo_config_plan::{DemoMesh, demo_snapshot};
    use gb6_region_node::KeyLook;

    use std::time::Duration;
    use tokio::sync::watch;

    fn demo() -> Snapshot {
        demo_snapshot(&DemoMesh {
            revision: 1,
            key_id: "demo.k",
            secret: &"s".repeat(32),
            region_node: &"r1".into(),
            edge_node: &"e1".into(),
        })
    }

    /// [`demo`] with a second instance.
    fn with_acme() -> Snapshot {
        let mut snapshot = demo();
        let acme = snapshot.instances[&InstanceId::from("demo")].clone();
        snapshot.instances.insert("acme".into(), acme);
        snapshot.revision = 2;
        snapshot
    }

    fn open(dir: &Path, node: &str, has_logs: bool) -> anyhow::Result<RecordKeys> {
        let mut file = KeyFile::open(dir, &node.into(), || Ok(has_logs))?;
        file.cover(&demo())?;
        Ok(file.keys())
    }

    #[test]
    fn made_once_for_what_the_node_serves() {
        let dir = tempfile::tempdir().unwrap();
        let made = open(dir.path(), "r1", false).unwrap().key("demo", 1);
        assert!(made.is_some());
        let again = open(dir.path(), "r1", true).unwrap();
        assert_eq!(again.key("demo", 1), made);
        assert_eq!(again.look_for("demo", 2), KeyLook::Destroyed);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let error = open(dir.path(), "r1", true).unwrap_err().to_string();
        assert!(error.contains("record-keys.json is gone"), "{error}");
        assert_eq!(open(dir.path(), "r9", false).unwrap().key("demo", 1), None);
    }

    #[test]
    fn a_damaged_key_is_named_but_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"instances\":{\"demo\":{\"1\":\"c0ffee\"}}}";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let error = open(dir.path(), "r1", true).unwrap_err().to_string();
        assert!(
            error.contains("key 1 of instance demo") && !error.contains("c0ffee"),
            "{error}"
        );
    }

    #[test]
    fn a_key_that_can_not_be_kept_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = KeyFile::open(dir.path(), &"r1".into(), || Ok(false)).unwrap();
        file.cover(&demo()).unwrap();
        let in_the_way = dir.path().join(FILE).with_extension("new");
        std::fs::create_dir(&in_the_way).unwrap();
        file.cover(&with_acme()).unwrap_err();
        assert_eq!(file.keys().key("acme", 1), None);
        std::fs::remove_dir(&in_the_way).unwrap();
        file.cover(&with_acme()).unwrap();
        let made = file.keys().key("acme", 1);
        assert!(made.is_some());
        let again = KeyFile::open(dir.path(), &"r1".into(), || Ok(true)).unwrap();
        assert_eq!(again.keys().key("acme", 1), made);
    }

    #[tokio::test]
    async fn a_new_instance_is_known_to_the_region_when_its_key_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let file = KeyFile::open(dir.path(), &"r1".into(), || Ok(false)).unwrap();
        let keys = file.keys();
        let (send, snapshots) = watch::channel(Arc::new(demo()));
        let mut covered = follow(Box::new(file), snapshots).await.unwrap();
        assert_eq!(covered.borrow_and_update().revision, 1);
        assert!(keys.key("demo", 1).is_some());
        // It goes on when what was in the way is gone.
        let in_the_way = path.with_extension("new");
        std::fs::create_dir(&in_the_way).unwrap();
        send.send_replace(Arc::new(with_acme()));
        tokio::task::yield_now().await;
        std::fs::remove_dir(&in_the_way).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(30), covered.changed());
        waited.await.unwrap().unwrap();
        assert_eq!(covered.borrow().revision, 2);
        let key = keys.key("acme", 1).unwrap();
        let text = encode_bytes(&key);
        assert!(std::fs::read_to_string(&path).unwrap().contains(&text));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}
