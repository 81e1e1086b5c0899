//! Who owns what, and how it goes from one to another: starts, deaths, drains, moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gb6_core_mesh::QueueLimits;
use gb6_core_model::Role;
use gb6_core_ports::{Expect, MapStore, ShardLog};
use gb6_core_wire::mesh::{OwnersNow, OwnersOpen, Purpose, StreamOpen};
use gb6_region_assign::{moved, shard_key};
use gb6_region_node::{Region, RegionEnd};

use super::{NODES, SHARDS, World};
use crate::edge::PATIENCE;

#[test]
fn nodes_share_the_shards_and_tell_edges_who_owns_them() {
    let world = World::new();
    let nodes = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &nodes[0]), ("r2", &nodes[1]), ("r3", &nodes[2])]);
    for node in &nodes {
        world.wait("the node is ready", || node.health.now().is_ready());
        assert!(node.metric("gb6_region_shards_owned") <= 2.0);
    }
    world.runtime.block_on(async {
        for shard in 0..SHARDS {
            let mut edge = world.edge(&format!("e{shard}"), shard);
            edge.at = NODES[(shard as usize + 1) % 3].to_owned();
            assert_eq!(edge.publish().await.1, 1);
            assert!(edge.refusals <= 1, "whoever does not own it says who does");
            assert_eq!(Some(edge.at.clone()), world.owner(shard));
        }
        let endpoint = world.bind("e9", Role::Edge);
        let link = endpoint.dial(&"r2".into(), None).await.expect("a link");
        let region = "eu".to_owned();
        let purpose = Some(Purpose::Owners(OwnersOpen { region }));
        let stream = link.open(StreamOpen { purpose }).await.expect("a stream");
        let (_says, mut hears) = stream.split::<OwnersOpen, OwnersNow>(QueueLimits::default());
        let now = hears.recv().await.expect("owners").expect("owners");
        for shard in now.shards {
            assert_eq!(Some(shard.node), world.owner(shard.shard));
        }
    });
}

#[test]
fn the_shards_of_a_node_that_dies_are_served_by_others_within_three_seconds() {
    // A machine that stands still for a moment does not do so three times.
    let in_time = (0..3).any(|_| take_over() < Duration::from_secs(3));
    assert!(in_time, "each of three took longer");
}

/// How long a publish takes whose node has died.
fn take_over() -> Duration {
    let world = World::new();
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let shard = (0..SHARDS)
        .find(|s| world.owner(*s).as_deref() == Some("r2"))
        .expect("r2 owns a shard");
    let standby = world.record(shard).expect("a record").0.standby;
    let mut edge = world.edge("e1", shard);
    for n in 1..=50 {
        assert_eq!(world.runtime.block_on(edge.publish()).1, n);
    }
    r2.die();
    let (took, offset) = world.runtime.block_on(edge.publish());
    assert_eq!(offset, 51, "nothing is lost, nothing twice");
    println!("taken over after {took:?}");
    assert_eq!(world.owner(shard), standby.map(|s| s.as_str().to_owned()));
    let taker = if edge.at == "r1" { &r1 } else { &r3 };
    assert!(
        taker.metric("gb6_replayed_records") < 50.0,
        "the standby had read it"
    );
    assert_eq!(world.runtime.block_on(edge.history()).len(), 51);
    took
}

#[test]
fn a_node_that_drains_under_load_costs_no_error_and_a_moment() {
    let world = World::new();
    let [r1, mut r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let stop = Arc::new(AtomicBool::new(false));
    let owned: Vec<u32> = (0..SHARDS)
        .filter(|shard| world.owner(*shard).as_deref() == Some("r2"))
        .collect();
    let published: Vec<Arc<AtomicU64>> = owned.iter().map(|_| Arc::default()).collect();
    let edges: Vec<_> = owned
        .iter()
        .zip(&published)
        .map(|(shard, published)| {
            let mut edge = world.edge(&format!("e{shard}"), *shard);
            let (stop, published) = (stop.clone(), published.clone());
            world.runtime.spawn(async move {
                let (mut longest, mut expected) = (Duration::ZERO, 0);
                edge.attach().await;
                while !stop.load(Ordering::SeqCst) {
                    let (took, offset) = edge.publish().await;
                    expected += 1;
                    assert_eq!(offset, expected, "in order, each once");
                    longest = longest.max(took);
                    published.store(expected, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
                (longest, edge)
            })
        })
        .collect();
    // All of them are in the middle of it when the drain begins, and go on behind it.
    let goes_on = |what: &str, more: u64| {
        let now: Vec<u64> = published.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        world.wait(what, || {
            let mut counts = published.iter().zip(&now);
            counts.all(|(count, before)| count.load(Ordering::SeqCst) >= before + more)
        });
    };
    goes_on("they publish", 20);
    let region = r2.region.take().expect("it runs");
    let began = Instant::now();
    let runtime = r2.runtime.as_ref().expect("it runs");
    runtime.block_on(region.drain());
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "all was handed over"
    );
    assert!((0..SHARDS).all(|s| world.owner(s).is_some_and(|owner| owner != "r2")));
    let key = gb6_region_assign::node_key("eu", &"r2".into());
    assert_eq!(world.map.get(&key), Ok(None), "it has taken its leave");
    goes_on("they publish behind the drain", 20);
    stop.store(true, Ordering::SeqCst);
    for edge in edges {
        let (longest, edge) = world.runtime.block_on(edge).expect("a publisher");
        assert_eq!(edge.errors, 0);
        // A hand-over takes some tens of ms; this machine may be busy.
        assert!(longest < Duration::from_millis(1_500), "{longest:?}");
    }
}

#[test]
fn a_shard_is_moved_by_hand_to_its_standby_which_reads_what_it_has_not_seen() {
    let mut world = World::new();
    // So rarely that something is left to read.
    world.standby_look = Duration::from_millis(250);
    let [r1, r2, r3] = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &r1), ("r2", &r2), ("r3", &r3)]);
    let mut edge = world.edge("e1", 0);
    let (until, mut written) = (Instant::now() + Duration::from_secs(1), 0);
    while Instant::now() < until {
        written += 1;
        assert_eq!(world.runtime.block_on(edge.publish()).1, written);
    }
    let (record, revision) = world.record(0).expect("a record");
    let to = record.standby.clone().expect("a standby");
    let position = NODES.iter().position(|n| *n == to.as_str());
    let taker = [&r1, &r2, &r3][position.expect("a node")];
    // It has seen those, and not all of some more.
    let end = world.logs[&0].open().range().expect("a range").next;
    world.wait("its standby has read them", || {
        taker.metric_of("gb6_standby_position{shard=\"0\"}") >= end as f64
    });
    for _ in 0..written / 4 {
        written += 1;
        assert_eq!(world.runtime.block_on(edge.publish()).1, written);
    }
    let record = moved(&record, &to).expect("it can be moved");
    let expect = Expect::Revision(revision);
    let put = world.map.put(&shard_key("eu", 0), &record.encode(), expect);
    assert!(put.is_ok(), "{put:?}");
    world.wait("it is there", || {
        world.owner(0).as_deref() == Some(to.as_str())
    });
    assert_eq!(world.runtime.block_on(edge.publish()).1, written + 1);
    assert_eq!(edge.at, to.as_str());
    let replayed = taker.metric_of("gb6_replayed_records{shard=\"0\"}");
    assert!(
        replayed < written as f64 * 0.7,
        "{replayed} of {written} records, of which it had seen most"
    );
    // It knows the ids of all, also of the first that it read itself.
    let first = written.saturating_sub(replayed as u64 + 10).max(1);
    for id in first..=written {
        let (_, offset) = world.runtime.block_on(edge.publish_as(id));
        assert_eq!(offset, id, "the id is known");
    }
}

#[test]
fn of_two_processes_of_one_name_the_newer_one_serves() {
    let world = World::new();
    let older = world.start("r1");
    world.wait("it serves", || {
        older.metric("gb6_shard_serving") == f64::from(SHARDS)
    });
    let mut end = older
        .region
        .as_ref()
        .and_then(Region::end)
        .expect("it takes part");
    // Under another name in the mesh, where two of one name can not be.
    let mut other = World::new();
    other.map = world.map.clone();
    other.logs = world.logs.clone();
    other.rooms = world.rooms.clone();
    let newer = other.start("r1");
    let ended = world.runtime.block_on(async {
        let ended = tokio::time::timeout(PATIENCE, end.wait_for(Option::is_some)).await;
        *ended.expect("it ends").expect("it ends")
    });
    assert_eq!(ended, Some(RegionEnd::Replaced));
    assert!(!older.health.now().is_live(), "only a restart mends it");
    other.wait("the newer one serves", || {
        newer.metric("gb6_shard_serving") == f64::from(SHARDS)
    });
    assert_eq!(older.metric("gb6_shard_serving"), 0.0);
}

#[test]
fn a_region_that_decides_itself_needs_records_to_agree_by() {
    let world = World::new();
    let refused = world.try_start("r1", false);
    let error = refused.err().expect("it is refused").to_string();
    assert!(
        error.contains("region eu") && error.contains("[stores]"),
        "{error}"
    );
}
