//! `RoomStore` on fjall: the contract, reopening, and beginning again when it is damaged.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use gb6_core_model::ShardId;
use gb6_core_ports::contract::rooms::{all, room};
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use gb6_region_stores_embedded::{FjallRooms, RoomsConfig};

fn blocks(path: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += blocks(&entry.path());
        }
    }
    bytes
}

fn fill(store: &FjallRooms, count: u64) {
    let entries: Vec<RoomEntry> = (1..=count)
        .map(|n| RoomEntry {
            room: room("demo", "room:a"),
            offset: n,
            position: n * 2,
        })
        .collect();
    let from = store.applied(ShardId(0)).unwrap();
    store
        .put(ShardId(0), &entries, from, count * 2 + 1)
        .unwrap();
}

#[test]
fn the_index_keeps_its_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = FjallRooms::open(&dir.path().join("rooms"), RoomsConfig::default()).unwrap();
    all(&store);
    assert_eq!(store.resets(), 0);
}

#[test]
fn a_fresh_index_is_small_and_a_reopened_one_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rooms");
    let store = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    let used = blocks(&path);
    assert!(used <= 8 * 1024 * 1024, "{used} bytes of blocks");
    fill(&store, 5000);
    drop(store);
    let store = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    assert_eq!(store.resets(), 0);
    assert_eq!(store.applied(ShardId(0)).unwrap(), 10_001);
    let found = store.forward(ShardId(0), &room("demo", "room:a"), 4999, 9);
    assert_eq!(found.unwrap(), [(4999, 9998), (5000, 10_000)]);
}

#[test]
fn a_damaged_index_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rooms");
    let store = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    fill(&store, 100);
    drop(store);
    // Every file becomes garbage of its own length.
    let mut stack = vec![path.clone()];
    while let Some(path) = stack.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else {
                let len = fs::metadata(&path).unwrap().len().min(4096);
                fs::write(&path, vec![0xa5; len as usize]).unwrap();
            }
        }
    }
    let store = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    assert_eq!(store.resets(), 1);
    assert_eq!(store.applied(ShardId(0)).unwrap(), 0);
    fill(&store, 10);
    assert_eq!(store.applied(ShardId(0)).unwrap(), 21);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "what was put aside is removed: {left:?}");
}

#[test]
fn an_index_that_does_not_open_in_time_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rooms");
    // An index that is open elsewhere can not be opened: the same path as one that hangs.
    let first = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    fill(&first, 10);
    let config = RoomsConfig {
        open_timeout: Duration::from_secs(5),
        ..RoomsConfig::default()
    };
    let second = FjallRooms::open(&path, config).unwrap();
    assert_eq!(second.resets(), 1);
    assert_eq!(second.applied(ShardId(0)).unwrap(), 0);
}

#[test]
fn an_index_whose_files_are_removed_is_begun_again_while_it_is_open() {
    for partly in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rooms");
        let config = RoomsConfig {
            look_every: Duration::ZERO,
            ..RoomsConfig::default()
        };
        let store = FjallRooms::open(&path, config).unwrap();
        for round in 1..4 {
            fill(&store, 100 * round);
            match partly {
                false => fs::remove_dir_all(&path).unwrap(),
                true => {
                    for entry in fs::read_dir(&path).unwrap() {
                        let entry = entry.unwrap().path();
                        match entry.is_dir() {
                            true => fs::remove_dir_all(entry).unwrap(),
                            false => fs::remove_file(entry).unwrap(),
                        }
                    }
                }
            }
            let from = 200 * round + 1;
            let lost = store.put(ShardId(0), &[], from, from + 1);
            let conflict = matches!(lost, Err(StoreError::Conflict { .. }));
            assert!(conflict, "what is missing is not hidden: {lost:?}");
            assert_eq!(store.applied(ShardId(0)).unwrap(), 0);
            let found = store.forward(ShardId(0), &room("demo", "room:a"), 1, 9);
            assert_eq!(found.unwrap(), []);
            assert_eq!(store.resets(), round);
        }
        fill(&store, 30);
        drop(store);
        // What is there is a whole index.
        let store = FjallRooms::open(&path, config).unwrap();
        assert_eq!(store.resets(), 0);
        assert_eq!(store.applied(ShardId(0)).unwrap(), 61);
    }
}

/// Two followers of one log, as while the one before has not ended yet.
#[test]
fn of_two_that_fill_a_shard_none_leaves_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rooms");
    let store = FjallRooms::open(&path, RoomsConfig::default()).unwrap();
    // Often: each time only some of their writes meet.
    for shard in (0..24).map(ShardId) {
        fill_by_two(&store, shard);
    }
}

fn fill_by_two(store: &FjallRooms, shard: ShardId) {
    let end = 2000;
    let both = &Barrier::new(2);
    let follow = &|step: u64| {
        both.wait();
        loop {
            let from = store.applied(shard).unwrap();
            if from >= end {
                return;
            }
            let entries: Vec<RoomEntry> = (from..from + step)
                .map(|n| RoomEntry {
                    room: room("demo", "room:a"),
                    offset: n,
                    position: n,
                })
                .collect();
            match store.put(shard, &entries, from, from + step) {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        for step in [3, 11] {
            scope.spawn(move || follow(step));
        }
    });
    let applied = store.applied(shard).unwrap();
    let found = store.forward(shard, &room("demo", "room:a"), 0, usize::MAX);
    let found = found.unwrap();
    let expected: Vec<(u64, u64)> = (0..applied).map(|n| (n, n)).collect();
    assert_eq!(found, expected);
}
