//! How entries of a room index lie together in the engines of `RoomStore`: a run holds the positions
//! of consecutive offsets of one room, so that a busy room costs one write for many records.
//!
//! Runs of a room may overlap, after an instance has moved away and come back: for an offset that
//! several of them have, the highest position is the newest.

use std::collections::BTreeMap;

use gb6_core_model::{ChannelKey, Offset, Position};
use prost::encoding::{decode_varint, encode_varint};

use crate::rooms::RoomEntry;

/// Offsets in one run at most. A reader looks so far back for the run that holds an offset.
pub const RUN_MAX: u64 = 64;

/// Positions by offset.
pub type Positions = BTreeMap<Offset, Position>;

/// The entries by room.
pub fn by_room(entries: &[RoomEntry]) -> BTreeMap<&ChannelKey, Positions> {
    let mut rooms: BTreeMap<&ChannelKey, Positions> = BTreeMap::new();
    for entry in entries {
        add(
            rooms.entry(&entry.room).or_default(),
            entry.offset,
            entry.position,
        );
    }
    rooms
}

/// Adds an entry unless a newer one is there.
pub fn add(positions: &mut Positions, offset: Offset, position: Position) {
    let newest = positions.entry(offset).or_insert(position);
    *newest = position.max(*newest);
}

/// The runs that hold `positions`: each with its first offset and the positions from there on.
pub fn cut(positions: &Positions) -> Vec<(Offset, Vec<Position>)> {
    let mut runs: Vec<(Offset, Vec<Position>)> = Vec::new();
    for (offset, position) in positions {
        match runs.last_mut() {
            Some((first, run))
                if (run.len() as u64) < RUN_MAX
                    && first.checked_add(run.len() as u64) == Some(*offset) =>
            {
                run.push(*position);
            }
            _ => runs.push((*offset, vec![*position])),
        }
    }
    runs
}

/// A run as it is stored: each position as its distance from the one before (the first from 0),
/// zigzag, as a varint.
pub fn encode(run: &[Position]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(run.len() * 2 + 8);
    let mut before = 0_u64;
    for position in run {
        let distance = position.wrapping_sub(before) as i64;
        encode_varint(((distance << 1) ^ (distance >> 63)) as u64, &mut bytes);
        before = *position;
    }
    bytes
}

/// Adds the entries of a stored run that begins at `first`; `None` where it is damaged.
pub fn decode(first: Offset, mut bytes: &[u8], into: &mut Positions) -> Option<()> {
    let (mut offset, mut before) = (Some(first), 0_u64);
    while !bytes.is_empty() {
        let zigzag = decode_varint(&mut bytes).ok()?;
        let distance = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        before = before.wrapping_add(distance);
        add(into, offset?, before);
        offset = offset?.checked_add(1);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_busy_room_takes_a_few_bytes_for_each_record() {
        let run: Vec<u64> = (0..RUN_MAX).map(|n| 5_000_000 + n * 16).collect();
        assert!(encode(&run).len() < 72, "{}", encode(&run).len());
    }

    #[test]
    fn a_damaged_run_is_noticed() {
        let mut positions = Positions::new();
        assert_eq!(decode(1, &[0x80], &mut positions), None);
        // More offsets than there are.
        assert_eq!(decode(u64::MAX, &[2, 2], &mut positions), None);
    }

    proptest! {
        #[test]
        fn what_is_cut_and_stored_comes_back(
            entries in proptest::collection::btree_map(
                prop_oneof![0..200_u64, Just(u64::MAX), any::<u64>()], any::<u64>(), 0..200),
        ) {
            let mut back = Positions::new();
            for (first, run) in cut(&entries) {
                prop_assert!(run.len() as u64 <= RUN_MAX);
                prop_assert_eq!(decode(first, &encode(&run), &mut back), Some(()));
            }
            prop_assert_eq!(back, entries);
        }
    }
}
