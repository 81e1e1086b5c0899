//! Whether a snapshot can be worked by. Whoever made it has checked far more; this is the last look
//! of a node before it lets one in, so that a damaged or foreign one never replaces a good one.

use crate::ids::{InstanceId, NodeId, Role, SLOT_COUNT};
use crate::snapshot::{Instance, Region, Snapshot};

/// Why a snapshot can not be worked by.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It has no revision.
    #[error("the snapshot has revision 0: revisions begin at 1")]
    NoRevision,
    /// A name is outside its grammar.
    #[error("`{0}` is no name of {1}: use a-z, 0-9 and -, a letter first, at most 63")]
    Name(String, &'static str),
    /// An instance can not be placed.
    #[error("instance {instance}: {why}")]
    Instance {
        /// The instance.
        instance: InstanceId,
        /// What is wrong.
        why: String,
    },
    /// A region can not own its shards.
    #[error("region {region}: {why}")]
    Region {
        /// The region.
        region: String,
        /// What is wrong.
        why: String,
    },
}

impl Snapshot {
    /// Checks that every room of every instance has a shard and every shard an owner.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SnapshotError> {
        if self.revision == 0 {
            return Err(SnapshotError::NoRevision);
        }
        let unfit = |name: &str, what| Err(SnapshotError::Name(name.to_owned(), what));
        if let Some(id) = self.nodes.keys().find(|n| !NodeId::is_valid(n.as_str())) {
            return unfit(id.as_str(), "a node");
        }
        let mut instances = self.instances.keys();
        if let Some(id) = instances.find(|i| !InstanceId::is_valid(i.as_str())) {
            return unfit(id.as_str(), "an instance");
        }
        for (name, region) in &self.regions {
            self.check_region(name, region)
                .map_err(|why| SnapshotError::Region {
                    region: name.clone(),
                    why,
                })?;
        }
        for (id, instance) in &self.instances {
            self.check_instance(instance)
                .map_err(|why| SnapshotError::Instance {
                    instance: id.clone(),
                    why,
                })?;
        }
        Ok(())
    }

    fn check_region(&self, name: &str, region: &Region) -> Result<(), String> {
        if region.shards == 0 {
            return Err("it has no shards".into());
        }
        if region.owners.len() != region.shards as usize {
            let (owners, shards) = (region.owners.len(), region.shards);
            return Err(format!("{shards} shards, but {owners} owners"));
        }
        for owner in &region.owners {
            match self.nodes.get(owner) {
                None => return Err(format!("owner {owner} is no node of the snapshot")),
                Some(node) if !node.roles.contains(&Role::Region) => {
                    return Err(format!("owner {owner} has not the role region"));
                }
                Some(node) if node.region.as_deref() != Some(name) => {
                    return Err(format!("owner {owner} belongs to another region"));
                }
                Some(_) => {}
            }
        }
        let misplaced = |(slot, shard): &(&u16, &crate::ids::ShardId)| {
            **slot >= SLOT_COUNT || shard.0 >= region.shards
        };
        match region.slots.iter().find(misplaced) {
            Some((slot, shard)) => Err(format!("slot {slot} is placed on shard {shard}")),
            None => Ok(()),
        }
    }

    fn check_instance(&self, instance: &Instance) -> Result<(), String> {
        if !self.regions.contains_key(&instance.region) {
            let region = &instance.region;
            return Err(format!("its region {region} is not in the snapshot"));
        }
        if instance.slots.is_empty() {
            return Err("it has no slots".into());
        }
        match instance.slots.iter().find(|s| s.0 >= SLOT_COUNT) {
            Some(slot) => Err(format!("slot {slot} is out of range")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::{InstanceEpoch, ShardId, Slot};
    use crate::snapshot::Node;

    fn good() -> Snapshot {
        let node = Node {
            roles: vec![Role::Region],
            mesh: None,
            region: Some("eu".into()),
        };
        let region = Region {
            shards: 2,
            slots: BTreeMap::new(),
            owners: vec![NodeId::from("r1"); 2],
            ..Default::default()
        };
        let instance = Instance {
            region: "eu".into(),
            epoch: InstanceEpoch(1),
            slots: vec![Slot(5)],
            subscriptions_max: 1,
            ..Instance::default()
        };
        Snapshot {
            revision: 1,
            instances: BTreeMap::from([(InstanceId::from("demo"), instance)]),
            regions: BTreeMap::from([("eu".into(), region)]),
            nodes: BTreeMap::from([(NodeId::from("r1"), node)]),
        }
    }

    fn demo(snapshot: &mut Snapshot) -> &mut Instance {
        snapshot.instances.get_mut("demo").unwrap()
    }

    fn eu(snapshot: &mut Snapshot) -> &mut Region {
        snapshot.regions.get_mut("eu").unwrap()
    }

    #[test]
    fn each_hole_is_seen() {
        type Break = fn(&mut Snapshot);
        assert_eq!(good().check(), Ok(()));
        let cases: [(Break, &str); 12] = [
            (|s| s.revision = 0, "revision 0"),
            (|s| demo(s).region = "us".into(), "region us is not"),
            (|s| demo(s).slots.clear(), "no slots"),
            (|s| demo(s).slots.push(Slot(SLOT_COUNT)), "slot 16384"),
            (|s| eu(s).shards = 0, "no shards"),
            (|s| eu(s).shards = 3, "3 shards, but 2 owners"),
            (|s| eu(s).owners[1] = "r9".into(), "owner r9 is no node"),
            (
                |s| s.nodes.get_mut("r1").unwrap().roles = vec![Role::Edge],
                "not the role region",
            ),
            (
                |s| s.nodes.get_mut("r1").unwrap().region = None,
                "another region",
            ),
            (
                |s| eu(s).slots.extend([(5, ShardId(2))]),
                "slot 5 is placed on shard 2",
            ),
            (
                |s| {
                    let node = s.nodes["r1"].clone();
                    s.nodes.insert("../r1".into(), node);
                },
                "no name of a node",
            ),
            (
                |s| {
                    let instance = s.instances["demo"].clone();
                    s.instances.insert("Demo".into(), instance);
                },
                "no name of an instance",
            ),
        ];
        for (break_it, want) in cases {
            let mut snapshot = good();
            break_it(&mut snapshot);
            let error = snapshot.check().expect_err(want).to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
