//! Which instances write in this shard: seals end an instance's writes here and nobody else's,
//! opens begin them where they go on.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::snapshot::{Instance, Snapshot};
use gb6_core_model::{ErrorCode, InstanceId, hash};
use gb6_core_wire::mesh::{RoomRef, ShardRef};
use gb6_core_wire::record::{Kind, Record};

/// What of an instance is sealed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sealed {
    #[default]
    Nothing,
    All,
    Slots(BTreeSet<u16>),
    AllBut(BTreeSet<u16>),
}

/// An instance's standing in this shard, once a seal or open has named it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) epoch: u64,
    pub(crate) sealed: Sealed,
}

/// Every instance that a seal or open has named.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    pub(crate) instances: BTreeMap<String, Standing>,
}

impl Ownership {
    /// The instance epoch under which `room` may be written now. Error 1002 when its slot is
    /// sealed here, the edge routed by an older epoch, or, where `here` is given and no record has
    /// placed the instance here, the snapshot places the room in another shard: another owner has
    /// it, or soon will.
    pub(crate) fn check(
        &self,
        room: &RoomRef,
        routed_epoch: u64,
        snapshot: &Snapshot,
        here: Option<&ShardRef>,
    ) -> Result<u64, ErrorCode> {
        let instance = InstanceId::from(room.instance.as_str());
        let placed = snapshot.instances.get(&instance);
        let standing = self.instances.get(&room.instance);
        let epoch = match (standing, placed) {
            (Some(standing), _) => standing.epoch,
            (None, Some(placed)) => {
                let ours = |here: &ShardRef| {
                    let route = snapshot.route(&instance, &room.channel);
                    route.is_some_and(|r| r.region == here.region && r.shard.0 == here.shard)
                };
                if !here.is_none_or(ours) {
                    return Err(ErrorCode::OwnerMoving);
                }
                placed.epoch.0
            }
            (None, None) => return Err(ErrorCode::OwnerMoving),
        };
        let sealed = match standing.map(|s| &s.sealed) {
            None | Some(Sealed::Nothing) => false,
            Some(Sealed::All) => true,
            Some(Sealed::Slots(slots)) => {
                slot(&instance, room, placed).is_none_or(|s| slots.contains(&s))
            }
            Some(Sealed::AllBut(open)) => {
                slot(&instance, room, placed).is_none_or(|s| !open.contains(&s))
            }
        };
        if sealed || routed_epoch < epoch {
            return Err(ErrorCode::OwnerMoving);
        }
        Ok(epoch)
    }

    /// Folds a seal or open.
    pub(crate) fn fold(&mut self, record: &Record) {
        let standing = self.instances.entry(record.instance.clone()).or_default();
        if record.instance_epoch < standing.epoch {
            return;
        }
        standing.epoch = record.instance_epoch;
        let slots: BTreeSet<u16> = record.slots.iter().map(|s| *s as u16).collect();
        let before = std::mem::take(&mut standing.sealed);
        standing.sealed = match (record.kind(), before) {
            (Kind::Seal, _) if slots.is_empty() => Sealed::All,
            (Kind::Seal, Sealed::All) => Sealed::All,
            (Kind::Seal, Sealed::Nothing) => Sealed::Slots(slots),
            (Kind::Seal, Sealed::Slots(old)) => Sealed::Slots(&old | &slots),
            (Kind::Seal, Sealed::AllBut(open)) => Sealed::AllBut(&open - &slots),
            (Kind::Open, _) if slots.is_empty() => Sealed::Nothing,
            (Kind::Open, Sealed::All) => Sealed::AllBut(slots),
            (Kind::Open, Sealed::AllBut(open)) => Sealed::AllBut(&open | &slots),
            (Kind::Open, Sealed::Slots(old)) => Sealed::Slots(&old - &slots),
            (Kind::Open, Sealed::Nothing) => Sealed::Nothing,
            (_, before) => before,
        };
    }
}

fn slot(instance: &InstanceId, room: &RoomRef, placed: Option<&Instance>) -> Option<u16> {
    let slots = &placed?.slots;
    hash::slot_of(instance, &room.channel, slots).map(|slot| slot.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::{InstanceEpoch, Slot};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.instances.insert(
            InstanceId::from("demo"),
            Instance {
                region: "eu".into(),
                epoch: InstanceEpoch(1),
                slots: vec![Slot(1), Slot(2)],
                subscriptions_max: 1,
                ..Instance::default()
            },
        );
        snapshot
    }

    fn room(channel: &str) -> RoomRef {
        RoomRef {
            instance: "demo".into(),
            channel: channel.into(),
        }
    }

    fn record(kind: Kind, epoch: u64, slots: &[u32]) -> Record {
        Record {
            kind: kind.into(),
            instance: "demo".into(),
            instance_epoch: epoch,
            slots: slots.to_vec(),
            ..Record::default()
        }
    }

    #[test]
    fn seal_ends_and_open_begins() {
        let (s, mut o) = (snapshot(), Ownership::default());
        assert_eq!(o.check(&room("room:1"), 1, &s, None), Ok(1));
        o.fold(&record(Kind::Seal, 2, &[]));
        assert_eq!(
            o.check(&room("room:1"), 2, &s, None),
            Err(ErrorCode::OwnerMoving)
        );
        o.fold(&record(Kind::Open, 3, &[]));
        assert_eq!(o.check(&room("room:1"), 3, &s, None), Ok(3));
        assert_eq!(
            o.check(&room("room:1"), 2, &s, None),
            Err(ErrorCode::OwnerMoving)
        );
        o.fold(&record(Kind::Seal, 2, &[]));
        assert_eq!(
            o.check(&room("room:1"), 3, &s, None),
            Ok(3),
            "an old seal is void"
        );
    }

    #[test]
    fn some_slots_can_be_sealed_alone() {
        let (s, mut o) = (snapshot(), Ownership::default());
        let slots = &s.instances[&InstanceId::from("demo")].slots;
        let in_slot = |n: u16| {
            (0..)
                .map(|i| format!("room:{i}"))
                .find(|c| hash::slot_of(&InstanceId::from("demo"), c, slots) == Some(Slot(n)))
                .unwrap()
        };
        let (one, two) = (in_slot(1), in_slot(2));
        o.fold(&record(Kind::Seal, 2, &[1]));
        assert!(o.check(&room(&one), 2, &s, None).is_err());
        assert_eq!(o.check(&room(&two), 2, &s, None), Ok(2));
        o.fold(&record(Kind::Open, 2, &[1]));
        assert_eq!(o.check(&room(&one), 2, &s, None), Ok(2));
        o.fold(&record(Kind::Seal, 3, &[]));
        o.fold(&record(Kind::Open, 3, &[1]));
        assert_eq!(o.check(&room(&one), 3, &s, None), Ok(3));
        assert!(
            o.check(&room(&two), 3, &s, None).is_err(),
            "the rest stays sealed"
        );
    }
}
