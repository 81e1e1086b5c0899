//! Nodes that are cut off from the log or from each other's records alone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Renew};

use crate::nodes::{NODES, Running, SHARDS, World, room};

fn owned_by(world: &World, name: &str) -> Vec<u32> {
    let is_its = |shard: &u32| world.owner(*shard).as_deref() == Some(name);
    (0..SHARDS).filter(is_its).collect()
}

fn three(world: &World) -> [Running; 3] {
    let nodes = NODES.map(|name| world.start(name));
    world.settle(&[("r1", &nodes[0]), ("r2", &nodes[1]), ("r3", &nodes[2])]);
    nodes
}

#[test]
fn a_node_that_loses_the_log_alone_gives_on_what_nobody_writes_to_and_gets_it_back() {
    let world = World::new();
    let [r1, r2, _r3] = three(&world);
    assert!(!owned_by(&world, "r1").is_empty());
    r1.log_cut.store(true, Ordering::SeqCst);
    world.wait("others own everything", || {
        owned_by(&world, "r1").is_empty()
    });
    assert_eq!(r2.metric("gb6_region_nodes"), 3.0, "r1 is heard");
    world.wait("it says so", || {
        r2.metric("gb6_region_nodes_cut_off") == 1.0
    });
    for shard in 0..SHARDS {
        let mut edge = world.edge(&format!("e{shard}"), shard);
        assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
        assert_ne!(edge.at, "r1");
    }
    world.clock.pass(Duration::from_secs(4), || world.beats());
    assert_eq!(owned_by(&world, "r1"), [0u32; 0], "it is given nothing");
    r1.log_cut.store(false, Ordering::SeqCst);
    // Which it could not serve it is not given for half a minute, and these may be all that it could have.
    world.wait_for(
        Duration::from_secs(90),
        "it is tried again, and has a share",
        || !owned_by(&world, "r1").is_empty(),
    );
}

#[test]
fn a_standby_that_has_lost_the_log_does_not_take_over() {
    let world = World::new();
    let mut nodes = three(&world).map(Some);
    let (record, _) = world.record(0).expect("a record");
    let at = |name: &str| NODES.iter().position(|n| *n == name).expect("a node");
    let owner = at(record.node.expect("an owner").as_str());
    let standby = at(record.standby.expect("a standby").as_str());
    let third = 3 - owner - standby;
    let running = |n: usize| nodes[n].as_ref().expect("it runs");
    running(standby).log_cut.store(true, Ordering::SeqCst);
    world.wait("it says so", || {
        running(third).metric("gb6_region_nodes_cut_off") == 1.0
    });
    assert_eq!(world.owner(0).as_deref(), Some(NODES[owner]));
    nodes[owner].take().expect("it runs").die();
    world.wait("another owns it", || {
        world.owner(0).is_some_and(|name| name != NODES[owner])
    });
    assert_eq!(world.owner(0).as_deref(), Some(NODES[third]));
}

#[test]
fn while_the_records_are_lost_an_idle_shard_proves_its_owner_once_in_half_a_lease() {
    let world = World::new();
    let nodes = three(&world);
    let confirms = || -> f64 {
        let of = |node: &Running| node.metric("gb6_region_confirms_total");
        nodes.iter().map(of).sum()
    };
    let mut edge = world.edge("e1", 0);
    assert_eq!(world.runtime.block_on(edge.publish()).1, 1);
    for node in &nodes {
        node.map_cut.store(true, Ordering::SeqCst);
    }
    // Longer than a lease, in which all have tried to reach the records.
    let failed = "gb6_assignment_store_errors_total";
    let failures = || nodes.each_ref().map(|node| node.metric(failed) as u64);
    world.clock.pass(Duration::from_secs(2), failures);
    let before = confirms();
    let (began, lasts) = (Instant::now(), Duration::from_secs(3));
    let attached = edge.attached.as_mut().expect("it is attached");
    let mut renewals = 0;
    while began.elapsed() < lasts {
        renewals += 1;
        let renew = Renew { sequence: renewals };
        attached.send(OwnerFrame::Renew(renew));
        let answer = world.runtime.block_on(attached.next());
        assert_eq!(answer, Some(EdgeFrame::Renewed(renew)));
        std::thread::sleep(Duration::from_millis(20));
    }
    let proofs = confirms() - before;
    let most = began.elapsed().as_secs_f64() / 0.75 + 1.0;
    assert!(renewals > 20, "{renewals}");
    assert!(
        (1.0..=most).contains(&proofs),
        "{proofs} for {renewals} renewals"
    );
    // What asks for the shard's state is proved each time.
    for asked in 1..=3 {
        attached.send(OwnerFrame::Interest(room(0)));
        let answer = world.runtime.block_on(attached.next());
        assert!(
            matches!(answer, Some(EdgeFrame::Interested(_))),
            "{answer:?}"
        );
        assert!(confirms() - before >= proofs + f64::from(asked));
    }
}
