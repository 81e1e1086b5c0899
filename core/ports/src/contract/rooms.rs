//! The contract of `RoomStore`: every call against the in-memory reference, and the promises that
//! need saying one by one.

use gb6_core_model::{Channel, ChannelKey, InstanceId, ShardId};

use super::Random;
use crate::error::StoreError;
use crate::memory::MemoryRooms;
use crate::rooms::{RoomEntry, RoomStore};

/// The room `channel` of instance `instance`.
pub fn room(instance: &str, channel: &str) -> ChannelKey {
    let channel = Channel::parse(channel).expect("a channel's name");
    ChannelKey::new(InstanceId::from(instance), channel)
}

/// Runs the suite on empty storage.
pub fn all(store: &dyn RoomStore) {
    neighbours_do_not_mix(store);
    applied_never_goes_back(store);
    for shard in 0..3 {
        store.clear(ShardId(shard)).expect("clear");
    }
    matches_the_reference(store, 7, 400);
}

fn neighbours_do_not_mix(store: &dyn RoomStore) {
    let shard = ShardId(1);
    // Names that are prefixes of each other, offsets that share bytes with names.
    let rooms = [
        room("a", "b"),
        room("ab", "b"),
        room("a", "b:"),
        room("a", "bb"),
        room("b", "b"),
    ];
    let entries: Vec<RoomEntry> = rooms
        .iter()
        .enumerate()
        .flat_map(|(n, room)| {
            [1, 2, 0x6200, u64::MAX].map(|offset| RoomEntry {
                room: room.clone(),
                offset,
                position: n as u64 * 10 + offset % 7,
            })
        })
        .collect();
    store.put(shard, &entries, 0, 50).expect("put");
    for (n, room) in rooms.iter().enumerate() {
        let all = store.forward(shard, room, 0, 100).expect("forward");
        let expected = [1, 2, 0x6200, u64::MAX].map(|o| (o, n as u64 * 10 + o % 7));
        assert_eq!(all, expected, "{room:?}");
        let back = store.reverse(shard, room, u64::MAX, 2).expect("reverse");
        assert_eq!(back, [expected[3], expected[2]]);
        assert_eq!(store.forward(ShardId(2), room, 0, 9).expect("forward"), []);
    }
    store
        .delete_below(shard, &rooms[0], 0x6200)
        .expect("delete");
    assert_eq!(
        store
            .forward(shard, &rooms[0], 0, 9)
            .expect("forward")
            .len(),
        2
    );
    assert_eq!(
        store
            .forward(shard, &rooms[1], 0, 9)
            .expect("forward")
            .len(),
        4
    );
}

fn applied_never_goes_back(store: &dyn RoomStore) {
    let (one, other) = (ShardId(1), ShardId(0));
    assert_eq!(store.applied(one).expect("applied"), 50);
    assert_eq!(store.applied(other).expect("applied"), 0);
    let entry = RoomEntry {
        room: room("a", "late"),
        offset: 1,
        position: 3,
    };
    // Back; on from where it is not; from where it was before it was lost.
    for (from, applied) in [(50, 49), (49, 60), (51, 60), (0, 60)] {
        let error = store
            .put(one, std::slice::from_ref(&entry), from, applied)
            .expect_err("it does not follow");
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    }
    assert_eq!(store.forward(one, &entry.room, 0, 9).expect("forward"), []);
    store
        .put(one, &[], 50, 50)
        .expect("the same position again");
    store.put(one, &[], 50, 60).expect("nothing to index");
    assert_eq!(store.applied(one).expect("applied"), 60);
    store.clear(one).expect("clear");
    assert_eq!(store.applied(one).expect("applied"), 0);
    assert_eq!(
        store.forward(one, &room("ab", "b"), 0, 9).expect("forward"),
        []
    );
    let lost = store.put(one, std::slice::from_ref(&entry), 60, 70);
    assert!(matches!(lost, Err(StoreError::Conflict { .. })), "{lost:?}");
    store.put(one, &[entry], 0, 4).expect("filled again");
}

/// Makes `steps` random calls that follow from `seed` and compares every answer.
pub fn matches_the_reference(store: &dyn RoomStore, seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    let reference = MemoryRooms::new();
    let rooms: Vec<ChannelKey> = (0..5).map(|n| room("demo", &format!("room:{n}"))).collect();
    let mut applied = [0, 0, 0];
    for step in 0..steps {
        let shard = random.below(3) as usize;
        let id = ShardId(shard as u32);
        let room = &rooms[random.below(5) as usize];
        let (from, limit) = (random.below(60), random.below(20) as usize);
        match random.below(10) {
            0 => {
                store.delete_below(id, room, from).expect("delete");
                reference.delete_below(id, room, from).expect("delete");
            }
            1 if random.below(10) == 0 => {
                store.clear(id).expect("clear");
                reference.clear(id).expect("clear");
                applied[shard] = 0;
            }
            2..=4 => {
                let count = random.below(12);
                let entries: Vec<RoomEntry> = (0..count)
                    .map(|n| RoomEntry {
                        room: rooms[random.below(5) as usize].clone(),
                        offset: random.below(60),
                        position: applied[shard] + n,
                    })
                    .collect();
                let from = applied[shard];
                applied[shard] += count;
                let to = applied[shard];
                store.put(id, &entries, from, to).expect("put");
                reference.put(id, &entries, from, to).expect("put");
            }
            _ => {}
        }
        let context = format!("seed {seed}, step {step}");
        let (a, b) = (
            store.forward(id, room, from, limit).expect("forward"),
            reference.forward(id, room, from, limit).expect("forward"),
        );
        assert_eq!(a, b, "{context}");
        let (a, b) = (
            store.reverse(id, room, from, limit).expect("reverse"),
            reference.reverse(id, room, from, limit).expect("reverse"),
        );
        assert_eq!(a, b, "{context}");
        assert_eq!(
            store.applied(id).expect("applied"),
            applied[shard],
            "{context}"
        );
    }
}
