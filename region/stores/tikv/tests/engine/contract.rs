//! The contract of the port, and what only this engine promises of its reads and writes.

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::rooms::{all, matches_the_reference, room};
use gb6_core_ports::memory::MemoryRooms;
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use gb6_region_stores_tikv::{TikvRooms, check};
use gb6_tests_harness::engines::{Engine, Kind};
use tokio::runtime::Runtime;

use crate::engine::{address, config, entry, prefix, store};
use crate::shared::{key_of, split_at, write_state};

const SHARD: ShardId = ShardId(1);

#[test]
fn the_contract_is_kept() {
    all(&store());
}

#[test]
fn other_seeds_match_the_reference_too() {
    for seed in 100..103 {
        matches_the_reference(&store(), seed, 120);
    }
}

#[test]
fn a_busy_room_is_read_in_pages_from_both_ends() {
    busy_room(&store());
}

#[test]
fn a_room_that_lies_in_several_parts_of_the_cluster_is_read_as_one() {
    // The generation is chosen here, so that the room's keys are known.
    let generation = 1_u64;
    let entries = |offset: u64| {
        let mut rest = b"demo\x00\x01".to_vec();
        rest.extend(SHARD.0.to_be_bytes());
        rest.extend(generation.to_be_bytes());
        rest.extend(b"busy\x00\x01");
        rest.extend(offset.to_be_bytes());
        key_of("split", b'e', &rest)
    };
    let first_keys = [
        key_of("split", b'e', b""),
        entries(70),
        entries(200),
        entries(201),
        key_of("split", b'i', b""),
    ];
    let split = split_at(&first_keys);
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let options = ["--split", split.as_str()];
    let started = Engine::start(Kind::Tikv, directory.path(), &options);
    let engine = runtime.block_on(started).unwrap();
    let address = engine.address().to_owned();
    let config = config(&address, "split", "&gc=off");
    let store = TikvRooms::open(config, "eu", &Metrics::bare()).unwrap();
    let mut state = vec![1];
    for number in [generation, 0, 0, 1] {
        state.extend(number.to_be_bytes());
    }
    write_state(address, "split", SHARD, state);
    busy_room(&store);
    store.clear(SHARD).unwrap();
    all(&store);
}

/// Fills a room and reads it in many ways.
fn busy_room(store: &dyn RoomStore) {
    let reference = MemoryRooms::new();
    let mut random = Random::new(5);
    // Runs of one entry each, as a slow room makes them, and long ones; holes in between.
    let (mut offset, mut at) = (0, 0);
    for _ in 0..60 {
        let count = random.below(3) * random.below(120) + 1;
        offset += u64::from(random.below(20) == 0) * 500;
        let entries: Vec<RoomEntry> = (0..count)
            .map(|n| entry("busy", offset + n, at + 2 * n))
            .collect();
        offset += count;
        let to = at + 2 * count;
        store.put(SHARD, &entries, at, to).unwrap();
        reference.put(SHARD, &entries, at, to).unwrap();
        at = to;
    }
    let busy = room("demo", "busy");
    for limit in [1, 2, 15, 16, 17, 511, 512, 513, 10_000] {
        for from in [0, 1, 63, 64, 65, offset / 2, offset - 1, offset, u64::MAX] {
            assert_eq!(
                store.forward(SHARD, &busy, from, limit).unwrap(),
                reference.forward(SHARD, &busy, from, limit).unwrap(),
                "from {from}, at most {limit}"
            );
            assert_eq!(
                store.reverse(SHARD, &busy, from, limit).unwrap(),
                reference.reverse(SHARD, &busy, from, limit).unwrap(),
                "back from {from}, at most {limit}"
            );
        }
    }
    for below in [1, 65, offset / 2, offset] {
        store.delete_below(SHARD, &busy, below).unwrap();
        reference.delete_below(SHARD, &busy, below).unwrap();
        assert_eq!(
            store.forward(SHARD, &busy, 0, 50_000).unwrap(),
            reference.forward(SHARD, &busy, 0, 50_000).unwrap(),
            "below {below}"
        );
    }
}

#[test]
fn more_entries_than_one_transaction_takes_are_all_there() {
    let store = store();
    // Each in a room of its own: the most keys.
    let entries: Vec<RoomEntry> = (0..9000)
        .map(|n| entry(&format!("room:{n}"), 1, 10 + n))
        .collect();
    store.put(SHARD, &[], 0, 10).unwrap();
    store.put(SHARD, &entries, 10, 9010).unwrap();
    assert_eq!(store.applied(SHARD).unwrap(), 9010);
    for n in [0, 4095, 4096, 8191, 8192, 8999] {
        let room = room("demo", &format!("room:{n}"));
        assert_eq!(store.forward(SHARD, &room, 0, 9).unwrap(), [(1, 10 + n)]);
    }
}

#[test]
fn regions_of_one_cluster_do_not_see_each_other() {
    let prefix = prefix();
    let open = |region: &str, prefix: &str| {
        let config = config(&address(), prefix, "&gc=off");
        TikvRooms::open(config, region, &Metrics::bare()).unwrap()
    };
    let (eu, eu_west) = (open("eu", &prefix), open("eu-west", &prefix));
    let other = open("eu", &format!("{prefix}x"));
    eu.put(SHARD, &[entry("a", 1, 0)], 0, 1).unwrap();
    for store in [&eu_west, &other] {
        assert_eq!(store.applied(SHARD).unwrap(), 0);
        assert_eq!(store.forward(SHARD, &room("demo", "a"), 0, 9).unwrap(), []);
        store.clear(SHARD).unwrap();
    }
    assert_eq!(eu.applied(SHARD).unwrap(), 1);
    // Another node of the same region sees it.
    let node = open("eu", &prefix);
    let found = node.forward(SHARD, &room("demo", "a"), 0, 9).unwrap();
    assert_eq!(found, [(1, 0)]);
}

#[test]
fn a_state_that_a_newer_program_wrote_is_refused_by_name() {
    let prefix = prefix();
    let config = config(&address(), &prefix, "&gc=off");
    let store = TikvRooms::open(config, "eu", &Metrics::bare()).unwrap();
    write_state(address(), &prefix, SHARD, vec![9; 33]);
    let error = store.applied(SHARD).unwrap_err();
    assert!(
        matches!(error, StoreError::Format { found: 9, .. }),
        "{error}"
    );
}

#[test]
fn a_check_finds_a_working_cluster_good() {
    let checks = check(&config(&address(), &prefix(), ""), "eu");
    assert!(checks.iter().all(|check| check.is_good()), "{checks:?}");
    assert_eq!(checks.len(), 3, "{checks:?}");
}
