//! What is left of cleared indexes is removed in the background, and versions are collected.

use std::thread;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::rooms::room;
use gb6_core_ports::{RoomEntry, RoomStore};
use gb6_region_stores_tikv::TikvRooms;

use crate::engine::{address, config, entry, prefix};
use crate::shared::{all_keys, write_state};

const SHARD: ShardId = ShardId(3);

fn until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_cleared_index_leaves_nothing_behind_and_spares_its_neighbours() {
    let prefix = prefix();
    let metrics = Metrics::bare();
    let config = config(&address(), &prefix, "&gc=off");
    let store = TikvRooms::open(config, "eu", &metrics).unwrap();
    // Of two instances whose names begin alike; more keys than one step removes.
    let mut entries: Vec<RoomEntry> = (0..1500)
        .map(|n| entry(&format!("room:{n}"), 1, n))
        .collect();
    entries.extend((1500..1600).map(|n| RoomEntry {
        room: room("demo-2", &format!("room:{n}")),
        offset: 1,
        position: n,
    }));
    store.put(SHARD, &entries, 0, 1600).unwrap();
    store
        .put(ShardId(4), &[entry("room:1", 1, 0)], 0, 1)
        .unwrap();
    assert_eq!(all_keys(&prefix).len(), 1600 + 1 + 2 + 3);
    store.clear(SHARD).unwrap();
    store.put(SHARD, &[entry("room:1", 1, 7)], 0, 1600).unwrap();
    // Two states, two entries, and the marks of their instances.
    until("the old generation is gone", || {
        all_keys(&prefix).len() == 6
    });
    let one = room("demo", "room:1");
    assert_eq!(store.forward(SHARD, &one, 0, 9).unwrap(), [(1, 7)]);
    assert_eq!(store.forward(ShardId(4), &one, 0, 9).unwrap(), [(1, 0)]);
    // Counted behind the last of them.
    until("they are counted", || {
        let text = metrics.text();
        text.contains("gb6_tikv_swept_keys_total 1602")
    });
}

/// A newer program has served it meanwhile.
#[test]
fn a_shard_that_can_not_be_read_keeps_no_other_from_being_swept() {
    let prefix = prefix();
    let metrics = Metrics::bare();
    let config = config(&address(), &prefix, "&gc=off");
    let store = TikvRooms::open(config, "eu", &metrics).unwrap();
    for shard in [2, 3, 4] {
        let one = [entry("room:1", 1, 0)];
        store.put(ShardId(shard), &one, 0, 1).unwrap();
    }
    for shard in [2, 4] {
        write_state(address(), &prefix, ShardId(shard), vec![9; 25]);
    }
    store.clear(SHARD).unwrap();
    // The entry, and the mark of its instance.
    until("the old generation is gone", || {
        metrics.text().contains("gb6_tikv_swept_keys_total 2")
    });
}

#[test]
fn versions_are_collected_once_for_all_nodes() {
    let prefix = prefix();
    let nodes: Vec<(TikvRooms, Metrics)> = (0..2)
        .map(|_| {
            let metrics = Metrics::bare();
            let config = config(&address(), &prefix, "&gc=1h");
            let store = TikvRooms::open(config, "eu", &metrics).unwrap();
            (store, metrics)
        })
        .collect();
    let collected = |metrics: &Metrics| {
        metrics
            .text()
            .contains("gb6_tikv_step_seconds_count{step=\"collect\"} 1")
    };
    let asked = |metrics: &Metrics| metrics.text().contains("step=\"turn\"");
    for (store, metrics) in &nodes {
        // It wakes the sweeper.
        store
            .put(SHARD, &[], store.applied(SHARD).unwrap(), 9)
            .unwrap();
        store.clear(SHARD).unwrap();
        until("its turn was looked at", || asked(metrics));
    }
    let (_, first) = &nodes[0];
    until("versions were collected", || collected(first));
    assert!(!collected(&nodes[1].1));
}
