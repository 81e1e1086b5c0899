//! The keys that records are encrypted with: one for each instance, made when a region first
//! serves it. Destroying an instance's key makes its messages unreadable wherever they lie.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_wire::record::KeyRing;
use gb6_region_node::RecordKeys;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::files::{read_json, replace_json};

/// The file in a region's data directory, mode 0600.
const FILE: &str = "record-keys.json";

/// What stands in the file: instance → key id → key, 64 hexadecimal digits. The highest id of an
/// instance seals what is written; older ones still open what they sealed.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    instances: BTreeMap<String, BTreeMap<u32, String>>,
}

/// The keys for every instance that `node` owns shards of, those that are missing made now.
///
/// # Errors
/// The file can not be read or written, is damaged, or is gone although there are logs.
pub(super) fn load_or_create(
    data_dir: &Path,
    snapshot: &Snapshot,
    node: &NodeId,
    has_logs: bool,
) -> anyhow::Result<RecordKeys> {
    let path = data_dir.join(FILE);
    let found: Option<Ring> = read_json(&path)?;
    if found.is_none() && has_logs {
        bail!(
            "{} is gone, and without it the messages in {} can not be read: restore it, or move \
             the directory away to start anew",
            path.display(),
            data_dir.display()
        );
    }
    let mut ring = found.clone().unwrap_or_default();
    for id in served(snapshot, node) {
        if !ring.instances.contains_key(id.as_str()) {
            let key = BTreeMap::from([(1, random_key()?)]);
            ring.instances.insert(id.to_string(), key);
        }
    }
    if found.as_ref() != Some(&ring) {
        replace_json(&path, &ring)?;
    }
    let mut keys = RecordKeys::default();
    for (instance, by_id) in &ring.instances {
        for (id, text) in by_id {
            let key = decode(text).with_context(|| {
                format!(
                    "{}: key {id} of instance {instance} is damaged",
                    path.display()
                )
            })?;
            keys.add(instance, *id, key);
        }
    }
    Ok(keys)
}

/// Says, until the node ends, which instances came to `node` after its keys were made: their
/// messages are written in the clear until it starts again.
pub(super) async fn warn_of_instances_without(
    keys: RecordKeys,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    node: NodeId,
) {
    let mut named = BTreeSet::new();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        for id in served(&snapshot, &node) {
            if keys.key(id.as_str(), 1).is_none() && named.insert(id.clone()) {
                tracing::warn!(
                    instance = %id,
                    "messages of this instance are not encrypted on disk: restart this region to \
                     make its key"
                );
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// The instances that `node` owns shards of.
fn served<'a>(
    snapshot: &'a Snapshot,
    node: &'a NodeId,
) -> impl Iterator<Item = &'a InstanceId> + 'a {
    snapshot.instances.iter().filter_map(move |(id, instance)| {
        let region = snapshot.regions.get(&instance.region)?;
        region.owners.contains(node).then_some(id)
    })
}

fn random_key() -> anyhow::Result<String> {
    let mut key = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(key.iter().map(|b| format!("{b:02x}")).collect())
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (n, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(n * 2..n * 2 + 2)?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_geo_config_plan::{DemoMesh, demo_snapshot};

    fn demo() -> Snapshot {
        demo_snapshot(&DemoMesh {
            revision: 1,
            key_id: "demo.k",
            secret: &"s".repeat(32),
            region_node: &"r1".into(),
            edge_node: &"e1".into(),
        })
    }

    #[test]
    fn made_once_for_what_the_node_serves() {
        let dir = tempfile::tempdir().unwrap();
        let load =
            |node: &str, has_logs| load_or_create(dir.path(), &demo(), &node.into(), has_logs);
        let made = load("r1", false).unwrap().key("demo", 1).unwrap();
        assert_eq!(load("r1", true).unwrap().key("demo", 1), Some(made));
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let error = load("r1", true).unwrap_err().to_string();
        assert!(error.contains("record-keys.json is gone"), "{error}");
        assert_eq!(load("r9", false).unwrap().key("demo", 1), None);
    }

    #[test]
    fn a_damaged_key_is_named_but_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"instances\":{\"demo\":{\"1\":\"c0ffee\"}}}";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let error = load_or_create(dir.path(), &demo(), &"r1".into(), true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("key 1 of instance demo") && !error.contains("c0ffee"),
            "{error}"
        );
    }
}
