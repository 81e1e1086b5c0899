//! Nodes that lose the records, the log, or both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gb6_core_ports::memory::MemoryMap;
use gb6_core_ports::{Expect, MapStore};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame};
use gb6_region_assign::{ShardRecord, shard_key};

use super::{NODES, Running, SHARDS, World, room};
use crate::edge::PATIENCE;

/// What nobody does in so long a time, nobody is about to do: a lease of 1.5 s, and the turns of all who
/// may claim a shard, 0.3 s each.
const A_WHILE: Duration = Duration::from_millis(2_700);
/// After so long a log that does not answer is taken for lost.
const LOG_LOST: Duration = Duration::from_secs(3);

#[test]
fn losing_the_records_stops_moves_and_no_traffic() {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    let nodes = [&r1, &r2, &r3];
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let mut edge = world.edge("e1", 0);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    let owners: Vec<_> = (0..SHARDS).map(|s| world.owner(s)).collect();
    nodes
        .iter()
        .for_each(|n| n.map_cut.store(true, Ordering::SeqCst));
    let until = world.clock.now() + A_WHILE;
    let (mut offset, mut late) = (1, 0);
    while world.clock.now() < until {
        // All of them have tried to reach the records in that time.
        let failed = "gb6_assignment_store_errors_total";
        world.clock.step(|| nodes.map(|n| n.metric(failed) as u64));
        offset += 1;
        let (took, at) = world.runtime.block_on(edge.publish());
        assert_eq!(at, offset);
        // A machine that stands still for a moment makes one of them late; who waits for the records is late each time.
        late += u32::from(took >= Duration::from_secs(1));
        assert!(late <= 1, "{took:?}");
    }
    assert_eq!(edge.refusals, 0);
    let data = world.runtime.block_on(edge.history());
    assert_eq!(data.len(), offset as usize);
    let confirms: f64 = nodes
        .iter()
        .map(|n| n.metric("gb6_region_confirms_total"))
        .sum();
    assert!(confirms > 0.0, "the log was asked instead");
    nodes
        .iter()
        .for_each(|n| n.map_cut.store(false, Ordering::SeqCst));
    world.clock.pass(A_WHILE, || world.beats());
    let now: Vec<_> = (0..SHARDS).map(|s| world.owner(s)).collect();
    assert_eq!(now, owners, "nothing has moved");
    assert_eq!(world.runtime.block_on(edge.publish()).1, offset + 1);
}

#[test]
fn a_node_that_is_cut_off_from_records_and_log_serves_nothing_to_anybody() {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let shard = (0..SHARDS)
        .find(|s| world.owner(*s).as_deref() == Some("r1"))
        .expect("r1 owns a shard");
    let mut stays = world.edge("e1", shard);
    stays.at = "r1".to_owned();
    assert_eq!(world.runtime.block_on(stays.publish()).1, 1);
    r1.map_cut.store(true, Ordering::SeqCst);
    r1.log_cut.store(true, Ordering::SeqCst);
    world.wait("another owns it", || {
        world.owner(shard).is_some_and(|owner| owner != "r1")
    });
    let mut goes = world.edge("e2", shard);
    goes.at = world.owner(shard).expect("an owner");
    assert_eq!(world.runtime.block_on(goes.publish()).1, 2);
    // It finds an index that is ahead of all that it has seen, and leaves it to its owner.
    let clears = || world.rooms.clears.load(Ordering::SeqCst);
    world.wait("it has looked at the index", || {
        clears() > 0 || r1.metric("gb6_index_errors_total") > 0.0
    });
    assert_eq!(clears(), 0, "the index is its owner's");
    // It asks a room of the node that is cut off, which must not say that the room ends at 1.
    let attached = stays.attached.as_mut().expect("it is attached");
    attached.send(OwnerFrame::Interest(room(shard)));
    let answer = world.runtime.block_on(attached.next());
    assert!(
        matches!(&answer, None | Some(EdgeFrame::Refused(_))),
        "{answer:?}"
    );
    // It can say so because it asks the log; once it reaches that again it knows who is the owner.
    r1.map_cut.store(false, Ordering::SeqCst);
    r1.log_cut.store(false, Ordering::SeqCst);
    stays.attached = None;
    assert_eq!(world.runtime.block_on(stays.history()).len(), 2);
}

#[test]
fn a_connection_to_the_records_that_hangs_for_longer_than_a_lease_costs_no_shard() {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let epochs = || (0..SHARDS).map(|s| world.record(s).map(|(record, _)| record.epoch));
    let before: Vec<_> = epochs().collect();
    let again = || r1.metric("gb6_assignment_beats_again_total");
    for round in 1..=2 {
        r1.map_hangs.store(true, Ordering::SeqCst);
        world.wait("it hangs", || !r1.map_hangs.load(Ordering::SeqCst));
        // By the system's clock, which is not set forward.
        world.wait("it is made again", || again() >= f64::from(round));
        // It goes on hanging, and beside it every node is heard in time.
        world.clock.pass(A_WHILE, || world.beats());
        assert_eq!(r2.metric("gb6_region_nodes"), 3.0);
    }
    // One more on a machine that stood still.
    assert!((2.0..=3.0).contains(&again()), "{}", again());
    r1.map_gives_up.store(true, Ordering::SeqCst);
    world.clock.pass(A_WHILE, || world.beats());
    assert!(epochs().eq(before), "nothing has moved");
}

#[test]
fn records_that_went_back_are_written_again_and_cost_no_traffic() {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let mut edge = world.edge("e1", 0);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    let refusals = edge.refusals;
    // Of a time in which r1 had everything in another life.
    let copy = MemoryMap::default();
    for shard in 0..SHARDS {
        let record = ShardRecord {
            node: Some("r1".into()),
            incarnation: 99,
            epoch: 1,
            ..ShardRecord::unowned()
        };
        let put = copy.put(&shard_key("eu", shard), &record.encode(), Expect::Absent);
        assert_eq!(put, Ok(u64::from(shard) + 1));
    }
    let owners: Vec<_> = (0..SHARDS).map(|s| world.owner(s)).collect();
    world
        .restored
        .set(copy)
        .expect("it was not restored before");
    assert_eq!(world.runtime.block_on(edge.publish()).1, 2);
    world.wait("they say again who owns what", || {
        owners == (0..SHARDS).map(|s| world.owner(s)).collect::<Vec<_>>()
    });
    assert_eq!(world.runtime.block_on(edge.publish()).1, 3);
    assert_eq!(edge.refusals, refusals, "nothing has moved");
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    // Nobody relies on what was: who dies is replaced.
    let shard = (0..SHARDS).find(|s| world.owner(*s).as_deref() == Some("r2"));
    let shard = shard.expect("r2 owns a shard");
    r2.die();
    world.wait("another owns it", || {
        world.owner(shard).is_some_and(|owner| owner != "r2")
    });
}

#[test]
fn a_node_that_loses_the_log_alone_gives_its_shards_to_standbys_that_reach_it() {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let shard = (0..SHARDS).find(|s| world.owner(*s).as_deref() == Some("r1"));
    let shard = shard.expect("r1 owns a shard");
    let mut edge = world.edge("e1", shard);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    r1.log_cut.store(true, Ordering::SeqCst);
    let began = world.clock.now();
    let waits = world.runtime.spawn(async move {
        let (_, offset) = edge.publish_as(7).await;
        (edge, offset)
    });
    let stays = || world.owner(shard).is_none_or(|owner| owner == "r1");
    while stays() {
        world.clock.step(|| world.beats());
    }
    let took = world.clock.now() - began;
    assert!(took < 2 * LOG_LOST, "{took:?}");
    // It is in the log once: the errors that it meets say that nothing was written.
    let (edge, offset) = world.runtime.block_on(waits).expect("a publisher");
    assert_eq!(offset, 2);
    assert_ne!(edge.at, "r1");
    world.clock.pass(A_WHILE, || world.beats());
    assert!(!stays(), "it stays with another");
    assert_eq!(
        r1.metric("gb6_region_nodes"),
        3.0,
        "r1 is heard all the time"
    );
}

#[test]
fn losing_the_log_everywhere_moves_nothing() {
    let world = World::new();
    let nodes = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &nodes[0]), ("r2", &nodes[1]), ("r3", &nodes[2])]);
    let owners: Vec<_> = (0..SHARDS).map(|s| world.owner(s)).collect();
    let cut = |is| {
        nodes
            .iter()
            .for_each(|n| n.log_cut.store(is, Ordering::SeqCst))
    };
    let mut edge = world.edge("e1", 0);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    cut(true);
    let mut waits = world.edge("e2", 0);
    let late = world.runtime.spawn(async move { waits.publish().await });
    // Standbys say so before any owner gives its shards on.
    world.clock.pass(LOG_LOST * 2 / 3, || world.beats());
    world.wait("no standby keeps up", || {
        let caught_up = |n: &Running| n.metric("gb6_standby_caught_up");
        nodes.iter().map(caught_up).sum::<f64>() == 0.0
    });
    world.clock.pass(LOG_LOST * 2, || world.beats());
    let now: Vec<_> = (0..SHARDS).map(|s| world.owner(s)).collect();
    assert_eq!(now, owners, "nobody reaches it");
    cut(false);
    let (_, offset) = world.runtime.block_on(late).expect("a publisher");
    assert_eq!(offset, 2);
}

#[test]
fn a_shard_that_is_lost_is_served_again_whatever_its_index_still_waits_for() {
    let world = World::new();
    // There is nobody else to serve it.
    let r1 = world.start("r1");
    world.wait("all is served", || {
        r1.metric("gb6_shard_serving") == f64::from(SHARDS)
    });
    let mut edge = world.edge("e1", 0);
    // The index is written to, and does not answer.
    world.rooms.hold(true);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    r1.loses.store(true, Ordering::SeqCst);
    // It was not written.
    let offset = world.runtime.block_on(async {
        let published = tokio::time::timeout(PATIENCE, edge.publish()).await;
        published
            .expect("it is served before the index has answered")
            .1
    });
    assert_eq!(offset, 2);
    assert!(!r1.loses.load(Ordering::SeqCst), "it was lost");
    world.rooms.hold(false);
}
