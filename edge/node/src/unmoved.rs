//! Instances whose channels a new placement leaves in the shards where they were.

use std::collections::BTreeSet;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::Snapshot;

/// Two placements, one after the other.
pub(crate) struct Unmoved<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    /// Regions whose slots are in the same shards by both.
    regions: BTreeSet<&'a str>,
}

impl<'a> Unmoved<'a> {
    /// Compares two placements.
    pub(crate) fn between(before: &'a Snapshot, after: &'a Snapshot) -> Self {
        let regions = after.regions.iter().filter(|(name, now)| {
            let was = before.regions.get(*name);
            // Who owns a shard matters to its task; a shard without an owner is none.
            was.is_some_and(|was| {
                (was.shards, was.owners.len()) == (now.shards, now.owners.len())
                    && was.slots == now.slots
            })
        });
        Self {
            before,
            after,
            regions: regions.map(|(name, _)| name.as_str()).collect(),
        }
    }

    /// Whether every channel of an instance is in the same shard, under the same instance epoch, by both.
    pub(crate) fn has(&self, instance: &InstanceId) -> bool {
        let was = self.before.instances.get(instance);
        let now = self.after.instances.get(instance);
        match (was, now) {
            (Some(was), Some(now)) => {
                self.regions.contains(now.region.as_str())
                    && (&was.region, was.epoch, &was.slots) == (&now.region, now.epoch, &now.slots)
            }
            (was, now) => was.is_none() && now.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::{Instance, Region};
    use gb6_core_model::{InstanceEpoch, ShardId, Slot};

    fn snapshot() -> Snapshot {
        let region = || Region {
            shards: 2,
            slots: [(7, ShardId(1))].into(),
            owners: vec!["r1".into(), "r2".into()],
            ..Default::default()
        };
        let instance = |region: &str| Instance {
            region: region.to_owned(),
            epoch: InstanceEpoch(1),
            slots: vec![Slot(7), Slot(8)],
            ..Instance::default()
        };
        Snapshot {
            revision: 1,
            instances: [("a".into(), instance("r")), ("b".into(), instance("s"))].into(),
            regions: [("r".to_owned(), region()), ("s".to_owned(), region())].into(),
            nodes: Default::default(),
        }
    }

    /// Whether `a` and `b`, in regions of their own, are where they were behind a change.
    fn unmoved(change: impl FnOnce(&mut Snapshot)) -> (bool, bool) {
        let before = snapshot();
        let mut after = before.clone();
        change(&mut after);
        let unmoved = Unmoved::between(&before, &after);
        (unmoved.has(&"a".into()), unmoved.has(&"b".into()))
    }

    fn a(snapshot: &mut Snapshot) -> &mut Instance {
        snapshot.instances.get_mut("a").expect("it is there")
    }

    fn r(snapshot: &mut Snapshot) -> &mut Region {
        snapshot.regions.get_mut("r").expect("it is there")
    }

    #[test]
    fn what_says_where_channels_are_is_compared_and_nothing_else() {
        assert_eq!(unmoved(|s| s.revision = 2), (true, true));
        assert_eq!(unmoved(|s| a(s).subscriptions_max = 5), (true, true));
        // Another owner has the same shard.
        assert_eq!(unmoved(|s| r(s).owners[0] = "r3".into()), (true, true));
        let only_b = (false, true);
        assert_eq!(unmoved(|s| a(s).region = "s".to_owned()), only_b);
        assert_eq!(unmoved(|s| a(s).epoch = InstanceEpoch(2)), only_b);
        assert_eq!(unmoved(|s| a(s).slots.truncate(1)), only_b);
        assert_eq!(unmoved(|s| r(s).shards = 1), only_b);
        assert_eq!(unmoved(|s| r(s).owners.truncate(1)), only_b);
        assert_eq!(unmoved(|s| r(s).slots.clear()), only_b);
        assert_eq!(unmoved(|s| drop(s.regions.remove("r"))), only_b);
        assert_eq!(unmoved(|s| drop(s.instances.remove("a"))), only_b);
    }

    #[test]
    fn an_instance_that_neither_has_is_nowhere_still() {
        let snapshot = snapshot();
        assert!(Unmoved::between(&snapshot, &snapshot).has(&"c".into()));
    }
}
