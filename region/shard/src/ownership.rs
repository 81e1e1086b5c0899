//! Which instances write in this shard: seals end an instance's writes here and nobody else's,
//! opens begin them where they go on.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{ErrorCode, InstanceId, hash};
use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::{Kind, Record};

/// What of an instance is sealed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Sealed {
    #[default]
    Nothing,
    All,
    Slots(BTreeSet<u16>),
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
    /// sealed here or the edge routed by an older epoch: another owner has it, or soon will.
    pub(crate) fn check(
        &self,
        room: &RoomRef,
        routed_epoch: u64,
        snapshot: &Snapshot,
    ) -> Result<u64, ErrorCode> {
        let instance = InstanceId::from(room.instance.as_str());
        let placed = snapshot.instances.get(&instance);
        let standing = self.instances.get(&room.instance);
        let epoch = match (standing, placed) {
            (Some(standing), _) => standing.epoch,
            (None, Some(placed)) => placed.epoch.0,
            (None, None) => return Err(ErrorCode::OwnerMoving),
        };
        let sealed = match standing.map(|s| &s.sealed) {
            None | Some(Sealed::Nothing) => false,
            Some(Sealed::All) => true,
            Some(Sealed::Slots(slots)) => placed
                .and_then(|p| hash::slot_of(&instance, &room.channel, &p.slots))
                .is_none_or(|slot| slots.contains(&slot.0)),
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
            (Kind::Open, Sealed::Slots(old)) if !slots.is_empty() => {
                let left = &old - &slots;
                if left.is_empty() {
                    Sealed::Nothing
                } else {
                    Sealed::Slots(left)
                }
            }
            (Kind::Open, _) => Sealed::Nothing,
            (_, before) => before,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::Instance;
    use gb6_core_model::{InstanceEpoch, Slot};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.instances.insert(
            InstanceId::from("demo"),
            Instance {
                region: "eu".into(),
                epoch: InstanceEpoch(1),
                slots: vec![Slot(1), Slot(2)],
                keys: Vec::new(),
                namespaces: BTreeMap::new(),
                allowed_origins: Vec::new(),
                command_rate: None,
                subscriptions_max: 1,
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
        assert_eq!(o.check(&room("room:1"), 1, &s), Ok(1));
        o.fold(&record(Kind::Seal, 2, &[]));
        assert_eq!(o.check(&room("room:1"), 2, &s), Err(ErrorCode::OwnerMoving));
        o.fold(&record(Kind::Open, 3, &[]));
        assert_eq!(o.check(&room("room:1"), 3, &s), Ok(3));
        assert_eq!(o.check(&room("room:1"), 2, &s), Err(ErrorCode::OwnerMoving));
        o.fold(&record(Kind::Seal, 2, &[]));
        assert_eq!(
            o.check(&room("room:1"), 3, &s),
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
        assert!(o.check(&room(&one), 2, &s).is_err());
        assert_eq!(o.check(&room(&two), 2, &s), Ok(2));
        o.fold(&record(Kind::Open, 2, &[1]));
        assert_eq!(o.check(&room(&one), 2, &s), Ok(2));
    }
}
