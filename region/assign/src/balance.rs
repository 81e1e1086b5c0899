//! Which node should have what: standbys, and the next shard to move so that all have alike.

use std::collections::BTreeMap;

use gb6_core_model::NodeId;

use crate::view::View;

/// Shards by the node that has them, or is to have them, and by the node that follows them.
pub(crate) struct Loads {
    owned: BTreeMap<NodeId, u32>,
    followed: BTreeMap<NodeId, u32>,
}

impl Loads {
    /// As the records say, for these nodes.
    pub(crate) fn of(view: &View, takers: &[NodeId]) -> Self {
        let none = || takers.iter().map(|name| (name.clone(), 0)).collect();
        let mut loads = Self {
            owned: none(),
            followed: none(),
        };
        for seen in view.shards.values() {
            let record = &seen.record;
            let owner = record.wanted.as_ref().or(record.node.as_ref());
            if let Some(count) = owner.and_then(|name| loads.owned.get_mut(name)) {
                *count += 1;
            }
            let standby = record.standby.as_ref();
            if let Some(count) = standby.and_then(|name| loads.followed.get_mut(name)) {
                *count += 1;
            }
        }
        loads
    }

    /// The node that has the fewest of them, the first by name; `but` is none of them.
    pub(crate) fn least(&self, but: &NodeId) -> Option<NodeId> {
        let others = self.owned.iter().filter(|(name, _)| *name != but);
        let least = others.min_by_key(|(name, count)| (**count, (*name).clone()));
        least.map(|(name, _)| name.clone())
    }

    /// The node that should follow a shard of `owner`: with the least to do.
    pub(crate) fn standby_for(&self, owner: &NodeId) -> Option<NodeId> {
        let others = self.owned.iter().filter(|(name, _)| *name != owner);
        let busy = |name: &NodeId, owned: u32| {
            let followed = self.followed.get(name).copied().unwrap_or(0);
            (followed, owned, name.clone())
        };
        let least = others.min_by_key(|(name, owned)| busy(name, **owned));
        least.map(|(name, _)| name.clone())
    }

    /// Whether nobody has fewer.
    pub(crate) fn is_least(&self, name: &NodeId, but: &NodeId) -> bool {
        let least = self
            .least(but)
            .and_then(|least| self.owned.get(&least).copied());
        self.owned.get(name).copied() <= least
    }

    /// Counts a shard that goes from one to another.
    pub(crate) fn moves(&mut self, from: &NodeId, to: &NodeId) {
        if let Some(count) = self.owned.get_mut(from) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.owned.get_mut(to) {
            *count += 1;
        }
    }

    /// Counts a shard that is followed by another from now on.
    pub(crate) fn follows(&mut self, name: &NodeId) {
        if let Some(count) = self.followed.get_mut(name) {
            *count += 1;
        }
    }

    /// To whom `me` is to give one of its shards: only the node that has the most gives, to the one
    /// that has the fewest, and only where they differ by more than one.
    pub(crate) fn gives(&self, me: &NodeId) -> Option<NodeId> {
        let most = self
            .owned
            .iter()
            .max_by_key(|(name, count)| (**count, std::cmp::Reverse((*name).clone())))?;
        let least = self.least(me)?;
        let differs = most.1.saturating_sub(*self.owned.get(&least)?);
        (most.0 == me && differs >= 2).then_some(least)
    }
}

/// The place of a node among those that claim a shard, for the one that nobody is the first for.
pub(crate) fn rank(shard: u32, takers: &[NodeId], me: &NodeId) -> u64 {
    let Some(at) = takers.iter().position(|name| name == me) else {
        return takers.len() as u64;
    };
    let count = takers.len();
    ((at + count - shard as usize % count) % count) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ShardRecord;

    fn view(owners: &[&str]) -> View {
        let mut view = View::default();
        for (shard, owner) in (0u32..).zip(owners) {
            let record = ShardRecord {
                node: Some(NodeId::from(*owner)),
                incarnation: 1,
                epoch: 1,
                ..ShardRecord::unowned()
            };
            view.shard(shard, Some(record), 1);
        }
        view
    }

    fn names(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| NodeId::from(*name)).collect()
    }

    #[test]
    fn only_the_fullest_gives_and_only_where_it_helps() {
        let gives = |owners: &[&str], me: &str| {
            let loads = Loads::of(&view(owners), &names(&["a", "b", "c"]));
            loads.gives(&NodeId::from(me))
        };
        assert_eq!(
            gives(&["a", "a", "b", "c"], "a"),
            None,
            "they differ by one"
        );
        assert_eq!(gives(&["a", "a", "b"], "a"), Some("c".into()));
        assert_eq!(gives(&["a", "a", "b"], "b"), None);
        assert_eq!(gives(&["a", "a", "b", "b"], "a"), Some("c".into()));
        assert_eq!(gives(&["a", "a", "b", "b"], "b"), None, "one of two");
        assert_eq!(gives(&["d", "d", "d", "d"], "d"), None, "it is not heard");
    }

    #[test]
    fn every_shard_has_another_first_claimant() {
        let all = names(&["a", "b", "c"]);
        let first = |shard| all.iter().find(|n| rank(shard, &all, n) == 0).cloned();
        assert_eq!(first(0), Some("a".into()));
        assert_eq!(first(1), Some("b".into()));
        assert_eq!(first(5), Some("c".into()));
        let ranks: Vec<u64> = all.iter().map(|n| rank(1, &all, n)).collect();
        assert_eq!(ranks, [2, 0, 1]);
        assert_eq!(rank(1, &all, &"d".into()), 3);
    }
}
