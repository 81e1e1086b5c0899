//! What a person may change of an assignment: where a shard is to be.

use gb6_core_model::NodeId;

use crate::records::ShardRecord;

/// Why a shard can not be moved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// Nobody owns it, so that nobody could hand it over.
    #[error(
        "nobody owns the shard now: a node of the region takes it within seconds; look with `gb6 ctl shard list` and move it then"
    )]
    Unowned,
    /// It is there already, and stays there.
    #[error("the shard is at {0} and pinned there already")]
    There(NodeId),
    /// It is pinned nowhere and on its way nowhere.
    #[error("the shard is not pinned: balancing may move it already")]
    NotPinned,
}

/// The record of a shard that is to be at `to` and to stay there.
///
/// # Errors
/// Nobody owns it, or it is there and pinned.
pub fn moved(record: &ShardRecord, to: &NodeId) -> Result<ShardRecord, CommandError> {
    let Some(owner) = &record.node else {
        return Err(CommandError::Unowned);
    };
    let mut moved = record.clone();
    moved.pinned = Some(to.clone());
    moved.wanted = (owner != to).then(|| to.clone());
    if moved == *record && owner == to {
        return Err(CommandError::There(to.clone()));
    }
    Ok(moved)
}

/// The record of a shard that may be anywhere again.
///
/// # Errors
/// It may already.
pub fn released(record: &ShardRecord) -> Result<ShardRecord, CommandError> {
    if record.pinned.is_none() {
        return Err(CommandError::NotPinned);
    }
    Ok(ShardRecord {
        pinned: None,
        wanted: None,
        ..record.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_pins_and_a_release_unpins() {
        let record = ShardRecord {
            node: Some("r1".into()),
            incarnation: 1,
            epoch: 4,
            ..ShardRecord::unowned()
        };
        let there = moved(&record, &"r2".into()).unwrap();
        assert_eq!((there.epoch, &there.node), (4, &Some("r1".into())));
        assert_eq!(
            (&there.pinned, &there.wanted),
            (&Some("r2".into()), &Some("r2".into()))
        );
        assert_eq!(
            moved(&there, &"r2".into()),
            Ok(there.clone()),
            "it is asked for again"
        );
        let stays = moved(&there, &"r1".into()).unwrap();
        assert_eq!((&stays.pinned, &stays.wanted), (&Some("r1".into()), &None));
        assert_eq!(
            moved(&stays, &"r1".into()),
            Err(CommandError::There("r1".into()))
        );
        assert_eq!(released(&stays), Ok(record.clone()));
        assert_eq!(released(&record), Err(CommandError::NotPinned));
        assert_eq!(
            moved(&ShardRecord::unowned(), &"r1".into()),
            Err(CommandError::Unowned)
        );
    }
}
